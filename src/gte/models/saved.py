"""The checkpoints of a run: which there are, the newest first, and whether they are intact and of use."""

from pathlib import Path
from typing import TYPE_CHECKING

from gte.encoder import Encoder
from gte.errors import UserError, first_line, tell
from gte.models.broken import broken
from gte.models.load import damage, encoder_in, read_checkpoint
from gte.remote import find_checkpoint, local_copy, look_anew

if TYPE_CHECKING:
    from upath import UPath

INITIAL, LAST = "step-0000000.ckpt", "last.ckpt"


def steps_newest_first(folder: "Path | UPath") -> list:
    return sorted((file for file in folder.glob("step-*.ckpt") if file.name != INITIAL), key=str, reverse=True)


def step_of(file: "Path | UPath") -> int:
    """The step that a step-*.ckpt is named after."""
    return int(file.stem.removeprefix("step-"))


def newest_first(folder: "Path | UPath") -> list:
    """The checkpoints of a directory or address that training can resume from. UserError where that cannot be read."""
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


def newest_whole(folder: "Path | UPath") -> Path | None:
    """The newest intact checkpoint of a directory or address, on this machine; others are named on stderr.

    None where there is no checkpoint, UserError where there are but none is intact.
    """
    found = newest_first(folder)
    for file in found:
        here = local_copy(file)
        wrong = damage(here)
        if wrong is None:
            return here
        tell(f"note: {file} is {wrong}: not used")
    if found:
        raise UserError(f"no checkpoint in {folder} is whole; start anew in another out=")
    return None


def why_not_good(checkpoint: "Path | UPath") -> str | None:
    """Say in a few words why a checkpoint is not one to resume from, or to publish; None where it is good.

    Good is one whose file is intact, which was written while no step was skipped, whose weights are finite and give a
    text a finite vector.
    """
    try:
        load_good(checkpoint)
    except UserError as error:
        return str(error)
    return None


def load_good(checkpoint: "Path | UPath") -> tuple[Encoder, list[dict]]:
    """The encoder of a good checkpoint, and its training stages.

    Raises UserError, in the words of `why_not_good`, where it is not good.
    """
    here = local_copy(checkpoint)
    if wrong := damage(here):
        raise UserError(f"it is {wrong}")
    file = find_checkpoint(here)
    content = read_checkpoint(file)
    if content.get("skipped", {}).get("in_a_row"):
        raise UserError("it was written amid steps that were skipped")
    encoder = encoder_in(content, file)
    if wrong := broken(encoder):
        raise UserError(wrong)
    return encoder, content.get("history", [])


def last_good(folder: "Path | UPath"):
    """The newest good checkpoint of a directory or address, by `why_not_good`; None where there is none."""
    return next((file for file in newest_first(folder) if why_not_good(file) is None), None)
