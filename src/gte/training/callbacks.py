"""What a run shows and keeps: progress, speed, checkpoints."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from gte import ticker
from gte.cores import CORES
from gte.data.collate import Batch
from gte.data.module import steps_done
from gte.errors import tell
from gte.files import write_json
from gte.gather import current_ranks
from gte.memory import peak_memory
from gte.models.load import HISTORY_FILE
from gte.training.checkpoint import Checkpoints
from gte.training.loggers import CsvRun, WandbRun
from gte.training.ranks import untie

if TYPE_CHECKING:
    from upath import UPath


class Metrics(Callback):
    """One row of metrics a step in every logger, at the step's own number: loss, rate, gradient norm, padding, speed.

    Speed is over all ranks, loading included. train/batch is equal in two runs where they took the same rows.
    At the end, the facts of the run and of those before it are in training.json.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CsvRun | WandbRun):
                logger.begin(steps_done(trainer))
        self.last = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            write_json(self.folder / HISTORY_FILE, task.facts(), indent=1)

    def pause(self, seconds: float) -> None:
        """Takes seconds that were spent on something else than training out of the speed of the next step."""
        self.last += seconds

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: Batch, index: int
    ) -> None:
        CORES.look_again()
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
    """One line a run: steps done of all, those before a resume included, time left, loss, pairs/s."""

    def init_train_tqdm(self) -> Tqdm:
        trainer, task = self.trainer, self.trainer.lightning_module
        done = steps_done(trainer)
        return Tqdm(
            total=task.total_steps,
            initial=done,  # speed and time left are of the steps that this process makes
            desc=f"{task.stage.name} from step {done:,} on" if done else task.stage.name,
            bar_format="{desc}{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Lightning's would count from 0, and is not called in a run that is resumed amid an epoch."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: Batch, index: int
    ) -> None:
        bar, done = self.train_progress_bar, batch.step + 1
        if not bar.disable and (done % self.refresh_rate == 0 or done == task.total_steps):
            bar.n = done
            bar.set_postfix(self.get_metrics(trainer, task))

    def get_metrics(self, trainer: pl.Trainer, task: pl.LightningModule) -> dict:
        names = {"train/loss": "loss", "train/pairs_per_s": "pairs/s"}
        return {
            label: f"{float(task.step_metrics[key]):.3g}" for key, label in names.items() if key in task.step_metrics
        }


class ProgressLines(Callback):
    """A line a minute and one at the end, for a log file: steps done, time left, loss, pairs/s; and one at a resume."""

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.start = self.last = time.monotonic()
        self.first = steps_done(trainer)
        if self.first and trainer.is_global_zero:
            tell(f"step {self.first:,}/{task.total_steps:,}: goes on from here")

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: Batch, index: int
    ) -> None:
        now, step = time.monotonic(), batch.step + 1
        if not trainer.is_global_zero or (now - self.last < ticker.EVERY and step < task.total_steps):
            return
        self.last = now
        left = (now - self.start) / (step - self.first) * (task.total_steps - step)
        loss, rate = (float(task.step_metrics[f"train/{key}"]) for key in ("loss", "pairs_per_s"))
        tell(
            f"step {step:,}/{task.total_steps:,}, {ticker.spell(now - self.start)}, {ticker.spell(left)} left, "
            f"loss {loss:.3g}, {rate:.3g} pairs/s"
        )


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
        untie()

    def note(self, number: int, frame: object) -> None:
        if os.getpid() != self.process:  # a data worker, which inherits this and must end when it is told to
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.signalled = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, after a rank's death: say first what was kept

    def teardown(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: Batch, index: int
    ) -> None:
        ranks = current_ranks()
        if ranks is None:
            trainer.should_stop = self.signalled
        else:
            trainer.should_stop = bool(ranks.all_gather(torch.tensor([self.signalled], device=task.device)).any())


def run_callbacks(out: Path, folder: "Path | UPath", **kept) -> list[Callback]:
    """Callbacks of a run that writes to `out`, its checkpoints to `folder`; `kept` as of `Checkpoints`."""
    progress = Progress(refresh_rate=10) if sys.stderr.isatty() else ProgressLines()
    return [Metrics(out), progress, StopOnSignal(), Checkpoints(folder, **kept)]
