"""Checkpoint files: whole or not there, checked before they are used, a bounded number of them."""

import os
import sys
import zipfile
import zlib
from pathlib import Path

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from gte.errors import UserError


class WholeFiles(TorchCheckpointIO):
    """Writes beside the file and renames when the disk has all of it: a kill or a full disk leaves the old one."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options=None) -> None:
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of some failed writes
            partial.unlink(missing_ok=True)
            kept = next(iter(newest_first(path.parent)), "no checkpoint")
            raise UserError(
                f"cannot write {path}: {str(error).splitlines()[0]}; {kept} is kept; make room, then go on with "
                f"resume=auto out={path.parent.parent}"
            ) from error


class Checkpoints(ModelCheckpoint):
    """checkpoints/step-<n>.ckpt every `every` steps, and last.ckpt.

    Of the former the newest `keep_last` stay (None: all), those of every multiple of `keep_every` steps for good, and
    the weights before the first step.
    """

    def __init__(self, folder: Path, every: int, keep_last: int | None = None, keep_every: int | None = None):
        for key, value in (("checkpoint_every", every), ("keep_last", keep_last), ("keep_every", keep_every)):
            if value is not None and value < 1:
                raise UserError(f"{key}={value} must be 1 or more")
        super().__init__(
            dirpath=folder,
            filename="step-{step:07d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every,
            save_top_k=-1,
            save_last=True,
            enable_version_counter=False,  # what a killed run had begun is written over, not beside
        )
        self.keep_last, self.keep_every = keep_last, keep_every

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        super().on_train_batch_end(trainer, task, outputs, batch, index)
        saved = trainer.global_step % self._every_n_train_steps == 0
        if self.keep_last is None or not saved or not trainer.is_global_zero:
            return
        for file in steps_newest_first(Path(self.dirpath))[self.keep_last :]:
            if self.keep_every is None or int(file.stem.removeprefix("step-")) % self.keep_every:
                trainer.strategy.remove_checkpoint(file)


def steps_newest_first(folder: Path) -> list[Path]:
    return sorted(set(folder.glob("step-*.ckpt")) - {folder / "step-0000000.ckpt"}, reverse=True)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints that training can go on from."""
    return [file for file in (folder / "last.ckpt", *steps_newest_first(folder)) if file.exists()]


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


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that is whole; those that are not are named on stderr.

    None where there is no checkpoint, UserError where there are but none is whole.
    """
    found = newest_first(folder)
    for file in found:
        wrong = damage(file)
        if wrong is None:
            return file
        print(f"note: {file} is {wrong}: not used", file=sys.stderr, flush=True)
    if found:
        raise UserError(f"no checkpoint in {folder} is whole; start anew in another out=")
    return None
