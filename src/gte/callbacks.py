"""What a run shows and keeps: progress, speed, checkpoints."""

import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar

from gte.data.collate import Batch
from gte.errors import UserError


class Speed(Callback):
    """Logs train/pairs_per_s and train/tokens_per_s over all ranks, loading included, and counts both."""

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs, batch: Batch, index) -> None:
        now = time.perf_counter()
        rate = trainer.world_size / (now - self.last)
        self.last = now
        task.log("train/pairs_per_s", batch.pairs * rate, prog_bar=True)
        task.log("train/tokens_per_s", float(batch.lengths_R.sum()) * rate)


class Progress(TQDMProgressBar):
    """One line a run: steps done, time left, loss, pairs/s. In a log file a line now and then instead of a bar."""

    def get_metrics(self, trainer: pl.Trainer, task: pl.LightningModule) -> dict:
        shown = trainer.progress_bar_metrics
        names = {"train/loss": "loss", "train/pairs_per_s": "pairs/s"}
        return {label: f"{shown[key]:.3g}" for key, label in names.items() if key in shown}

    def init_train_tqdm(self):
        bar = super().init_train_tqdm()
        bar.bar_format = "{desc}{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        return bar


class KeepInitial(Callback):
    """Keeps the weights before the first step as checkpoints/step-0000000.ckpt."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            trainer.save_checkpoint(self.folder / "step-0000000.ckpt", weights_only=True)


def run_callbacks(folder: Path, *, every: int, keep_initial: bool) -> list[Callback]:
    """Callbacks of a run: checkpoints/step-<n>.ckpt every `every` steps, checkpoints/last.ckpt then and at the end."""
    checkpoints = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="step-{step:07d}", auto_insert_metric_name=False,
        every_n_train_steps=every, save_top_k=-1, save_last=True,
    )
    kept = [KeepInitial(folder / "checkpoints")] if keep_initial else []
    return [Speed(), Progress(refresh_rate=10), checkpoints, *kept]


def find_resume(out: Path, resume: str | None) -> Path | None:
    """The checkpoint that training goes on from. Raises UserError where a new run would mix with a finished one."""
    last = out / "checkpoints" / "last.ckpt"
    if resume is None:
        if last.exists():
            raise UserError(f"{out} already holds a run; go on with resume=auto, or name another out=")
        return None
    if resume == "auto":
        return last if last.exists() else None
    if not Path(resume).exists():
        raise UserError(f"resume={resume} does not exist; name a run's .ckpt, or resume=auto with the run's out=")
    return Path(resume)
