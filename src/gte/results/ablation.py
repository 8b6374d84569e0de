"""An ablation's runs as rows: which points were trained, with what settings, and what they scored.

A run's directory is named after its point, `key=value,key=value`; so is `run` in results.csv. Of the results.json
below a run's directory count the scores of the run's own checkpoints, by their plain vectors.
"""

import csv
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from statistics import mean, stdev

import yaml

from gte.curves import LAST, Curve, last_mean, read_metrics, steps_made
from gte.errors import UserError, tell
from gte.files import whole
from gte.models.load import damage
from gte.results.paper import Table
from gte.results.record import history_of
from gte.results.scored import evaluated
from gte.stage import Stage

COLUMNS = ("run", "commit", "overrides", "seed", "metric", "value")
CURVE_COLUMNS = ("run", "step", "loss")
CURVE_POINTS = 50  # of a loss curve: each the mean over that share of the steps
Groups = Mapping[str, Sequence[str]]  # a group's name -> the names of its tasks, or patterns such as STS*
ROUNDING = 0.001  # of scores in results.json, which have three decimals


def collect(runs: Path) -> tuple[list[dict], list[dict]]:
    """Scores, a row each in COLUMNS, and loss curves, a row each in CURVE_COLUMNS, of the finished runs under `runs`.

    Scores are those of evaluations during training, and those of the run's own checkpoints in every results.json within
    its directory; where those are of steps before the run's last one, `run` has the step, and all of them do where all
    runs have such. The training loss is there as well, as train/loss. A run that is not finished is skipped with a line
    on stderr, so is every value that is no number. The training's seconds are there as train/seconds. Raises UserError
    where none is finished, and where two results.json disagree.
    """
    settings, values, curves = {}, {}, []
    for folder in sorted(path.parents[1] for path in runs.glob("*/.hydra/overrides.yaml")):
        facts = finished(folder)
        if facts is None:
            continue
        overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text())
        settings[folder] = {
            "commit": facts["commit"],
            "overrides": " ".join(text for text in overrides if not text.startswith("hydra.")),
            "seed": facts["seed"],
        }
        metrics = metrics_of(folder)
        values[folder] = measured(folder, facts, metrics), facts["steps"]
        steps, losses = steps_made(metrics.get("train/loss", ([], [])))
        width = max(1, len(losses) // CURVE_POINTS)
        for end in range(width, len(losses) + 1, width):
            if finite := [loss for loss in losses[end - width : end] if isfinite(loss)]:
                curves.append({"run": folder.name, "step": steps[end - 1], "loss": f"{mean(finite):.4f}"})
    # the last scores of runs that have earlier ones, too, are compared with those of runs that have none
    all_have_earlier = all(any(step != last for step, _ in found) for found, last in values.values() if found)
    scores = []
    for folder, (found, last) in values.items():
        for (step, metric), value in found.items():
            run = folder.name if step == last and not all_have_earlier else f"{folder.name},step={step}"
            scores.append({"run": run, **settings[folder], "metric": metric, "value": f"{value:.4f}"})
    if not scores:
        raise UserError(f"no finished run under {runs}; train them first: src/train.py -m +experiment={runs.name}")
    return scores, curves


def finished(folder: Path) -> dict | None:
    """The record of a run's last stage; None, and a line, where the run has not made all of its steps."""
    last = folder / "checkpoints" / "last.ckpt"
    wrong = damage(last) if last.exists() else "not there"
    if last.exists() and wrong:
        tell(f"note: {last} is {wrong}: not used")
    *_, facts = history_of(folder) or [None]
    steps = facts["steps"] if facts else 0
    done = steps
    if wrong and (folder / "metrics.csv").is_file():  # a run that was resumed and killed is beyond its training.json
        done = max([done, *(curve[0][-1] + 1 for curve in read_metrics(folder / "metrics.csv").values())])
    if facts and done == steps and (steps >= all_steps(facts) or "stopped_early" in facts):
        return facts
    tell(f"left out: {folder}, stopped after {done} steps; the sweep's command goes on")
    return None


def all_steps(facts: dict) -> int:
    """The steps that a run of these settings makes."""
    stage = Stage(**{key: value for key, value in facts["stage"].items() if key != "_target_"})
    return stage.total_steps(sum(source["rows"] for source in facts["sources"].values()))


def metrics_of(folder: Path) -> dict[str, Curve]:
    """The curves of a run; none, and a line, where it has logged no metrics.csv."""
    if (folder / "metrics.csv").is_file():
        return read_metrics(folder / "metrics.csv")
    tell(f"note: {folder} has no metrics.csv, which logger=csv writes: of it only results.json counts")
    return {}


def measured(folder: Path, facts: dict, metrics: dict[str, Curve]) -> dict[tuple[int, str], float]:
    """(steps trained, metric) -> value of a run, scores in points of 100; their mean is not one of its own.

    An evaluation after training counts in place of one during it of the same step and task: it says what data and what
    precision it was made with. Where they differ by more than rounding, a line tells by how much at most. A line tells
    of what is no number, too.

    Args:
        folder: the run's directory.
        facts: of its last stage.
        metrics: its curves, by name.
    """
    found, steps = {}, facts["steps"]
    for key, curve in metrics.items():
        if not key.startswith("eval/") or key == "eval/mean":
            continue
        for step, value in zip(*steps_made(curve), strict=True):
            if isfinite(value):
                found[step, key.removeprefix("eval/")] = value
            else:
                tell(f"left out: {folder / 'metrics.csv'}, {key} at step {step} is {value}")
    found = dict(sorted(found.items(), key=lambda item: item[0][0]))
    losses = metrics.get("train/loss", ([], []))[1][-LAST:]
    if not all(map(isfinite, losses)):
        tell(f"note: {folder}: losses that are no number are left out of train/loss, the mean of the last {LAST}")
    if isfinite(loss := last_mean(losses)):
        found[steps, "train/loss"] = loss
    if spent := seconds(metrics.get("train/pairs_per_s", ([], [])), facts["stage"]["global_batch"], steps):
        found[steps, "train/seconds"] = spent
    apart = {}
    for (step, task), (value, file) in evaluated(folder, facts).items():
        during = found.get((step, task), value)
        if abs(during - value) > ROUNDING:
            apart[abs(during - value)] = f"{task} at step {step} {value:.3f} in {file}, {during:.3f} in training"
        found[step, task] = value
    if apart:
        tell(f"note: {folder}: results.json counts where an evaluation in training differs, most {apart[max(apart)]}")
    return found


def seconds(pairs_per_s: Curve, global_batch: int, steps: int) -> float:
    """The seconds that a run's steps took, loading included and evaluations not; steps not logged count as the others.

    Args:
        pairs_per_s: the run's curve of that metric.
        global_batch: pairs a step.
        steps: all that were made.
    """
    _, rates = pairs_per_s
    return steps * mean(global_batch / rate for rate in rates) if rates else 0.0


def split(text: str) -> list[str]:
    """Split at the commas that are in no brackets: a list is one value of a point.

    >>> split("widths=[384,256],seed=1")
    ['widths=[384,256]', 'seed=1']
    """
    parts, depth = [""], 0
    for letter in text:
        depth = max(0, depth + (letter in "([{") - (letter in ")]}"))
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def point(run: str) -> dict[str, str]:
    """Find what tells a run from others, seeds aside: alpha=0.5,seed=1 -> {alpha: 0.5}; if nothing does, the run.

    A part without a value is skipped, unless there is nothing else, as in the numbers that Hydra names points by.

    >>> point("0"), point("0,step=400"), point("alpha=0.5,again,seed=1")
    ({'run': '0'}, {'run': '0', 'step': '400'}, {'alpha': '0.5'})
    """
    parts = split(run)
    pairs = dict(part.split("=", 1) for part in parts if "=" in part)
    found = {key: value for key, value in pairs.items() if key != "seed"}
    bare = ",".join(part for part in parts if "=" not in part)
    if bare and not found.keys() - {"step"}:
        return {"run": bare, **found}
    return found or {"run": run}


def grid_order(grids: dict[str, dict[str, str]]) -> list[str]:
    """The values of an experiment's grids in order, each at its last place; stages in theirs."""
    values: list[str] = []
    for grid in grids.values():
        for text in grid.values():
            values += split(str(text))
    return ["pretrain", "finetune", *list(dict.fromkeys(reversed(values)))[::-1]]


def rank(entry: tuple, order: list[str]) -> list:
    """The key by which points are sorted: by number, then as in `order`."""
    return [(number(value), order.index(value) if value in order else len(order), value) for _, value in entry]


def by_point(scores: list[dict], order: list[str]) -> dict[tuple, dict[str, dict[str, float]]]:
    """Point, as (key, value) pairs -> metric -> seed -> value; points sorted by number, then as in `order`.

    A row without a seed counts as one of its run's, one that is no number, of an older version, does not count. Raises
    UserError where a seed has two values of a metric.
    """
    found: dict[tuple, dict[str, dict[str, float]]] = {}
    runs: dict[tuple, str] = {}
    for row in scores:
        entry, seed, value = tuple(point(row["run"]).items()), row.get("seed", row["run"]), float(row["value"])
        if not isfinite(value):
            continue
        values = found.setdefault(entry, {}).setdefault(row["metric"], {})
        run = runs.setdefault((entry, row["metric"], seed), row["run"])
        if values.setdefault(seed, value) != value:
            raise UserError(
                f"{row['metric']} of seed {seed} is {values[seed]} in the run {run} and {value} in {row['run']}, which "
                "are one point; keep one of them, or name what differs in the run's directory, key=value"
            )
    return {entry: found[entry] for entry in sorted(found, key=lambda entry: rank(entry, order))}


def number(text: str) -> float:
    """The number that a text is, infinity where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("inf")


def tasks_of(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The metrics that are scores of tasks."""
    return {name: values for name, values in metrics.items() if not name.startswith("train/")}


def averaged(points: Mapping[tuple, dict[str, dict[str, float]]]) -> list[str]:
    """The tasks that every mean of tasks is over: those that more than half of the evaluated points have."""
    found = [task for metrics in points.values() for task in tasks_of(metrics)]
    evaluated_points = sum(1 for metrics in points.values() if tasks_of(metrics))
    return [task for task in dict.fromkeys(found) if 2 * found.count(task) > evaluated_points]


def seed_means(metrics: dict[str, dict[str, float]], tasks: Sequence[str]) -> dict[str, float]:
    """Seed -> mean over these tasks, of the seeds of a point that have all of them."""
    scores = [values for name, values in tasks_of(metrics).items() if name in tasks]
    if not scores or len(scores) < len(tasks):
        return {}
    complete = [seed for seed in scores[0] if all(seed in values for values in scores)]
    return {seed: mean(values[seed] for values in scores) for seed in complete}


def overall(metrics: dict[str, dict[str, float]], tasks: Sequence[str]) -> list[float]:
    """Each seed's mean over these tasks; a seed that lacks one is left out, see `tell_lacking`."""
    return list(seed_means(metrics, tasks).values())


def tell_lacking(scores: list[dict]) -> None:
    """Tells of the tasks that no mean is over, and, a line each, of the seeds that lack one of the others.

    So it does of a run without any evaluation, unless no other run of the sweep has one.
    """
    points = by_point(scores, [])
    required = averaged(points)
    if not any(map(tasks_of, points.values())):
        return
    found = dict.fromkeys(task for metrics in points.values() for task in tasks_of(metrics))
    if apart := [task for task in found if task not in required]:
        tell(f"note: no mean of tasks counts {', '.join(apart)}: at least half of the points lack it")
    for entry, metrics in points.items():
        tasks = tasks_of(metrics)
        if not tasks and "step" in dict(entry):  # the run was evaluated, after fewer steps
            continue
        for seed in dict.fromkeys(seed for values in metrics.values() for seed in values):
            lacking = [name for name in required if seed not in tasks.get(name, {})]
            if lacking or not tasks:
                label = ", ".join(f"{key} {value}" for key, value in entry)
                evaluated_seed = any(seed in values for values in tasks.values())
                said = f"lacks {', '.join(lacking)}" if evaluated_seed else "has no evaluation"
                tell(f"left out of the mean of tasks: {label}, seed {seed}, which {said}")


def by_line(scores: list[dict], order: list[str]) -> dict[str, list[tuple[str, list[float]]]]:
    """A figure's lines: what a line's points have in common -> (the last key's value, each seed's mean over tasks)."""
    lines: dict[str, list] = {}
    points = by_point(scores, order)
    tasks = averaged(points)
    for entry, metrics in points.items():
        *others, (_, x) = entry
        if values := overall(metrics, tasks):
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
        only_seeds = key == "run" and x.startswith("seed=")
        group.setdefault("ours" if only_seeds else x, []).append(of_run[run])
    return panels


def scores_by_seconds(scores: list[dict], order: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Point -> (seconds of training, mean of tasks) of each seed, where both are known."""
    found, points = {}, by_point(scores, order)
    tasks = averaged(points)
    for entry, metrics in points.items():
        spent = {seed: value for seed, value in metrics.get("train/seconds", {}).items() if value > 0}
        if both := [(spent[seed], value) for seed, value in seed_means(metrics, tasks).items() if seed in spent]:
            found[", ".join(value for _, value in entry)] = both
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
    points = by_point(scores, order)
    tasks = averaged(points)
    for entry, values in points.items():
        label = ", ".join(f"{key} {value}" for key, value in entry)
        if groups:
            parts = [[name for name in tasks if in_group(name, group)] for group in groups.values()]
            cells = [spread(overall(values, part)) for part in parts]
        else:
            cells = [spread(list(values.get(metric, {}).values())) for metric in metrics]
        rows.append([label, str(len(set().union(*values.values()))), *cells, spread(overall(values, tasks))])
    return rows


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; of one value that alone."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def write_rows(scores: list[dict], curves: list[dict], out: Path) -> None:
    """Writes what `collect` gives to `out`: results.csv and loss.csv."""
    for name, columns, rows in (("results.csv", COLUMNS, scores), ("loss.csv", CURVE_COLUMNS, curves)):
        with whole(out / name) as partial, open(partial, "w", newline="") as lines:
            writer = csv.DictWriter(lines, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
