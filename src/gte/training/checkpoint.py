"""Checkpoint files: complete or not there, written while training continues, checked before use, not too many."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from gte.data.collate import Batch
from gte.errors import UserError, first_line, tell
from gte.files import remove, whole
from gte.models.saved import INITIAL, LAST, newest_first, step_of, steps_newest_first
from gte.remote import place

if TYPE_CHECKING:
    from upath import UPath


class WholeFiles(TorchCheckpointIO):
    """Lightning's way to the disk: the tensors are copied to host memory, and a thread writes them from there.

    A file is written beside its path and renamed when the disk has all of it, in a filesystem of fsspec within its
    transaction: a kill or a full disk leaves the old one. One write at a time, so that there is one copy at most.
    What a write met is raised by the next call of `look`, `finish` or `save_checkpoint`. `out`: what resume=auto
    is told.
    """

    def __init__(self, out: Path):
        self.out = out
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.jobs: deque[Future] = deque()

    def save_checkpoint(self, checkpoint: dict, path: "Path | UPath", storage_options: object = None) -> None:
        self.finish()
        content = apply_to_collection(checkpoint, Tensor, lambda x: x.detach().to("cpu", copy=True))
        self.jobs.append(self.writer.submit(self.write, content, place(path)))

    def then(self, job: Callable[[], None], path: "Path | UPath") -> None:
        """Runs a job on `path` after what was saved before it is written, and not at all if that failed."""
        before = self.jobs[-1] if self.jobs else None

        def run() -> None:
            if before is not None:
                before.result()
            with self.kept_is_named(path):
                job()

        self.jobs.append(self.writer.submit(run))

    def look(self) -> None:
        """Raises what the writes that are done have met."""
        while self.jobs and self.jobs[0].done():
            self.jobs.popleft().result()

    def finish(self) -> None:
        """Waits until all is written; raises what the writes have met."""
        while self.jobs:
            self.jobs.popleft().result()

    teardown = finish

    def write(self, content: dict, path: "Path | UPath") -> None:
        with self.kept_is_named(path):
            write_again(content, path) if isinstance(path, Path) else upload(content, path)

    @contextmanager
    def kept_is_named(self, path: "Path | UPath") -> Iterator[None]:
        """Raises UserError, which names the checkpoint that is kept, where `path` cannot be written."""
        try:
            yield
        except Exception as error:  # torch makes a RuntimeError of some failed writes, a remote filesystem has its own
            try:
                kept = next(iter(newest_first(path.parent)), "no checkpoint")
            except UserError:
                kept = "what was written before"
            raise UserError(
                f"cannot write {path}: {first_line(error)}; {kept} is kept; mend that (make room), then go on with "
                f"resume=auto out={self.out}"
            ) from error


def write_again(content: dict, path: Path) -> None:
    """Writes a file, and once more where its folder was removed meanwhile, which is then made again."""
    try:
        write_file(content, path)
    except FileNotFoundError:
        write_file(content, path)


def write_file(content: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial, open(partial, "wb") as file:
        torch.save(content, file)


def upload(content: dict, address: "Path | UPath") -> None:
    with address.fs.transaction, address.open("wb") as file:
        torch.save(content, file)


class Checkpoints(Checkpoint):
    """step-<n>.ckpt every `every` steps in `folder`, a directory or an address; last.ckpt then and at the end.

    last.ckpt is the file of the step, by another name, where there is one. Of the steps the newest `keep_last` stay
    (None: all), those of every multiple of `keep_every` steps for good, and, where `keep_initial`, the weights before
    the first. The last good one, written while no step was skipped, stays in any case.
    """

    def __init__(
        self,
        folder: "Path | UPath",
        every: int,
        keep_last: int | None = None,
        keep_every: int | None = None,
        keep_initial: bool = False,
    ):
        for key, value in (("checkpoint_every", every), ("keep_last", keep_last), ("keep_every", keep_every)):
            if value is not None and value < 1:
                raise UserError(f"{key}={value} must be 1 or more")
        self.folder, self.every = folder, every
        self.keep_last, self.keep_every, self.keep_initial = keep_last, keep_every, keep_initial
        self.good: str | None = None  # name of the newest step-*.ckpt that was written while no step was skipped
        self.written: list[str] | None = []  # names of those that stay, oldest first; None: of an earlier version

    def state_dict(self) -> dict:
        return {"good": self.good, "written": self.written and [*self.written]}

    def load_state_dict(self, state_dict: dict) -> None:
        self.good, self.written = state_dict["good"], state_dict.get("written")

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.written is None:
            steps = reversed(steps_newest_first(self.folder))
            self.written = [step.name for step in steps if step_of(step) <= trainer.global_step]
        if self.keep_initial and trainer.global_step == 0:
            trainer.save_checkpoint(self.folder / INITIAL, weights_only=True)
            trainer.strategy.checkpoint_io.finish()  # data workers are forked next, with no thread amid its work

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: Batch, index: int
    ) -> None:
        files, step = trainer.strategy.checkpoint_io, batch.step + 1
        files.look()
        if step % self.every == 0:
            files.finish()
            file = self.folder / f"step-{step:07d}.ckpt"
            self.good = self.good if task.skipped["in_a_row"] else file.name
            self.written.append(file.name)
            trainer.save_checkpoint(file)
            old = self.passed()
            if trainer.is_global_zero:
                files.then(partial(self.name_last, file, old), self.folder / LAST)
            self.written = [name for name in self.written if name not in old]
        elif trainer.should_stop or step == task.total_steps:
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        trainer.strategy.checkpoint_io.finish()

    def passed(self) -> set[str]:
        """Names of the written steps that are not to stay. What a run that was resumed left behind is none of them."""
        if self.keep_last is None:
            return set()
        old = {name for name in self.written[: -self.keep_last] if name != self.good}
        return {name for name in old if self.keep_every is None or step_of(Path(name)) % self.keep_every}

    def name_last(self, file: "Path | UPath", old: set[str]) -> None:
        """Makes last.ckpt the same as `file`, then removes the steps that are not to stay."""
        try:
            same(file, self.folder / LAST)
        except FileNotFoundError:
            if file.exists():
                raise
            tell(f"note: {file} was removed as soon as it was written")
            return
        for name in old:
            remove(self.folder / name)


def same(file: "Path | UPath", target: "Path | UPath") -> None:
    """Gives what `file` holds a second name: by hard links, or a copy where the filesystem has none."""
    if not isinstance(file, Path):
        file.fs.cp_file(file.path, target.path)
        return
    with whole(target) as partial:
        remove(partial)  # a link cannot take the name of a killed process's
        if file.is_dir():
            shutil.copytree(file, partial, copy_function=link)
        else:
            link(file, partial)


def link(file: str | Path, target: str | Path) -> None:
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
