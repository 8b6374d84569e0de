"""Pictures of runs."""

import csv
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def read_metric(metrics_csv: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric of a run's metrics.csv."""
    points = [(int(row["step"]), float(row[key])) for row in read_rows(metrics_csv) if row.get(key)]
    return [step for step, _ in points], [value for _, value in points]


@contextmanager
def picture(out: Path, panels: int, width: float):
    """Axes for a picture of `panels` next to each other, each `width` inches wide, which is written to `out`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(width * panels, 4), squeeze=False)
    yield axes[0]
    for panel in axes[0]:
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def loss_curves(runs: dict[str, Path], out: Path) -> None:
    """Writes a PNG with a panel a run: each step's loss, and their mean over the last 20 steps, by step.

    `runs` maps a title to a metrics.csv.
    """
    with picture(out, len(runs), 6) as panels:
        for panel, (title, metrics_csv) in zip(panels, runs.items(), strict=True):
            steps, losses = read_metric(metrics_csv, "train/loss")
            windows = [losses[max(0, i - 19) : i + 1] for i in range(len(losses))]
            panel.plot(steps, losses, linewidth=0.5, alpha=0.5, label="a step (one source each)")
            panel.plot(steps, [mean(window) for window in windows], linewidth=1.5, label="mean of 20 steps")
            panel.set(title=title, xlabel="step", ylabel="loss (nats)")


def ablation(ours: dict[str, list[tuple[str, list[float]]]], paper: list[list[str]] | None, title: str, out: Path):
    """Writes a PNG: our scores by point, with the seeds' standard deviation, and the paper's table beside them.

    `ours`: a line's label -> (x, the score of each seed). `paper`: header and rows, x in the first column. The scores
    are of different tasks and models, so each has its own axis.
    """
    with picture(out, 2 if paper else 1, 5) as panels:
        for label, points in ours.items():
            errors = [stdev(values) if len(values) > 1 else 0.0 for _, values in points]
            places = place(panels[0], [x for x, _ in points])
            panels[0].errorbar(
                places, [mean(values) for _, values in points], errors, marker="o", capsize=3, label=label
            )
        panels[0].set(title=f"{title}: ours", ylabel="mean of tasks")
        for column, name in enumerate(paper[0][1:] if paper else [], 1):
            values = [float(row[column]) for row in paper[1:]]
            panels[1].plot(place(panels[1], [row[0] for row in paper[1:]]), values, marker="o", label=name)
            panels[1].set(title=f"{title}: the paper", xlabel=paper[0][0])


def place(panel, labels: list[str]) -> range:
    """Places of these labels next to each other on the x axis."""
    places = range(len(labels))
    panel.set_xticks(places, labels)
    return places


def curves_of_runs(curves: dict[str, tuple[list[int], list[float]]], title: str, out: Path) -> None:
    """Writes a PNG with the loss curve of every run, {label: (steps, losses)}."""
    with picture(out, 1, 6) as (panel,):
        for label, (steps, losses) in curves.items():
            panel.plot(steps, losses, linewidth=1.2, label=label)
        panel.set(title=title, xlabel="step", ylabel="training loss (nats)")
