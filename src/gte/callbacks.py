"""What a run shows and keeps: progress, speed, checkpoints."""

import csv
import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from gte.checkpoint import Checkpoints, damage, newest_whole
from gte.data.collate import Batch
from gte.data.module import steps_done
from gte.errors import UserError
from gte.gather import current_ranks
from gte.memory import peak_memory


class Metrics(Callback):
    """One row of metrics a step in every logger, at the step's own number: loss, rate, gradient norm, padding, speed.

    Speed is over all ranks, loading included. After a resume, metrics.csv keeps the rows of the steps before it.
    train/batch is equal in two runs where they took the same rows.
    """

    def __init__(self, folder: Path):
        file = folder / "metrics.csv"  # read now: the CSVLogger deletes it before any hook is called
        text = file.read_text() if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last row
        self.earlier = list(csv.DictReader(whole.splitlines()))

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):  # which begins its file anew
                for row in self.earlier:
                    if int(row["step"]) < steps_done(trainer):
                        values = {key: float(value) for key, value in row.items() if value and key != "step"}
                        logger.log_metrics(values, step=int(row["step"]))
                logger.save()
        self.last = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Takes seconds that were spent on something else than training out of the speed of the next step."""
        self.last += seconds

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs, batch: Batch, index) -> None:
        now = time.perf_counter()
        rate = trainer.world_size / (now - self.last)
        self.last = now
        source = task.sources[batch.source]
        task.step_metrics |= {
            "train/pairs_per_s": batch.pairs * rate,
            "train/tokens_per_s": int(batch.lengths_R.sum()) * rate,
            "train/peak_memory_mb": peak_memory(task.device.type) / 2**20,
            f"train/epochs/{source}": trainer.datamodule.epochs(batch.step + 1)[source],
            "train/batch": batch.checksum,
        }
        if batch.step % trainer.log_every_n_steps == 0:
            values = {key: float(value) for key, value in task.step_metrics.items()}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=batch.step)

    def on_save_checkpoint(self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict) -> None:
        for logger in trainer.loggers:  # a run that goes on from here finds the rows of all steps before
            logger.save()


class Progress(TQDMProgressBar):
    """One line a run: steps done, time left, loss, pairs/s."""

    def get_metrics(self, trainer: pl.Trainer, task: pl.LightningModule) -> dict:
        names = {"train/loss": "loss", "train/pairs_per_s": "pairs/s"}
        return {
            label: f"{float(task.step_metrics[key]):.3g}" for key, label in names.items() if key in task.step_metrics
        }

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


class StopOnSignal(Callback):
    """Ends training after the step under way, on all ranks, once one of them got SIGUSR1, SIGTERM or Ctrl-C.

    A second Ctrl-C stops at once. Lightning's own handlers would save at once, amid whatever a step was doing, and
    wait there for ranks that wait for this one in the step.
    """

    signalled = False

    def setup(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        self.process = os.getpid()
        signal.signal(signal.SIGUSR1, self.note)

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):  # not before: Lightning would call its own handler as well
            signal.signal(number, self.note)

    def note(self, number: int, frame) -> None:
        if os.getpid() != self.process:  # a data worker, which inherits this and must end when it is told to
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.signalled = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def teardown(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs, batch: Batch, index) -> None:
        ranks = current_ranks()
        if ranks is None:
            trainer.should_stop = self.signalled
        else:
            trainer.should_stop = bool(ranks.all_gather(torch.tensor([self.signalled], device=task.device)).any())


class KeepLast(Callback):
    """Keeps the state that training ends with as checkpoints/last.ckpt: ModelCheckpoint only saves at intervals."""

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs, batch: Batch, index) -> None:
        if (trainer.should_stop or batch.step + 1 == task.total_steps) and (batch.step + 1) % self.every:
            trainer.save_checkpoint(self.folder / "last.ckpt")


def run_callbacks(
    folder: Path, *, every: int, keep_initial: bool, keep_last: int | None = None, keep_every: int | None = None
) -> list[Callback]:
    """Callbacks of a run: checkpoints/step-<n>.ckpt every `every` steps, checkpoints/last.ckpt then and at the end."""
    checkpoints = Checkpoints(folder / "checkpoints", every, keep_last, keep_every)
    kept = [KeepInitial(folder / "checkpoints")] if keep_initial else []
    last = KeepLast(folder / "checkpoints", every)
    return [Metrics(folder), Progress(refresh_rate=10), StopOnSignal(), last, checkpoints, *kept]


def find_resume(out: Path, resume: str | None) -> Path | None:
    """The checkpoint that training goes on from. Raises UserError where a new run would mix with a finished one."""
    last = out / "checkpoints" / "last.ckpt"
    if resume is None:
        if last.exists():
            raise UserError(f"{out} already holds a run; go on with resume=auto, or name another out=")
        return None
    if resume == "auto":
        return newest_whole(last.parent)
    if not Path(resume).exists():
        raise UserError(f"resume={resume} does not exist; name a run's .ckpt, or resume=auto with the run's out=")
    wrong = damage(Path(resume))
    if wrong:
        raise UserError(f"cannot read the checkpoint {resume}: it is {wrong}; resume=auto takes the newest whole one")
    return Path(resume)
