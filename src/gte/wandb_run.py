"""The W&B logger of a run directory: one W&B run, however often the training is stopped and resumed."""

import json
import secrets
from pathlib import Path

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

RECORD = (
    "wandb.json"  # in the run directory: the W&B run's id and the last step that each kind of metric was logged for
)


class RunLogger(WandbLogger):
    """A W&B run that belongs to the directory `save_dir`.

    All curves share the axis trainer/global_step. After a resume the same W&B run goes on, and steps that it has
    already, those between the last checkpoint and the end, are not logged again: they come out the same. Offline, each
    start is a segment of its own under the same id; `wandb sync` puts them together. `manifest`, the prepared data's
    manifest.json, is an artifact of the run.
    """

    def __init__(self, save_dir: str, *, manifest: str | None = None, **options):
        self.record, self.manifest = Path(save_dir) / RECORD, manifest
        known = json.loads(self.record.read_text()) if self.record.exists() else {"id": secrets.token_hex(4)}
        self.last: dict[str, int] = known.get("last", {})
        self.earlier = dict(self.last)
        super().__init__(save_dir=save_dir, id=known["id"], resume="allow", **options)

    @rank_zero_only
    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        kind = next(iter(metrics)).split("/")[0]  # train or eval: a step has one of each
        if step is not None and step <= self.earlier.get(kind, -1):
            return
        super().log_metrics(metrics, step)
        if step is not None:
            self.last[kind] = step
            written = self.record.with_suffix(".new")
            written.write_text(json.dumps({"id": self._wandb_init["id"], "last": self.last}))
            written.replace(self.record)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is None:
            return
        if status == "success" and self.manifest:
            data = wandb.Artifact(f"data-{self._wandb_init['id']}", "dataset")
            data.add_file(self.manifest)
            self._experiment.log_artifact(data)
        self._experiment.finish(exit_code=int(status != "success"))
