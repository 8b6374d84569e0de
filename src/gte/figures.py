"""Pictures of runs."""

import csv
from pathlib import Path


def read_metric(metrics_csv: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric of a run's metrics.csv."""
    with open(metrics_csv, newline="") as lines:
        points = [(int(row["step"]), float(row[key])) for row in csv.DictReader(lines) if row.get(key)]
    return [step for step, _ in points], [value for _, value in points]


def loss_curves(runs: dict[str, Path], out: Path) -> None:
    """Writes a PNG with a panel a run: each step's loss, and their mean over the last 20 steps, by step.

    `runs` maps a title to a metrics.csv.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(runs), figsize=(6 * len(runs), 4), squeeze=False)
    for panel, (title, metrics_csv) in zip(panels[0], runs.items(), strict=True):
        steps, losses = read_metric(metrics_csv, "train/loss")
        means = [sum(losses[max(0, i - 19) : i + 1]) / len(losses[max(0, i - 19) : i + 1]) for i in range(len(losses))]
        panel.plot(steps, losses, linewidth=0.5, alpha=0.5, label="a step (one source each)")
        panel.plot(steps, means, linewidth=1.5, label="mean of 20 steps")
        panel.set(title=title, xlabel="step", ylabel="loss (nats)")
        panel.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    plt.close(figure)
