"""A run's logs read back: metrics.csv, and the records of W&B."""

import csv
import json

from gte.training.loggers import read_records


def rows(run) -> list[dict]:
    """The lines of metrics.csv."""
    with open(run / "metrics.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def column(run, key: str) -> list[float]:
    """The values of a metric where it was logged, in step order."""
    return [float(row[key]) for row in rows(run) if row.get(key)]


TIMED = ("train/pairs_per_s", "train/tokens_per_s", "train/peak_memory_mb")


def curve(run) -> list[dict]:
    """metrics.csv without what a clock or the memory says."""
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows(run)]


def segments(run) -> list:
    """The records of each .wandb file of a run's directory, oldest first."""
    return [list(read_records(file)) for file in sorted(run.glob("wandb/offline-run-*/*.wandb"))]


def logged(records: list) -> dict[str, dict[int, float]]:
    """Metric -> step -> value; asserts that no step is there twice and that the x axis is logged with each."""
    found: dict[str, dict[int, float]] = {}
    for history in (record.history for record in records if record.WhichOneof("record_type") == "history"):
        values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}
        assert values["trainer/global_step"] == history.step.num
        for key, value in values.items():
            assert history.step.num not in found.setdefault(key, {}), (key, history.step.num)
            found[key][history.step.num] = value
    return found
