"""An ablation's runs as rows: which points were trained, with what settings, and what they scored.

A run's directory is named after its point, `key=value,key=value`; so is `run` in results.csv. Of the results.json
below a run's directory count the scores of the run's own checkpoints, by their plain vectors.
"""

import csv
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean, stdev

import yaml

from gte.curves import Curve, read_metric, read_rows
from gte.errors import UserError, tell
from gte.files import read_json, whole
from gte.models.load import history
from gte.results.paper import Table
from gte.stage import Stage

COLUMNS = ("run", "commit", "overrides", "seed", "metric", "value")
CURVE_POINTS = 50  # of a loss curve: each the mean over that share of the steps
Groups = Mapping[str, Sequence[str]]  # a group's name -> the names of its tasks, or patterns such as STS*
ROUNDING = 0.001  # of scores in results.json, which have three decimals
LAST_STEPS = 20  # that the training loss of a run is the mean of


def collect(runs: Path) -> tuple[list[dict], list[dict]]:
    """Scores, a row each in COLUMNS, and loss curves, {run, step, loss}, of the finished runs under `runs`.

    Scores are those of evaluations during training, and those of the run's own checkpoints in every results.json within
    its directory; where they are of several steps, `run` has the step. The training loss is there as well, as
    train/loss. A run that is not finished is skipped with a line on stderr. The training's seconds are there as
    train/seconds. Raises UserError where none is finished, and where two results.json disagree.
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
        found = measured(folder, facts)
        several = len({step for step, _ in found}) > 1
        for (step, metric), value in found.items():
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


def measured(folder: Path, facts: dict) -> dict[tuple[int, str], float]:
    """(steps trained, metric) -> value of a run, scores in points of 100; their mean is not one of its own.

    An evaluation after training counts in place of one during it of the same step and task: it says what data and what
    precision it was made with. Where they differ by more than rounding, a line tells by how much at most.
    """
    found = {}
    rows = read_rows(folder / "metrics.csv")
    for row in rows:
        for key, value in row.items():
            if key.startswith("eval/") and key != "eval/mean" and value:
                found[int(row["step"]) + 1, key.removeprefix("eval/")] = float(value)
    steps, rates = facts["steps"], read_metric(folder / "metrics.csv", "train/pairs_per_s")
    found[steps, "train/loss"] = mean(float(row["train/loss"]) for row in rows[-LAST_STEPS:] if row["train/loss"])
    found[steps, "train/seconds"] = seconds(rates, facts["stage"]["global_batch"])
    apart = {}
    for (step, task), (value, file) in evaluated(folder, facts).items():
        during = found.get((step, task), value)
        if abs(during - value) > ROUNDING:
            apart[abs(during - value)] = f"{task} at step {step} {value:.3f} in {file}, {during:.3f} in training"
        found[step, task] = value
    if apart:
        tell(f"note: {folder}: results.json counts where an evaluation in training differs, most {apart[max(apart)]}")
    return found


def evaluated(folder: Path, facts: dict) -> dict[tuple[int, str], tuple[float, Path]]:
    """(steps trained, task) -> main score of the run's own checkpoints, and the results.json that has it.

    What else such a file scores does not count: BM25, other checkpoints, vectors that were cut or kept as codes. A line
    tells of a file in which nothing counts. Raises UserError where a task has several values at one step.
    """
    found: dict[tuple[int, str], dict[float, Path]] = {}
    for file in sorted(folder.glob("**/results.json")):
        models = read_json(file).get("models", {})
        of_steps = [(model, step_scored(model, folder, facts)) for model in models.values()]
        if all(step is None for _, step in of_steps):
            tell(f"left out: {file}, no model in it is a checkpoint of {folder} with its plain vectors")
        for model, step in of_steps:
            for task, result in model["tasks"].items() if step is not None else ():
                found.setdefault((step, task), {}).setdefault(result["main_score"], file)
    for (step, task), values in found.items():
        if len(values) > 1:
            told = ", ".join(f"{value:.3f} in {file}" for value, file in values.items())
            raise UserError(f"{folder}: {task} at step {step} is {told}; move what is not to count out of {folder}")
    return {key: next(iter(values.items())) for key, values in found.items()}


def step_scored(model: dict, folder: Path, facts: dict) -> int | None:
    """The step of this run whose weights a model of a results.json has; None where it is no such model.

    Args:
        model: its entry; `checkpoint` is as eval.py was given it, "<checkpoint> fp32" where it was asked for
            `precisions`. Vectors that `widths` names are not plain: a file does not say the model's own width.
        folder: the run's directory, which may be a symlink, as may be the folder of its checkpoints.
    """
    checkpoint = model["checkpoint"]
    if "vectors" in model:
        if checkpoint.endswith(f" {model['width']} fp32") or model["vectors"] != "float32":
            return None
        checkpoint = checkpoint.removesuffix(" fp32")
    path, homes = Path(checkpoint), {folder.resolve(), (folder / "checkpoints").resolve()}
    if path.resolve() in homes:
        return facts["steps"]
    if path.suffix != ".ckpt" or path.parent.resolve() not in homes:
        return None
    if (step := path.stem.removeprefix("step-")).isdigit():
        return int(step)
    return {"last": facts["steps"], "best": facts.get("best", {}).get("step")}.get(path.stem)  # not ema: other weights


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

    A row without a seed counts as one of its run's. Raises UserError where a seed has two values of a metric.
    """
    found: dict[tuple, dict[str, dict[str, float]]] = {}
    runs: dict[tuple, str] = {}
    for row in scores:
        entry, seed, value = tuple(point(row["run"]).items()), row.get("seed", row["run"]), float(row["value"])
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


def seed_means(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Seed -> mean over a point's tasks, of the seeds that have all of them."""
    tasks = list(tasks_of(metrics).values())
    complete = [seed for seed in (tasks[0] if tasks else {}) if all(seed in values for values in tasks)]
    return {seed: mean(values[seed] for values in tasks) for seed in complete}


def overall(metrics: dict[str, dict[str, float]]) -> list[float]:
    """Each seed's mean over its tasks; a seed that lacks one is left out, see `tell_lacking`."""
    return list(seed_means(metrics).values())


def tell_lacking(scores: list[dict]) -> None:
    """Tells, a line each, of the seeds that lack a task which others of their point have: no mean counts them."""
    for entry, metrics in by_point(scores, []).items():
        tasks = tasks_of(metrics)
        for seed in dict.fromkeys(seed for values in tasks.values() for seed in values):
            if lacking := [name for name, values in tasks.items() if seed not in values]:
                label = ", ".join(f"{key} {value}" for key, value in entry)
                tell(f"left out of the mean of tasks: {label}, seed {seed}, which lacks {', '.join(lacking)}")


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
        only_seeds = key == "run" and x.startswith("seed=")
        group.setdefault("ours" if only_seeds else x, []).append(of_run[run])
    return panels


def scores_by_seconds(scores: list[dict], order: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Point -> (seconds of training, mean of tasks) of each seed, where both are known."""
    found = {}
    for entry, metrics in by_point(scores, order).items():
        spent = {seed: value for seed, value in metrics.get("train/seconds", {}).items() if value > 0}
        if both := [(spent[seed], value) for seed, value in seed_means(metrics).items() if seed in spent]:
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
    for entry, values in by_point(scores, order).items():
        label = ", ".join(f"{key} {value}" for key, value in entry)
        if groups:
            parts = [{name: values[name] for name in values if in_group(name, group)} for group in groups.values()]
            cells = [spread(overall(part)) for part in parts]
        else:
            cells = [spread(list(values.get(metric, {}).values())) for metric in metrics]
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
