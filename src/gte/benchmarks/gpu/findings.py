"""The findings of one check: rows of numbers, faults, and targets with what was measured.

They are on disk after every row, so that a check that hangs or crashes loses only what it had not measured yet.
"""

import traceback
from collections.abc import Callable
from pathlib import Path

from gte.files import write_json

LOWER = "out of memory: lower stage.batch_tokens, or raise stage.recompute_fraction (1.0 keeps one chunk)"


class Skipped(Exception):
    """A check cannot run here; the text says what it needs."""


class Findings:
    """Collect what a check measures, in `file`.

    rows: {label: {name: number}}. faults: what is wrong, a line each. targets: {name: {goal, measured, met}}, none
    without `judge`: small sizes on a CPU say nothing of a card's.
    """

    def __init__(self, file: Path, judge: bool = True):
        self.file, self.judge = file, judge
        self.rows: dict[str, dict] = {}
        self.faults: list[str] = []
        self.targets: dict[str, dict] = {}
        self.write()

    def write(self, **more) -> None:
        """Put all of it on disk; `more` are further entries."""
        content = {"rows": self.rows, "faults": self.faults, "targets": self.targets} | more
        write_json(self.file, rounded(content), indent=None)

    def row(self, label: str, **numbers) -> None:
        """Add one line of numbers."""
        self.rows[label] = numbers
        self.write()

    def fault(self, line: str) -> None:
        """Note that something is wrong: the check has failed."""
        self.faults.append(line)
        self.write()

    def bound(self, label: str, limit: float, **errors: float) -> None:
        """Add a row of errors, and a fault for each that is not below the limit; NaN is not."""
        self.row(label, **errors)
        for name, error in errors.items():
            if not error < limit:
                self.fault(f"{label}: {name} {error:.3g}, allowed {limit:.3g}")

    def at_least(self, name: str, goal: float, measured: float, unit: str) -> None:
        """Note a target that is met from `goal` on."""
        self.target(name, f"≥ {goal:g} {unit}", measured, measured >= goal)

    def at_most(self, name: str, goal: float, measured: float, unit: str) -> None:
        """Note a target that is met up to `goal`."""
        self.target(name, f"≤ {goal:g} {unit}", measured, measured <= goal)

    def target(self, name: str, goal: str, measured: float, met: bool) -> None:
        """Note a target beside what was measured."""
        if self.judge:
            self.targets[name] = {"goal": goal, "measured": measured, "met": bool(met)}
            self.write()

    def attempt(self, label: str, function: Callable[[], dict]) -> dict | None:
        """Add the row that `function` returns; where it raises, a fault, so that the other rows are still measured.

        Returns: the row, or None.
        """
        try:
            numbers = function()
        except Exception as error:
            line = str(error).strip().splitlines() or [""]
            line = LOWER if "out of memory" in str(error) else f"{type(error).__name__}: {line[0][:300]}"
            if line != LOWER:
                traceback.print_exc()
            self.fault(f"{label}: {line}")
            return None
        self.row(label, **numbers)
        return numbers


def rounded(value: object):
    """The same with floats of five digits; NaN and infinity as text, which JSON has not."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if abs(value) < float("inf") else str(value)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
