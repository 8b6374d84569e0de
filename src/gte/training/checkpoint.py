"""Checkpoint files: whole or not there, written while training goes on, checked before use, not too many."""

import os
import shutil
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from gte.data.collate import Batch
from gte.data.folder import put_in_place
from gte.errors import UserError, first_line
from gte.remote import local_copy, look_anew, place

INITIAL, LAST = "step-0000000.ckpt", "last.ckpt"


class WholeFiles(TorchCheckpointIO):
    """Lightning's way to the disk: the tensors are copied to host memory, and a thread writes them from there.

    A file is written beside its place and renamed when the disk has all of it, in a filesystem of fsspec within its
    transaction: a kill or a full disk leaves the old one. One write at a time, so that there is one copy at most.
    What a write met is raised by the next call of `look`, `finish` or `save_checkpoint`. `out`: what resume=auto
    is told.
    """

    def __init__(self, out: Path):
        self.out = out
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.jobs: deque[Future] = deque()

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        self.finish()
        content = apply_to_collection(checkpoint, Tensor, lambda x: x.detach().to("cpu", copy=True))
        self.jobs.append(self.writer.submit(self.write, content, place(path)))

    def then(self, job: Callable[[], None]) -> None:
        """Runs a job after what was saved before it is written, and not at all if that failed."""
        before = self.jobs[-1] if self.jobs else None

        def run() -> None:
            if before is not None:
                before.result()
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

    def write(self, content: dict, path) -> None:
        """Raises UserError, which names the checkpoint that is kept, where the file cannot be written."""
        try:
            write_file(content, path) if isinstance(path, Path) else upload(content, path)
        except Exception as error:  # torch makes a RuntimeError of some failed writes, a remote filesystem has its own
            try:
                kept = next(iter(newest_first(path.parent)), "no checkpoint")
            except UserError:
                kept = "what was written before"
            raise UserError(
                f"cannot write {path}: {first_line(error)}; {kept} is kept; mend that (make room), then go on with "
                f"resume=auto out={self.out}"
            ) from error


def write_file(content: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        put(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def upload(content: dict, address) -> None:
    with address.fs.transaction, address.open("wb") as file:
        torch.save(content, file)


class Checkpoints(Checkpoint):
    """step-<n>.ckpt every `every` steps in `folder`, a directory or an address; last.ckpt then and at the end.

    last.ckpt is the file of the step, by another name, where there is one. Of the steps the newest `keep_last` stay
    (None: all), those of every multiple of `keep_every` steps for good, and, where `keep_initial`, the weights before
    the first.
    """

    def __init__(
        self,
        folder,
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

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.keep_initial and trainer.global_step == 0:
            trainer.save_checkpoint(self.folder / INITIAL, weights_only=True)
            trainer.strategy.checkpoint_io.finish()  # data workers are forked next, with no thread amid its work

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs, batch: Batch, index) -> None:
        files, step = trainer.strategy.checkpoint_io, batch.step + 1
        files.look()
        if step % self.every == 0:
            files.finish()
            file = self.folder / f"step-{step:07d}.ckpt"
            trainer.save_checkpoint(file)
            if trainer.is_global_zero:
                files.then(lambda: self.name_last(file))
        elif trainer.should_stop or step == task.total_steps:
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        trainer.strategy.checkpoint_io.finish()

    def name_last(self, file) -> None:
        """Makes last.ckpt the same as `file`, then removes the steps that are not to stay."""
        same(file, self.folder / LAST)
        if self.keep_last is not None:
            for old in steps_newest_first(self.folder)[self.keep_last :]:
                if self.keep_every is None or int(old.stem.removeprefix("step-")) % self.keep_every:
                    remove(old)


def put(new: Path, target: Path) -> None:
    """Gives a file or directory its name, in the place of what had it."""
    if new.is_dir():
        put_in_place(new, target)
    else:
        os.replace(new, target)


def same(file, target) -> None:
    """Gives what `file` holds a second name: by hard links, or a copy where the filesystem has none."""
    if not isinstance(file, Path):
        file.fs.cp_file(file.path, target.path)
        return
    partial = target.with_name(f"{target.name}.partial")
    remove(partial)
    if file.is_dir():
        shutil.copytree(file, partial, copy_function=link)
    else:
        link(file, partial)
    put(partial, target)


def link(file: str | Path, target: str | Path) -> None:
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def remove(path) -> None:
    """Removes a file or directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def steps_newest_first(folder) -> list:
    return sorted((file for file in folder.glob("step-*.ckpt") if file.name != INITIAL), key=str, reverse=True)


def newest_first(folder) -> list:
    """The checkpoints of a directory or address that training can go on from. UserError where that cannot be read."""
    last = folder / LAST
    try:
        look_anew(folder)
        steps = steps_newest_first(folder)
        if not last.exists():
            return steps
        behind = bool(steps) and last.stat().st_mtime < steps[0].stat().st_mtime  # a kill came between the two
    except Exception as error:  # a remote filesystem has kinds of its own
        raise UserError(f"cannot look for checkpoints in {folder}: {first_line(error)}") from error
    return [steps[0], last, *steps[1:]] if behind else [last, *steps]


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's bytes; None where all are as written: torch.save keeps a CRC-32 a tensor.

    A directory, which DeepSpeed writes, is not looked into.
    """
    if checkpoint.is_dir():
        return None
    try:
        with zipfile.ZipFile(checkpoint) as records:
            record = records.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        return f"truncated or altered ({error})"
    return None if record is None else f"altered in {record}"


def newest_whole(folder) -> Path | None:
    """The newest checkpoint of a directory or address that is whole, on this machine; others are named on stderr.

    None where there is no checkpoint, UserError where there are but none is whole.
    """
    found = newest_first(folder)
    for file in found:
        here = local_copy(file)
        wrong = damage(here)
        if wrong is None:
            return here
        print(f"note: {file} is {wrong}: not used", file=sys.stderr, flush=True)
    if found:
        raise UserError(f"no checkpoint in {folder} is whole; start anew in another out=")
    return None
