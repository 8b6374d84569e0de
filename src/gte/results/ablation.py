"""An ablation's runs as rows: which points were trained, with what settings, and what they scored.

A run's directory is named after its point, `key=value,key=value`; so is `run` in results.csv.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean, stdev

import yaml

from gte.curves import Curve, read_metric, read_rows
from gte.errors import UserError, tell
from gte.files import whole
from gte.models.load import history
from gte.results.paper import Table
from gte.stage import Stage

COLUMNS = ("run", "commit", "overrides", "seed", "metric", "value")
CURVE_POINTS = 50  # of a loss curve: each the mean over that share of the steps
Groups = Mapping[str, Sequence[str]]  # a group's name -> the names of its tasks, or patterns such as STS*
LAST_STEPS = 20  # that the training loss of a run is the mean of


def collect(runs: Path) -> tuple[list[dict], list[dict]]:
    """Scores, a row each in COLUMNS, and loss curves, {run, step, loss}, of the finished runs under `runs`.

    Scores are those of evaluations during training, and of every results.json within a run's directory; where they are
    of several steps, `run` has the step. The training loss is there as well, as train/loss. A run that is not finished
    is skipped with a line on stderr. The training's seconds are there as train/seconds. Raises UserError where none is
    finished.
    """
    folders = sorted(path.parents[1] for path in runs.glob("*/.hydra/overrides.yaml"))
    scores, curves = [], []
    for folder in folders:
        facts = history(folder)[-1] if (folder / "checkpoints" / "last.ckpt").exists() else None
        if facts is None or (facts["steps"] < all_steps(facts) and "stopped_early" not in facts):
            done = facts["steps"] if facts else 0
            tell(f"left out: {folder}, stopped after {done} steps; the sweep's command goes on")
            continue
        overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text())
        settings = {
            "commit": facts["commit"],
            "overrides": " ".join(text for text in overrides if not text.startswith("hydra.")),
            "seed": facts["seed"],
        }
        found = list(measured(folder, facts))
        several = len({step for step, _, _ in found}) > 1
        for step, metric, value in found:
            run = f"{folder.name},step={step}" if several else folder.name
            scores.append({"run": run, **settings, "metric": metric, "value": f"{value:.4f}"})
        steps, losses = read_metric(folder / "metrics.csv", "train/loss")
        width = max(1, len(losses) // CURVE_POINTS)
        for start in range(0, len(losses) - width + 1, width):
            point = {"step": steps[start + width - 1] + 1, "loss": f"{mean(losses[start : start + width]):.4f}"}
            curves.append({"run": folder.name, **point})
    if not scores:
        raise UserError(f"no finished run under {runs}; train them first: src/train.py -m +experiment={runs.name}")
    return scores, curves


def all_steps(facts: dict) -> int:
    """The steps that a run of these settings makes."""
    stage = Stage(**{key: value for key, value in facts["stage"].items() if key != "_target_"})
    return stage.total_steps(sum(source["rows"] for source in facts["sources"].values()))


def measured(folder: Path, facts: dict) -> Iterator[tuple[int, str, float]]:
    """(steps trained, metric, value) of a run, scores in points of 100; their mean is not one of its own."""
    steps = facts["steps"]
    rows = read_rows(folder / "metrics.csv")
    for row in rows:
        for key, value in row.items():
            if key.startswith("eval/") and key != "eval/mean" and value:
                yield int(row["step"]) + 1, key.removeprefix("eval/"), float(value)
    yield steps, "train/loss", mean(float(row["train/loss"]) for row in rows[-LAST_STEPS:] if row["train/loss"])
    yield (
        steps,
        "train/seconds",
        seconds(read_metric(folder / "metrics.csv", "train/pairs_per_s"), facts["stage"]["global_batch"]),
    )
    for file in sorted(folder.glob("**/results.json")):
        for model in json.loads(file.read_text())["models"].values():
            name = Path(model["checkpoint"]).stem
            step = int(name.removeprefix("step-")) if name.startswith("step-") else steps
            if name == "best":
                step = facts["best"]["step"]
            for task, result in model["tasks"].items():
                yield step, task, result["main_score"]


def seconds(pairs_per_s: Curve, global_batch: int) -> float:
    """The seconds that a run's steps took, loading included and evaluations not; steps not logged count as the others.

    Args:
        pairs_per_s: the run's curve of that metric.
        global_batch: pairs a step.
    """
    steps, rates = pairs_per_s
    if not rates:
        return 0.0
    return sum(global_batch / rate for rate in rates) * (steps[-1] - steps[0] + 1) / len(steps)


def point(run: str) -> dict[str, str]:
    """Find what tells a run from others, seeds aside: alpha=0.5,seed=1 -> {alpha: 0.5}; if nothing does, the run."""
    pairs = (part.split("=", 1) for part in run.split(","))
    return {key: value for key, value in pairs if key != "seed"} or {"run": run}


def grid_order(grids: dict[str, dict[str, str]]) -> list[str]:
    """The values of an experiment's grids in order, each at its last place; stages in theirs."""
    values: list[str] = []
    for grid in grids.values():
        for text in grid.values():
            values += str(text).split(",")
    return ["pretrain", "finetune", *list(dict.fromkeys(reversed(values)))[::-1]]


def rank(entry: tuple, order: list[str]) -> list:
    """The key by which points are sorted: by number, then as in `order`."""
    return [(number(value), order.index(value) if value in order else len(order), value) for _, value in entry]


def by_point(scores: list[dict], order: list[str]) -> dict[tuple, dict[str, list[float]]]:
    """Point, as (key, value) pairs -> metric -> the values of its seeds; sorted by number, then as in `order`."""
    found: dict[tuple, dict[str, list[float]]] = {}
    for row in scores:
        values = found.setdefault(tuple(point(row["run"]).items()), {})
        values.setdefault(row["metric"], []).append(float(row["value"]))
    return {entry: found[entry] for entry in sorted(found, key=lambda entry: rank(entry, order))}


def number(text: str) -> float:
    """The number that a text is, infinity where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("inf")


def overall(metrics: dict[str, list[float]]) -> list[float]:
    """Each seed's mean over its tasks, where every seed has all of them."""
    tasks = [values for name, values in metrics.items() if not name.startswith("train/")]
    return [mean(of_seed) for of_seed in zip(*tasks, strict=True)] if tasks else []


def by_line(scores: list[dict], order: list[str]) -> dict[str, list[tuple[str, list[float]]]]:
    """A figure's lines: what a line's points have in common -> (the last key's value, each seed's mean over tasks)."""
    lines: dict[str, list] = {}
    for entry, metrics in by_point(scores, order).items():
        *others, (_, x) = entry
        if values := overall(metrics):
            lines.setdefault(", ".join(value for _, value in others) or "ours", []).append((x, values))
    return lines


def losses_by_line(curves: list[dict], order: list[str]) -> dict[str, dict[str, list[Curve]]]:
    """A figure's panels: what their points have in common -> the last key's value -> the loss curve of each seed."""
    of_run: dict[str, Curve] = {}
    for row in curves:
        steps, losses = of_run.setdefault(row["run"], ([], []))
        steps.append(int(row["step"]))
        losses.append(float(row["loss"]))
    panels: dict[str, dict] = {}
    points = {run: tuple(point(run).items()) for run in of_run}
    for run in sorted(of_run, key=lambda run: rank(points[run], order)):
        *others, (key, x) = points[run]
        group = panels.setdefault(", ".join(value for _, value in others), {})
        group.setdefault("ours" if key == "run" else x, []).append(of_run[run])
    return panels


def scores_by_seconds(scores: list[dict], order: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Point -> (seconds of training, mean of tasks) of each seed, where both are known."""
    found = {}
    for entry, metrics in by_point(scores, order).items():
        spent, reached = metrics.get("train/seconds", []), overall(metrics)
        if reached and len(spent) == len(reached) and min(spent) > 0:
            label = ", ".join(value for _, value in entry)
            found[label] = list(zip(spent, reached, strict=True))
    return found


def in_group(metric: str, patterns: Sequence[str]) -> bool:
    """Whether one of a group's patterns is the task's name or fits it, as STS* fits STS12."""
    return any(fnmatchcase(metric, pattern) for pattern in patterns)


def check_groups(scores: list[dict], groups: Groups) -> None:
    """Raises UserError for a pattern that fits no task of `scores`: its group would be another than was meant."""
    tasks = sorted({row["metric"] for row in scores if not row["metric"].startswith("train/")})
    for name, patterns in groups.items():
        for pattern in patterns:
            if not any(in_group(task, [pattern]) for task in tasks):
                raise UserError(f"groups.{name}: {pattern} fits none of the tasks: {', '.join(tasks)}")


def table(scores: list[dict], order: list[str], groups: Groups | None = None) -> Table:
    """A row a point, a column a metric and their mean: mean ± standard deviation over seeds.

    Args:
        scores: rows as `collect` gives them.
        order: the values of the grid in order.
        groups: columns in place of those of the single tasks, each the mean of its tasks.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in scores))
    rows = [["point", "seeds", *(groups or metrics), "mean of tasks"]]
    for entry, values in by_point(scores, order).items():
        label = ", ".join(f"{key} {value}" for key, value in entry)
        if groups:
            parts = [{name: values[name] for name in values if in_group(name, group)} for group in groups.values()]
            cells = [spread(overall(part)) for part in parts]
        else:
            cells = [spread(values.get(metric, [])) for metric in metrics]
        rows.append([label, str(max(map(len, values.values()))), *cells, spread(overall(values))])
    return rows


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; of one value that alone."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def write_csv(rows: list[dict], file: Path) -> None:
    with whole(file) as partial, open(partial, "w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
