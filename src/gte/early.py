"""Checks of what the user named that take no heavy library: before one is loaded and before anything is written."""

import ctypes
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gte.errors import UserError, did_you_mean
from gte.remote import check_revision, find_checkpoint, is_address
from gte.values import TRAIN, TRAINER_FIXED, TRAINER_READ, TRAINER_UNREAD, check_values

if TYPE_CHECKING:
    from upath import UPath

BM25 = ("bm25", "bm25-stemmed", "bm25-mteb")  # what `checkpoint=` names beside models
DATED = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"  # a run's directory that was not named, conf/train.yaml
NO_CUDA = "this machine has no CUDA device for the chosen trainer; use trainer=cpu"


def cuda_possible() -> bool:
    """Whether PyTorch may find a GPU: its own word where it is loaded, else whether this system has a driver of one."""
    if "torch" in sys.modules:
        return sys.modules["torch"].cuda.is_available()
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()  # of ROCm, whose devices PyTorch calls cuda too
    return True


def check_trainer(settings: Mapping) -> None:
    """Raise UserError for settings of `trainer`, as plain values, that this machine or this project cannot serve."""
    check_values({"trainer": settings}, TRAIN)
    accelerator, strategy = settings["accelerator"], settings["strategy"]
    strategy = strategy if isinstance(strategy, str) else strategy["_target_"]
    if accelerator in ("gpu", "cuda") and not cuda_possible():
        raise UserError(NO_CUDA)
    if strategy.startswith("deepspeed"):
        raise UserError(f"trainer.strategy={strategy}: choose trainer=deepspeed, with trainer.strategy.stage=1 or 2")
    zero = strategy == "gte.training.zero.Zero"
    if zero and accelerator == "cpu":
        raise UserError("DeepSpeed runs on CUDA only; use trainer=ddp trainer.accelerator=cpu trainer.devices=2")
    if zero and find_spec("deepspeed") is None:
        raise UserError("trainer=deepspeed needs DeepSpeed: pip install -r requirements-deepspeed.txt")
    refuse_trainer_keys(settings)


def refuse_trainer_keys(settings: Mapping) -> None:
    """Raises UserError for a key of Lightning's Trainer that another setting decides here, and for an unknown one."""
    for key, value in settings.items():
        if key in TRAINER_UNREAD:
            raise UserError(f"trainer.{key} would not act: {TRAINER_UNREAD[key]}")
        if key in TRAINER_FIXED and value != TRAINER_FIXED[key]:
            raise UserError(f"trainer.{key}={value} must be {str(TRAINER_FIXED[key]).lower()}: data are drawn by step")
        if key not in (*TRAINER_READ, *TRAINER_FIXED, "_target_"):
            raise UserError(f"unknown key 'trainer.{key}'{did_you_mean(key, TRAINER_READ)}")


def check_model(path: str | None, revision: str | None = None) -> None:
    """Raise UserError where `model.name_or_path` is a path and leads nowhere, or has no revision as a name on the hub
    has; the hub is not asked."""
    if path and Path(path).is_absolute() and not Path(path).exists():
        raise UserError(f"model.name_or_path={path} does not exist; name a model directory, or a model on the hub")
    if path:
        check_revision(path, revision, "model.revision")


def check_batch(sizes: Mapping[str, int], global_batch: int) -> None:
    """Raise UserError for the first source that has fewer rows than a step takes; `sizes` are rows by source."""
    for name, rows in sizes.items():
        if rows < global_batch:
            raise UserError(
                f"source {name} has {rows} rows, fewer than one global batch of {global_batch}: lower "
                "stage.global_batch, leave it out by sources=[...], or merge it with another source"
            )


def check_models(checkpoints: list[str]) -> None:
    """Raise UserError for the first that is neither BM25 nor a checkpoint; addresses and the hub are not asked."""
    for checkpoint in checkpoints:
        if checkpoint not in BM25 and not is_address(checkpoint):
            find_checkpoint(checkpoint)


def check_result(out: Path) -> None:
    """Raise UserError where the directory to export to holds something else than a model directory."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / "modules.json").exists():
        raise UserError(f"{out} exists and is no model directory; name another out=")


def check_new_run(out: Path, folder: Path, resume: str | None) -> None:
    """Raise UserError where a new run would mix with another, or the checkpoint to resume from is not there.

    Args:
        out: the run's directory.
        folder: on this machine, where it keeps its checkpoints.
        resume: as in conf/train.yaml.
    """
    if resume == "auto" and folder.parent == out and not out.exists() and re.fullmatch(DATED, out.name):
        others = sorted(run for run in out.parent.glob("*") if re.fullmatch(DATED, run.name))
        raise UserError(f"resume=auto needs the run's directory: out={others[-1] if others else 'RUN_DIR'}")
    begun = [file for file in folder.glob("*.ckpt") if file.name == "last.ckpt" or file.name.startswith("step-")]
    if resume is None and [file for file in begun if file.name != "step-0000000.ckpt"]:
        raise UserError(holds_a_run(out, folder))
    if resume not in (None, "auto") and not is_address(resume) and not Path(resume).exists():
        raise UserError(no_checkpoint(resume))


def holds_a_run(out: Path, folder: "Path | UPath") -> str:
    """The line for a new run that would write between the checkpoints of another one."""
    key = "out" if out in folder.parents else "checkpoint_dir"
    return f"{folder} already holds a run; go on with resume=auto, or name another {key}="


def no_checkpoint(resume: str) -> str:
    """The line for a checkpoint to resume from that is not there."""
    return f"resume={resume} does not exist; name a run's .ckpt, or resume=auto with the run's out="
