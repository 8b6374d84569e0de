"""The checkpoint that a run resumes from, and how far it has come."""

from pathlib import Path
from typing import TYPE_CHECKING

from gte.early import holds_a_run, no_checkpoint
from gte.errors import UserError
from gte.models.load import damage, history
from gte.models.saved import newest_first, newest_whole
from gte.remote import local_copy, place
from gte.training.changes import LENGTH, changes

if TYPE_CHECKING:
    from upath import UPath


def finished(checkpoint: Path, facts: dict, total_steps: int) -> bool:
    """Whether the run whose newest checkpoint this is has made all of its steps, or was ended early by its scores.

    `facts` are the record of the run that is started now. Raises UserError where it was finished with other settings
    or data, its length aside: it is another run.
    """
    *_, begun = history(checkpoint) or [{}]
    ended = "stopped_early" in begun and begun.get("early_stop") == facts.get("early_stop")
    done = begun.get("steps", 0) >= total_steps or ended
    changed = [change.said for change in changes(begun, facts) if change.setting not in LENGTH]
    if changed and done:
        raise UserError(
            f"{checkpoint} is of a finished run with other settings: {', '.join(changed)}; name another out="
        )
    return done


def find_resume(out: Path, folder: "Path | UPath", resume: str | None) -> Path | None:
    """The checkpoint that training resumes from, on this machine; `folder` is where the run in `out` keeps its own.

    Raises UserError where a new run would mix with another.
    """
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file where checkpoints should go; remove it, or name another out=")
    if resume is None:
        if newest_first(folder):
            raise UserError(holds_a_run(out, folder))
        return None
    if resume == "auto":
        return newest_whole(folder)
    named = place(resume)
    if not named.exists():
        raise UserError(no_checkpoint(resume))
    found = local_copy(named)
    wrong = damage(found)
    if wrong:
        raise UserError(f"cannot read the checkpoint {resume}: it is {wrong}; resume=auto takes the newest whole one")
    return found
