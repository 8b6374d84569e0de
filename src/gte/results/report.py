"""report.html: a run, or an experiment, on one page that opens anywhere without a network, a server or a script.

A page shows what is there: of a run without evaluations, or of an older version that logged less, the rest.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from statistics import median

import yaml

from gte.curves import LAST, Curve, band, chunks, last_mean, read_metrics, running_mean, spread, steps_made, window_of
from gte.errors import UserError, tell
from gte.files import whole
from gte.results.ablation import all_steps, averaged, by_point, losses_by_line, overall, seconds, table
from gte.results.differences import differences
from gte.results.page import Line, chart, charts, dots, note, number, page, section, tiles
from gte.results.page import table as html_table
from gte.results.record import history_of
from gte.results.scored import has_weights_of_now, left_out, named
from gte.results.table import cells
from gte.ticker import spell

FILE = "report.html"
SPEED = {"train/tokens_per_s": "tokens / s", "train/pairs_per_s": "pairs / s", "train/peak_memory_mb": "MB"}
OPTIMIZATION = {
    "train/lr": "",
    "train/grad_norm": "L2",
    "train/temperature": "τ",
    "train/padding": "share of tokens",
    "train/skipped": "count",
}
TITLES = {
    "train/tokens_per_s": "Tokens per second",
    "train/pairs_per_s": "Pairs per second",
    "train/peak_memory_mb": "Peak memory",
    "train/lr": "Learning rate",
    "train/grad_norm": "Gradient norm",
    "train/temperature": "Temperature",
    "train/padding": "Padding",
    "train/skipped": "Skipped steps",
}
UNSMOOTHED = ("train/lr", "train/peak_memory_mb", "train/temperature", "train/skipped")
TESTED = "Paired t-tests, over seeds and over tasks, not corrected for the number of rows."


def write_run_report(run: Path, stages: list[dict] | None = None) -> Path:
    """Writes RUN/report.html: loss, by source too, speed and memory, evaluation, scores, settings, data, commit.

    Args:
        run: a run directory; one that was killed, or of an older version, will do.
        stages: the run's history, oldest stage first; None reads it from the run's newest checkpoint.
    Returns: the file, which is written completely or not at all.
    Raises UserError where the directory is no run's: it has no metrics.csv.
    """
    if not (run / "metrics.csv").is_file():
        raise UserError(f"{run} is no run directory: it has no metrics.csv; name the out= of a src/train.py")
    curves = read_metrics(run / "metrics.csv")
    earlier, facts = split(history_of(run) if stages is None else stages)
    parts = [
        tiles(summary(curves, facts)),
        section("Loss", charts(smoothed("train/loss", "Training loss", "nats", curves)), floor_note(facts)),
        section("Loss by source", charts(*by_prefix("train/loss/", "Loss by source", "nats", curves))),
        section("Evaluation", charts(*evaluations(curves)), evaluation_table(curves)),
        *scores(run),
        section("Throughput and memory", charts(*metrics(SPEED, curves))),
        section("Epochs by source", charts(*by_prefix("train/epochs/", "Epochs", "times through", curves, mean=False))),
        section("Data", sources_table(curves, facts)),
        section("Optimization", charts(*metrics(OPTIMIZATION, curves), *masked(curves))),
        section("Earlier stages", earlier_table(earlier)),
        section("Settings", command_of(run), settings_table(facts)),
    ]
    stage = facts.get("stage", {}).get("name", "run")
    return write(run / FILE, page(f"{run.resolve().name}: {stage}", status(curves, facts), parts))


def write_experiment_report(
    out: Path,
    name: str,
    scores: list[dict],
    losses: list[dict],
    order: list[str],
    paper: list | None = None,
    stages: Sequence = (),
) -> Path:
    """Writes OUT/report.html of an experiment: scores by point with their intervals, loss, the paper, runs, data.

    Args:
        scores, losses: rows as in results.csv and loss.csv.
        order: the values of the grid in order.
        paper: header and rows of the paper's table, if it has one.
        stages: the histories of the runs, where they are at hand: for their data.
    Returns: the file, which is written completely or not at all.
    """
    points = by_point(scores, order)
    tasks = averaged(points)
    metric_names = list(dict.fromkeys(row["metric"] for row in scores))
    figures = [dots("Mean of tasks", "points of 100", rows_of(points, lambda found: overall(found, tasks)))]
    for metric in metric_names:
        unit = {"train/loss": "nats", "train/seconds": "seconds"}.get(metric, "points of 100")
        figures.append(
            dots(metric, unit, rows_of(points, lambda found, metric=metric: list(found.get(metric, {}).values())))
        )
    panels = []
    for title, group in losses_by_line(losses, order).items():
        for part in chunks(list(group.items())):
            panels.append(chart(title or "Training loss", "nats", [banded(label, curves) for label, curves in part]))
    runs = {row["run"]: row for row in scores}
    commits = sorted({row["commit"][:7] for row in scores})
    settings = ["run", "seed", "commit", "overrides"]
    rows = [settings, *([str(row[key]) for key in settings] for row in runs.values())]
    compared = differences(scores, order)
    parts = [
        section("Scores", charts(*figures), note("Marks are means, lines one standard deviation over seeds.")),
        section("All scores", html_table(table(scores, order))),
        section("Differences", html_table(compared), note(TESTED)) if len(compared) > 1 else "",
        section("The paper's table", html_table(paper) if paper else ""),
        section("Loss", charts(*panels), note("Bands are one standard deviation over seeds.")) if panels else "",
        section("Data", sources_table({}, {"sources": all_sources(stages)})),
        section("Runs", html_table(rows)),
    ]
    seeds = len({row["seed"] for row in scores})
    said = f"{len(points)} points, {len(runs)} runs, {seeds} seed{'s' * (seeds > 1)}; commit {', '.join(commits)}"
    return write(out / FILE, page(f"Experiment {name}", said, parts))


def write(file: Path, content: str) -> Path:
    """Write a page so that a kill leaves it complete, or what was there before."""
    with whole(file) as partial:
        partial.write_text(content, encoding="utf-8")
    return file


def split(stages: list[dict]) -> tuple[list[dict], dict]:
    """The stages before, and the last; an empty one where there is none."""
    return (stages[:-1], stages[-1]) if stages else ([], {})


def planned_steps(facts: dict) -> int | None:
    """The steps that the run was to make; None where its facts do not say, as an older version's may."""
    if stated := facts.get("stage", {}).get("steps"):
        return stated
    try:
        return all_steps(facts)
    except (KeyError, TypeError, ValueError):
        return None


def steps_done(curves: dict[str, Curve], facts: dict) -> int:
    """The steps that the run has made: those that its checkpoint counts, or was killed after."""
    return max([facts.get("steps", 0), *(curve[0][-1] + 1 for curve in curves.values())])


def status(curves: dict[str, Curve], facts: dict) -> str:
    """One line: how far the run came, and the commit that trained it."""
    steps = steps_done(curves, facts)
    planned = planned_steps(facts)
    said = f"{steps:,} steps" if planned is None else f"{steps:,} of {planned:,} steps"
    if "stopped_early" in facts:
        said += ", ended early as configured"
    elif planned is not None and steps < planned:
        said += ", not finished: resume=auto goes on"
    return said + (f"; commit {facts['commit']}" if "commit" in facts else "")


def summary(curves: dict[str, Curve], facts: dict) -> dict[str, str]:
    """The numbers at the head of the page."""
    found = {}
    if "train/loss" in curves:
        found[f"loss, mean of the last {LAST}"] = number(last_mean(curves["train/loss"][1]))
    if "eval/mean" in curves:
        found["evaluation, mean of tasks"] = number(curves["eval/mean"][1][-1])
    if "best" in facts:
        found[f"best {facts['best']['metric']}, step {facts['best']['step']:,}"] = number(facts["best"]["score"])
    for key in ("train/tokens_per_s", "train/pairs_per_s"):
        if key in curves:
            found[f"{TITLES[key].lower()}, median"] = number(median(curves[key][1]))
    if "train/peak_memory_mb" in curves:
        found["peak memory, MB"] = number(max(curves["train/peak_memory_mb"][1]))
    batch = facts.get("stage", {}).get("global_batch", 0)
    if spent := seconds(curves.get("train/pairs_per_s", ([], [])), batch, steps_done(curves, facts)):
        found["training, evaluations not counted"] = spell(spent)
    return found


def smoothed(key: str, title: str, unit: str, curves: dict[str, Curve]) -> str:
    """A chart of a metric at each step, and its running mean; nothing where the run has not logged it."""
    if not any(curves.get(key, ([], []))[1]):  # not logged, or zero at every step: no step skipped, no padding
        return ""
    xs, values = steps_made(curves[key])
    if key in UNSMOOTHED:
        return chart(title, unit, [Line(title, key, xs, values)])
    window = window_of(len(values))
    mean = Line(f"mean of {window} steps", key, xs, running_mean(values, window))
    return chart(title, unit, [Line("each step", key, xs, values, "raw"), mean])


def by_prefix(prefix: str, title: str, unit: str, curves: dict[str, Curve], mean: bool = True) -> list[str]:
    """Charts of at most six sources each: each source's values, faint, and their running mean, in one colour."""
    found = [(key, steps_made(curve)) for key, curve in curves.items() if key.startswith(prefix)]
    panels = []
    for count, part in enumerate(parts := chunks(found), 1):
        lines = []
        for key, (xs, values) in part:
            name = key.removeprefix(prefix)
            if mean:
                lines.append(Line(name, key, xs, values, "raw"))
                values = running_mean(values, window_of(len(values)))
            lines.append(Line(name, key, xs, values))
        panels.append(chart(title + (f", {count} of {len(parts)}" if len(parts) > 1 else ""), unit, lines))
    return panels


def metrics(units: Mapping[str, str], curves: dict[str, Curve]) -> list[str]:
    return [smoothed(key, TITLES[key], unit, curves) for key, unit in units.items()]


def masked(curves: dict[str, Curve]) -> list[str]:
    return by_prefix("train/masked/", "Masked candidates", "share", curves)


def floor_note(facts: dict) -> str:
    """Says below which value the improved loss cannot fall."""
    improved = facts.get("loss") == "improved_contrastive_loss"
    return note("The floor of the improved loss is ln 2 = 0.69: Eq. 6 counts the positive twice.") if improved else ""


def evaluations(curves: dict[str, Curve]) -> list[str]:
    """Charts of the scores during training, at most six tasks each; their mean by itself."""
    panels = []
    if "eval/mean" in curves:
        panels.append(chart("Mean of tasks", "points of 100", [score_line("eval/mean", curves)]))
    tasks = [key for key in curves if key.startswith("eval/") and key != "eval/mean"]
    for part in chunks(tasks):
        panels.append(chart("Tasks", "points of 100", [score_line(key, curves) for key in part]))
    return panels


def score_line(key: str, curves: dict[str, Curve]) -> Line:
    """A score as marks that are joined."""
    name = "Mean of tasks" if key == "eval/mean" else key.removeprefix("eval/")
    return Line(name, key, *steps_made(curves[key]), "dot")


def evaluation_table(curves: dict[str, Curve]) -> str:
    """First, best and last score of each task."""
    rows = [["task", "first", "best", "at step", "last"]]
    for key, (steps, values) in curves.items():
        if key.startswith("eval/"):
            best = max(range(len(values)), key=lambda k: values[k] if isfinite(values[k]) else -inf)
            name = key.removeprefix("eval/")
            rows.append([name, *map(number, (values[0], values[best])), f"{steps[best] + 1:,}", number(values[-1])])
    return html_table(rows) if len(rows) > 1 else ""


def scores(run: Path) -> list[str]:
    """A section for each results.json in the run's directory, or beside it where it scores this run.

    A model of other weights than its checkpoint in this run has now is left out with a line, as in `collect`.
    """
    found, own = [], run.resolve()
    for file in sorted({*run.glob("**/results.json"), *own.parent.glob("*/results.json")}):
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            paths = {label: Path(named(model)[0]).resolve() for label, model in results["models"].items()}
            cells(results)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # another file of that name, or of another version
        mine = [label for label, path in paths.items() if own in (path, *path.parents)]
        if not mine and own not in file.resolve().parents:
            continue
        for label in mine:
            if not has_weights_of_now(results["models"][label]):
                tell(left_out(file, label, results["models"].pop(label)))
        if mine and not any(label in results["models"] for label in mine):
            continue  # none but baselines
        turned = [list(column) for column in zip(*cells(results), strict=True)]  # models across: there are fewer
        told = note(f"{file.parent.name}/{file.name}; commit {results.get('commit', 'not known')}")
        found.append(section(f"Scores: {results.get('suite', '')}", html_table(turned), told))
    return found


def sources_table(curves: dict[str, Curve], facts: dict) -> str:
    """A row a source: pairs, planned and drawn share of the batches, epochs, last loss, licence."""
    sources = facts.get("sources") or {}
    drawn = {key.removeprefix("train/loss/"): c for key, c in curves.items() if key.startswith("train/loss/")}
    total = sum(len(values) for _, values in drawn.values())
    rows = [["source", "pairs", "share planned", "share drawn", "epochs", f"last loss (mean of {LAST})", "licence"]]
    for name in dict.fromkeys([*sources, *drawn]):
        about = sources.get(name, {})
        losses = drawn.get(name, ([], []))[1]
        epochs = curves.get(f"train/epochs/{name}", ([], []))[1]
        planned = about.get("probability")
        rows.append(
            [
                name,
                f"{about['rows']:,}" if "rows" in about else "",
                "" if planned is None else f"{planned:.1%}",
                f"{len(losses) / total:.1%}" if losses else "",
                number(epochs[-1]) if epochs else "",
                number(last_mean(losses)) if losses else "",
                str(about.get("licence", "")),
            ]
        )
    return html_table(without_empty_columns(rows)) if len(rows) > 1 else ""


def without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    """The columns that have a value below the header."""
    kept = [k for k in range(len(rows[0])) if any(row[k] for row in rows[1:])]
    return [[row[k] for k in kept] for row in rows]


def all_sources(histories: Sequence[list[dict]]) -> dict[str, dict]:
    """The sources of all stages of several runs by name; their shares, which differ, are not of all."""
    found: dict[str, dict] = {}
    for stage in (stage for stages in histories for stage in stages):
        for name, about in (stage.get("sources") or {}).items():
            found.setdefault(name, {}).update({key: about[key] for key in ("rows", "licence") if key in about})
    return found


def earlier_table(stages: list[dict]) -> str:
    """A row a stage before this one."""
    rows = [["stage", "steps", "batch", "loss", "sources", "commit"]]
    for facts in stages:
        stage = facts.get("stage", {})
        values = [stage.get("name"), facts.get("steps"), stage.get("global_batch"), facts.get("loss")]
        values += [", ".join(facts.get("sources") or {}), facts.get("commit")]
        rows.append(["" if value is None else str(value) for value in values])
    return html_table(rows) if stages else ""


def command_of(run: Path) -> str:
    """The command line of the run, as Hydra has kept it."""
    file = run / ".hydra" / "overrides.yaml"
    try:
        overrides = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return ""
    return note("python src/train.py " + shlex.join(map(str, overrides))) if isinstance(overrides, list) else ""


def settings_table(facts: dict) -> str:
    """Every fact of the last stage, dotted, except its sources, which have a table of their own."""
    shown = {key: value for key, value in facts.items() if key not in ("sources", "epochs")}
    rows = [["setting", "value"], *flat(shown)]
    return html_table(rows) if len(rows) > 1 else ""


def flat(values: dict, prefix: str = "") -> list[list[str]]:
    """Nested facts as rows of a dotted key and its value."""
    rows = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append([f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)])
    return rows


def rows_of(points: dict, values_of: Callable[[object], list[float]]) -> list[tuple[str, float, float, list[float]]]:
    """A row of `gte.results.page.dots` for each point that has values."""
    found = []
    for entry, metrics_found in points.items():
        if values := values_of(metrics_found):
            found.append((", ".join(value for _, value in entry), *spread(values), values))
    return found


def banded(label: str, seeds: list[Curve]) -> Line:
    """The mean over seeds, in a band of one standard deviation where there are several."""
    steps, means, deviations = band(seeds)
    return Line(label, "loss", steps, means, spread=deviations if len(seeds) > 1 else [])
