"""The W&B dashboard: what one looks at while models train."""

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

STEP = "trainer/global_step"


def dashboard(entity: str, project: str, name: str) -> ws.Workspace:
    """A workspace of W&B with loss curves by model size (Figure 4) and by source, speed, epochs and scores.

    Nothing is sent before its save().
    """

    def lines(title: str, **options) -> wr.LinePlot:
        return wr.LinePlot(title=title, x=STEP, title_x="step", **options)

    loss = [
        lines("loss", y=["train/loss"], smoothing_factor=0.9, title_y="nats"),
        lines(
            "loss by model size (Figure 4)",
            y=["train/loss"],
            groupby="config.model.name_or_path",
            smoothing_factor=0.9,
            title_y="nats",
        ),
        lines("loss by source", metric_regex="train/loss/.*", smoothing_factor=0.9, title_y="nats"),
    ]
    course = [
        lines("learning rate", y=["train/lr"]),
        lines("gradient norm", y=["train/grad_norm"], log_y=True),
        lines("steps skipped", y=["train/skipped"]),
        lines("epochs by source", metric_regex="train/epochs/.*"),
    ]
    speed = [
        lines("pairs/s", y=["train/pairs_per_s"]),
        lines("tokens/s", y=["train/tokens_per_s"]),
        lines("peak memory (MB)", y=["train/peak_memory_mb"]),
    ]
    scores = [lines("scores during training", metric_regex="eval/.*")]
    sections = {"Loss": loss, "Course": course, "Speed": speed, "Evaluation": scores}
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
    )
