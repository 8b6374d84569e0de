"""Curves as numbers: read from CSV files, smoothed, thinned, and taken together over seeds."""

import csv
from collections.abc import Iterable, Sequence
from math import isfinite, nan
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gte.errors import UserError

MOST_CURVES = 6  # of a panel: as many as colours that the colour-blind tell apart
LAST = 20  # values that a run's last loss is the mean of
Curve = tuple[list[int], list[float]]  # steps, values


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def read_metrics(metrics_csv: Path) -> dict[str, Curve]:
    """Every metric of a run's metrics.csv, by name: the steps that have it and its values there.

    A last line that a kill has cut is not read. A metric without any value is not there. Raises UserError, with its
    line, for a row that holds what is no number.
    """
    text = metrics_csv.read_text()
    header, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines()) if "\n" in text else [[]]
    curves: dict[str, Curve] = {name: ([], []) for name in header if name != "step"}
    at = header.index("step") if "step" in header else 0
    for line, row in enumerate(rows, 2):
        try:
            step = int(row[at])
            for name, cell in zip(header, row, strict=True):
                if cell and name != "step":
                    steps, values = curves[name]
                    values.append(float(cell))
                    steps.append(step)
        except (ValueError, IndexError) as error:
            raise UserError(f"{metrics_csv}, line {line}: {error}; take the line out of it") from error
    return {name: curve for name, curve in curves.items() if curve[0]}


def read_metric(metrics_csv: Path, key: str) -> Curve:
    """Steps and values of one metric of a run's metrics.csv; both empty where it has none."""
    return read_metrics(metrics_csv).get(key, ([], []))


def steps_made(curve: Curve) -> Curve:
    """The curve over the steps made at each value: metrics.csv counts from 0."""
    return [step + 1 for step in curve[0]], curve[1]


def window_of(count: int) -> int:
    """The values that a smoothed curve of `count` values takes the mean over: 20, of a long run 2 % of them."""
    return max(20, count // 50)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """At each value the mean of the last `window` finite values up to it, fewer at the start; NaN where none is."""
    given = np.asarray(values, dtype=np.float64)
    if not len(given):
        return []
    finite = np.isfinite(given)
    # not by differences of one running sum, in which a spike of 1e20 would drown all that come after it
    sums, counts = (
        sliding_window_view(np.pad(part, (window - 1, 0)), window).sum(axis=1)
        for part in (np.where(finite, given, 0.0), finite.astype(np.int64))
    )
    return [float(total / count) if count else nan for total, count in zip(sums, counts, strict=True)]


def last_mean(values: Sequence[float]) -> float:
    """The mean of the last LAST values, of those of them that are finite; NaN where none is."""
    finite = [value for value in values[-LAST:] if isfinite(value)]
    return mean(finite) if finite else nan


def thin(xs: Sequence[float], ys: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """At most `most` points of a curve that look the same: of each stretch the lowest, the highest and a gap.

    The first and the last point are among them, so is every spike: the highest of its stretch. most: at least 5.
    """
    if len(xs) <= most:
        return list(xs), list(ys)
    values = np.asarray(ys, dtype=np.float64)
    kept = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), (most - 2) // 3):
        there = values[stretch]
        finite = np.isfinite(there)
        if finite.any():
            kept |= {int(stretch[np.argmin(np.where(finite, there, np.inf))])}
            kept |= {int(stretch[np.argmax(np.where(finite, there, -np.inf))])}
        if not finite.all():
            kept.add(int(stretch[np.argmin(finite)]))
    return [xs[i] for i in sorted(kept)], [ys[i] for i in sorted(kept)]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; the deviation of one seed is 0."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def band(curves: Iterable[Curve]) -> tuple[list[int], list[float], list[float]]:
    """Steps, mean and standard deviation over the curves of several seeds, at the steps that all of them have."""
    found = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set(found[0]).intersection(*found))
    values = [spread([curve[step] for curve in found]) for step in steps]
    return steps, [middle for middle, _ in values], [deviation for _, deviation in values]


def chunks(items: Sequence, most: int = MOST_CURVES) -> list[Sequence]:
    """The items in as few parts of at most `most` as will hold them, all of nearly the same length."""
    parts = -(-len(items) // most)
    return [items[len(items) * k // parts : len(items) * (k + 1) // parts] for k in range(parts)]


def best_for_the_time(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (seconds, score) that no other point beats in both: the Pareto front, by seconds."""
    front: list[tuple[float, float]] = []
    for seconds, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((seconds, score))
    return front
