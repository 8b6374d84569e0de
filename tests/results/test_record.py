"""A run's record is that of its newest checkpoint; where that cannot be read, of what knows most."""

import json

import pytest

from gte.errors import UserError
from gte.results import record


@pytest.mark.parametrize(
    ("checkpoints", "kept", "steps"),
    [
        ([8], 12, 8), ([8, 4], 12, 8), ([None, 6], 12, 12), ([None, 6], 3, 6), ([None, 6, 4], None, 6),
        ([None], 12, 12), ([], 12, 12), ([None], None, None), ([], None, None),
    ],
)  # fmt: skip
def test_the_record_is_of_the_newest_checkpoint_else_of_what_has_most_steps(
    tmp_path, monkeypatch, checkpoints, kept, steps
):
    """Checkpoints, newest first, by their steps, those that are cut as None; kept: the steps of training.json."""

    def history(checkpoint: int | None) -> list[dict]:
        if checkpoint is None:
            raise UserError("it is truncated")
        return [{"steps": checkpoint}]

    monkeypatch.setattr(record, "newest_first", lambda folder: checkpoints)
    monkeypatch.setattr(record, "history", history)
    if kept is not None:
        (tmp_path / record.HISTORY_FILE).write_text(json.dumps([{"steps": 1}, {"steps": kept}]))
    found = record.history_of(tmp_path)
    assert (found[-1]["steps"] if found else None) == steps
