"""Loggers whose curves go on where a run goes on: Weights & Biases and TensorBoard."""

import json
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from gte.hub import HISTORY_FILE, history

STEP = "trainer/global_step"  # what WandbLogger defines as the x axis of every metric
BLOCK, HEADER = 32_768, 7  # bytes, of a .wandb file


class WandbRun(WandbLogger):
    """A run in W&B: the settings, the metrics by step, and as artifacts the data's manifest.json and the run's history.

    `data` is the prepared folder, `resume` what train.py was told. A run that goes on in the same `out` goes on as the
    same W&B run, whose id is kept in `out`; steps that W&B was given before, beyond the checkpoint, are not given
    again. Offline unless a key is at hand. Rank 0 alone logs.
    """

    def __init__(self, out: str, data: str, resume: str | None, settings: dict, **options):
        offline_without_key()
        self.out, self.manifest = Path(out), Path(data) / "manifest.json"
        self.last: dict[str, int] = {}  # metric -> the last step that W&B was given of it
        if rank_zero_only.rank == 0:
            file = self.out / "wandb_id"
            if resume is None or not file.exists():
                file.write_text(secrets.token_hex(4))
            options["id"] = file.read_text()
            for segment in sorted(self.out.glob(f"wandb/*run-*-{options['id']}/*.wandb")):
                self.last |= last_steps(segment)
        super().__init__(save_dir=out, config=settings, **options)

    @property
    def experiment(self):
        begins = self._experiment is None
        run = super().experiment
        if begins and self._experiment is not None:  # on rank 0
            self.keep("manifest", "data", self.manifest.name, self.manifest.read_text())
        return run

    def keep(self, name: str, kind: str, file: str, text: str) -> None:
        """Logs a text as an artifact of one file."""
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        with artifact.new_file(file) as content:
            content.write(text)
        self._experiment.log_artifact(artifact)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        new = {key: value for key, value in metrics.items() if step > self.last.get(key, -1)}
        if new:
            self.experiment.log(new | {STEP: step}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is None:
            return
        if status == "success":
            facts = json.dumps(history(self.out), indent=1)
            self.keep(f"training-{self._experiment.id}", "history", HISTORY_FILE, facts)
        self._experiment.finish(exit_code=0 if status == "success" else 1)


class TensorBoardRun(TensorBoardLogger):
    """TensorBoard's curves. Of a run that goes on, readers drop what was logged beyond the step where it goes on."""

    begun = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if not self.begun:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            self.begun = True  # what SummaryWriter(purge_step=) writes; Lightning makes it before the step is known
            start = Event(session_log=SessionLog(status=SessionLog.START))
            self.experiment._get_file_writer().add_event(start, step)
        super().log_metrics(metrics, step)


def has_key() -> bool:
    """Whether a key for W&B is at hand."""
    return bool(os.environ.get("WANDB_API_KEY")) or (Path.home() / ".netrc").exists()


def offline_without_key() -> None:
    """Sets W&B's mode by its variable: WandbLogger(offline=True) fails after an earlier run in the same process."""
    if not has_key():
        os.environ.setdefault("WANDB_MODE", "offline")


def log_table(rows: list[list[str]], out: str, config: dict) -> None:
    """Logs a table of scores as `results` in a W&B run of its own. Header first, labels in the first column."""
    import wandb

    offline_without_key()
    header, *rows = rows
    data = [[label, *(float(score) if score else None for score in scores)] for label, *scores in rows]
    with wandb.init(project="gte", job_type="eval", dir=out, config=config) as run:
        run.log({"results": wandb.Table(columns=header, data=data)})


def last_steps(file: Path) -> dict[str, int]:
    """Metric -> the last step that a .wandb file has of it."""
    found = {}
    for record in read_records(file):
        for item in record.history.item:
            found["/".join(item.nested_key) or item.key] = record.history.step.num
    return found


def read_records(file: Path) -> Iterator:
    """The records of a .wandb file up to where a kill may have cut it.

    The format is LevelDB's log after a header of 7 bytes: blocks of 32 KiB, in them fragments of
    checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4: last), content.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # no fragment begins in the last bytes of a block
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        at += HEADER + length
        if at > len(content):
            return
        record += content[at - length : at]
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""
