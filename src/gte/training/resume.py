"""How far a run has come that is started again in its own directory."""

from pathlib import Path

from gte.errors import UserError
from gte.models.load import history
from gte.training.changes import changes

LONGER = ("stage.steps", "stage.epochs", "early_stop", "keep_best")  # a finished run may go on with other ones


def finished(checkpoint: Path, facts: dict, total_steps: int) -> bool:
    """Whether the run whose newest checkpoint this is has made all of its steps, or was ended early by its scores.

    `facts` are the record of the run that is started now. Raises UserError where it was finished with other settings
    or data, its length aside: it is another run.
    """
    *_, begun = history(checkpoint) or [{}]
    ended = "stopped_early" in begun and begun.get("early_stop") == facts.get("early_stop")
    done = begun.get("steps", 0) >= total_steps or ended
    changed = [change.said for change in changes(begun, facts) if change.setting not in LONGER]
    if changed and done:
        raise UserError(
            f"{checkpoint} is of a finished run with other settings: {', '.join(changed)}; name another out="
        )
    return done
