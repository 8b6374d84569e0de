"""Figures in the style of a paper: readable in a column of 3.4 inches, safe for the colour-blind, as PNG and as SVG.

Each function writes `out` (a .png) and an .svg beside it, which is the same for the same numbers; with out=None, in a
notebook, the figure stays open. No panel has more than six curves. matplotlib is imported when a figure is drawn.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING

from gte.curves import (
    MOST_CURVES,
    Curve,
    band,
    best_for_the_time,
    chunks,
    read_metric,
    read_metrics,
    running_mean,
    spread,
    steps_made,
    window_of,
)
from gte.files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 3.4, 2.4  # inches of a panel: the column of a two-column paper
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # of Okabe and Ito
MARKERS = ["o", "s", "^", "D", "v", "P"]
Points = list[tuple[str, list[float]]]  # x, the score of each seed
STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib's own, so that a figure is the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text as text: a tenth of the size
    "svg.hashsalt": "gte",
}


@contextmanager
def picture(out: Path | None, panels: int, height: float = HEIGHT) -> Iterator[list]:
    """Axes of `panels`, two in a row; when they are drawn they get their legends, and the figure its files.

    Args:
        out: a .png, beside which an .svg is written; None leaves the figure open.
        height: inches of a panel.
    """
    import matplotlib

    if out is not None:
        matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(panels, 2)
    rows = ceil(panels / columns)
    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": matplotlib.cycler(color=COLOURS)}):
        size = (WIDTH * columns, height * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for unused in axes.flat[panels:]:
            unused.set_axis_off()
        yield list(axes.flat[:panels])
        for panel in axes.flat[:panels]:
            if panel.get_legend_handles_labels()[1] not in ([], ["ours"]):
                panel.legend()
        if out is not None:
            with whole(out) as partial:
                figure.savefig(partial, format="png", dpi=200)
            with whole(out.with_suffix(".svg")) as partial:
                figure.savefig(partial, format="svg", metadata={"Date": None})
            plt.close(figure)


def loss_curves(runs: Mapping[str, Path], out: Path | None = None) -> None:
    """Draw a panel a run: each step's loss, faint, and its running mean.

    Args:
        runs: a title -> a metrics.csv.
        out: a .png, beside which an .svg is written; None leaves the figure open.
    """
    with picture(out, len(runs)) as panels:
        for panel, (title, metrics_csv) in zip(panels, runs.items(), strict=True):
            steps, losses = steps_made(read_metric(metrics_csv, "train/loss"))
            window = window_of(len(losses))
            panel.plot(steps, losses, linewidth=0.5, alpha=0.35, color=COLOURS[0], label="a step (one source each)")
            panel.plot(steps, running_mean(losses, window), color=COLOURS[0], label=f"mean of {window} steps")
            panel.set(title=title, xlabel="step", ylabel="loss (nats)")


def loss_by_source(metrics_csv: Path, title: str, out: Path | None = None) -> None:
    """Draws a run's running mean loss of each source, over that source's own steps, at most six a panel.

    Draws nothing where the run has no source's loss.
    """
    curves = read_metrics(metrics_csv).items()
    parts = chunks([(key, steps_made(curve)) for key, curve in curves if key.startswith("train/loss/")])
    if not parts:
        return
    with picture(out, len(parts)) as panels:
        for number, (panel, part) in enumerate(zip(panels, parts, strict=True), 1):
            for key, (steps, values) in part:
                panel.plot(steps, running_mean(values, window_of(len(values))), label=key.removeprefix("train/loss/"))
            of = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            panel.set(title=f"{title}{of}", xlabel="step", ylabel="loss (nats)")


def ablation(
    ours: Mapping[str, Points], paper: list[list[str]] | None, title: str, x_label: str, out: Path | None = None
) -> None:
    """Draws our scores by point with one standard deviation over seeds, and beside them the paper's.

    Heights do not compare, since the tasks and models are others. Where both have the same points they share a panel of
    differences, each curve less its own mean over the points, which shows whether the direction is the same.

    Args:
        ours: a line's label -> (x, the score of each seed).
        paper: header and rows, x in the first column.
        x_label: of our points.
    """
    theirs: dict[str, Points] = {}
    for column, name in enumerate(paper[0][1:] if paper else [], 1):
        theirs[name] = [(row[0], [float(row[column])]) for row in paper[1:]]
    parts = chunks(list(ours.items()))
    agree = bool(theirs) and len(ours) < MOST_CURVES and same_points([*ours.values(), *theirs.values()])
    with picture(out, len(parts) + bool(theirs)) as panels:
        for panel, part in zip(panels, parts, strict=False):
            draw_points(panel, dict(part))
            panel.set(title=f"{title}: ours", xlabel=x_label, ylabel="mean of tasks (points of 100)")
        if agree:
            room = MOST_CURVES - len(ours)
            last = dict(list(theirs.items())[-room:])  # the mean over all tasks is the last column
            compared = {f"ours, {key}" if len(ours) > 1 else key: less_mean(points) for key, points in ours.items()}
            compared |= {f"paper, {key}": less_mean(points) for key, points in last.items()}
            draw_points(panels[-1], compared, hollow="paper, ")
            labels = {"xlabel": x_label, "ylabel": "difference (points of 100)"}
            panels[-1].set(title="less each curve's own mean", **labels)
        elif theirs:
            draw_points(panels[-1], theirs)
            panels[-1].set(title=f"{title}: the paper", ylabel="score (points of 100)", xlabel=paper[0][0])


def same_points(curves: Sequence[Points]) -> bool:
    """Whether all curves have the same x, however they are written: capitals or not, 1 or 1.0."""
    return len({tuple(place_of(x) for x, _ in points) for points in curves}) == 1


def place_of(x: str) -> float | str:
    """An x as the number that it is, or as a word in small letters."""
    try:
        return float(x)
    except ValueError:
        return x.casefold()


def less_mean(points: Points) -> Points:
    """The points less the mean of their means."""
    middle = sum(spread(values)[0] for _, values in points) / len(points)
    return [(x, [value - middle for value in values]) for x, values in points]


def draw_points(panel: "Axes", curves: Mapping[str, Points], hollow: str = "\n") -> None:
    """Draws mean and standard deviation by x: a line with a band where x are numbers, points where they are categories.

    hollow: what the labels of curves begin with whose marks are not filled.
    """
    places = list(dict.fromkeys(place_of(x) for points in curves.values() for x, _ in points))
    numbers = all(isinstance(place, float) for place in places) and len(places) > 1
    if numbers:
        scale_numbers(panel, sorted(places))
    else:
        names = {place_of(x): x for points in list(curves.values())[::-1] for x, _ in points}
        panel.set_xticks(range(len(places)), [str(names[place]).replace("_", " ") for place in places])
        panel.set_xlim(-0.5, len(places) - 0.5)
    for number, (label, points) in enumerate(curves.items()):
        aside = 0 if numbers else 0.1 * (number - (len(curves) - 1) / 2)
        xs = [place_of(x) if numbers else places.index(place_of(x)) + aside for x, _ in points]
        means, deviations = map(list, zip(*(spread(values) for _, values in points), strict=True))
        colour, marker = COLOURS[number % 6], MARKERS[number % 6]
        filled = {"markerfacecolor": "white" if label.startswith(hollow) else colour}
        if numbers:
            panel.plot(xs, means, marker=marker, color=colour, label=label, **filled)
            lows, highs = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
            panel.fill_between(xs, lows, highs, color=colour, alpha=0.2, linewidth=0)
        else:
            style = {"color": colour, "marker": marker, "linestyle": "none", "label": label}
            seeds = any(len(values) > 1 for _, values in points)
            panel.errorbar(xs, means, deviations if seeds else None, elinewidth=1, capsize=2, **style, **filled)


def scale_numbers(panel: "Axes", places: list[float]) -> None:
    """Ticks at the numbers themselves; by their logarithm where they rise by factors or span more than 10."""
    if is_geometric(places) or (places[0] > 0 and places[-1] / places[0] > 10):
        panel.set_xscale("log")
    panel.set_xticks(places, [f"{place / 1000:g}k" if place >= 10_000 else f"{place:g}" for place in places])
    panel.minorticks_off()


def is_geometric(places: list[float]) -> bool:
    """Whether numbers rise by factors, as batches of 64, 256, 512 do, and steps of 400, 800, 1,200 do not.

    >>> is_geometric([64, 256, 512]), is_geometric([400, 800, 1200]), is_geometric([0, 0.5, 1])
    (True, False, False)
    """
    factors = [after / before for before, after in pairwise(places)] if places[0] > 0 else []
    return len(factors) > 1 and min(factors) >= 2


def loss_of_points(curves: Mapping[str, Mapping[str, Sequence[Curve]]], title: str, out: Path | None = None) -> None:
    """Draws the training loss by step: a curve a point, the mean over seeds, in a band of one standard deviation.

    curves: a panel's title -> a curve's label -> steps and losses of each seed.
    """
    parts = [(name, part) for name, group in curves.items() for part in chunks(list(group.items()))]
    with picture(out, len(parts)) as panels:
        for panel, (name, part) in zip(panels, parts, strict=True):
            for label, seeds in part:
                steps, means, deviations = band(seeds)
                (line,) = panel.plot(steps, means, label=label)
                lows, highs = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
                panel.fill_between(steps, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
            heading = f"{title}, {name}" if name else title
            panel.set(title=heading, xlabel="step", ylabel="training loss (nats)")


def mixture_shares(sizes: Mapping[str, int], alphas: Sequence[float], out: Path | None = None) -> None:
    """Draws each source's share of the batches, Eq. 4, at several alphas; the largest source on top.

    Args:
        sizes: pairs of each source.
        alphas: at most six a panel.
    """
    from gte.data.mixture import Mixture

    names = sorted(sizes, key=sizes.get)
    parts = chunks(alphas)
    with picture(out, len(parts), height=0.9 + 0.14 * len(names)) as panels:
        for panel, part in zip(panels, parts, strict=True):
            for number, alpha in enumerate(part):
                mixture = Mixture([sizes[name] for name in names], alpha=alpha, seed=0, global_batch=1)
                style = {"marker": MARKERS[number], "linestyle": "none", "color": COLOURS[number]}
                panel.plot(100 * mixture.probabilities, range(len(names)), label=f"α = {alpha:g}", **style)
            panel.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=6)
            panel.set(xscale="log", xlabel="share of batches (%)", ylim=(-0.7, len(names) - 0.3))
            panel.xaxis.set_major_formatter("{x:g}")


def score_by_seconds(points: Mapping[str, Sequence[tuple[float, float]]], title: str, out: Path | None = None) -> None:
    """Draws score against seconds of training, a mark a point with one standard deviation over seeds in both.

    The line joins what no other point beats in both. points: a label -> (seconds, score) of each seed.
    """
    import matplotlib.ticker

    with picture(out, 1) as (panel,):
        middles = []
        for number, (label, seeds) in enumerate(points.items()):
            (x, dx), (y, dy) = (spread(values) for values in zip(*seeds, strict=True))
            middles.append((x, y))
            style = {"marker": MARKERS[number % 6], "color": COLOURS[number % 6], "capsize": 2, "elinewidth": 1}
            panel.errorbar(x, y, dy, dx, linestyle="none", zorder=3, **style)
            panel.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=6)
        front = best_for_the_time(middles)
        panel.step(*zip(*front, strict=True), where="post", color="0.6", linewidth=0.8, label="best for the time")
        seconds = [x for x, _ in middles]
        if log10(max(seconds) / min(seconds)) > 1:
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        panel.margins(x=0.25)
        if panel.get_xscale() == "linear":
            panel.set_xlim(left=0)
        panel.set(title=title, xlabel="seconds of training", ylabel="mean of tasks (points of 100)")
