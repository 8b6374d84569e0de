"""How far a run has come that is started again in its own directory."""

import sys
from pathlib import Path

from gte.errors import UserError
from gte.models.load import history


def finished(checkpoint: Path, facts: dict, total_steps: int) -> bool:
    """Whether the run whose newest checkpoint this is has made all of its steps, or was ended early by its scores.

    `facts` are the settings it is started with now, {group: {key: value} or value}; steps and epochs of a stage and
    early_stop aside, a run may be lengthened. Raises UserError where it was finished with others: it is another run.
    Where it goes on with others, a line on stderr says which.
    """
    *_, begun = history(checkpoint) or [{}]
    changed = [
        f"{key}={new!r} (was {old!r})"
        for key, old, new in differences({name: begun[name] for name in facts if name in begun}, facts)
        if key not in ("stage.steps", "stage.epochs", "early_stop")
    ]
    ended = "stopped_early" in begun and begun.get("early_stop") == facts.get("early_stop")
    done = begun.get("steps", 0) >= total_steps or ended
    if changed and done:
        raise UserError(
            f"{checkpoint} is of a finished run with other settings: {', '.join(changed)}; name another out="
        )
    if changed:
        print(f"note: the run goes on with other settings: {', '.join(changed)}", file=sys.stderr, flush=True)
    return done


def differences(old: dict, new: dict, prefix: str = "") -> list[tuple]:
    """(dotted key, old, new) of the values that both have and that differ."""
    found = []
    for key in old.keys() & new.keys():
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            found += differences(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            found.append((f"{prefix}{key}", old[key], new[key]))
    return sorted(found, key=lambda entry: entry[0])
