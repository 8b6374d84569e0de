"""The page on which W&B shows all runs of a project: sections of curves, kept as code."""

from gte.errors import UserError
from gte.training.loggers import STEP


def dashboard(entity: str, project: str, name: str):
    """A wandb_workspaces Workspace: loss by model size and by source, throughput, epochs by source, evaluation.

    By step; made without the network, and not yet saved. A curve of many metrics finds them by their prefix, so that
    it has whatever sources and tasks the runs have. Raises UserError where wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports.v2 import Config, WeavePanelSummaryTable
    except ModuleNotFoundError as error:
        raise UserError(f"the dashboard needs {error.name}: pip install -r requirements-dashboard.txt") from error

    by_size = {"groupby": Config("choices.model"), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    smooth = {"smoothing_type": "average", "smoothing_factor": 0.9, "smoothing_show_original": True}
    sections = {
        "Loss by model size": [curve("mean and range of a size's runs", ["train/loss"], **by_size, **smooth)],
        "Loss by source": [curve("a line a source and run", prefix="train/loss/", **smooth)],
        "Throughput": [curve(key, [f"train/{key}"], **by_size) for key in ("pairs_per_s", "tokens_per_s")],
        "Epochs by source": [curve("how often a source was gone through", prefix="train/epochs/")],
        "Evaluation": [
            curve("main scores while training, points of 100", prefix="eval/"),
            WeavePanelSummaryTable(table_name="results"),  # what eval.py wandb=true logs
        ],
        "Optimization": [curve(key, [f"train/{key}"]) for key in ("lr", "grad_norm", "skipped")],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[workspaces.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis=STEP, max_runs=50),
    )


def curve(title: str, metrics: list[str] | None = None, *, prefix: str | None = None, **look):
    """A LinePlot by step of the metrics that are named, or of all that begin with `prefix`."""
    from wandb_workspaces.reports.v2 import LinePlot

    return LinePlot(title=title, x=STEP, y=metrics or [], metric_regex=prefix and f"^{prefix}.*", **look)
