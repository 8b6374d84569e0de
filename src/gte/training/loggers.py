"""Loggers whose curves go on where a run goes on: metrics.csv, Weights & Biases and TensorBoard."""

import csv
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from gte.curves import read_rows
from gte.errors import tell
from gte.files import whole
from gte.models.load import HISTORY_FILE

STEP = "trainer/global_step"  # what WandbLogger defines as the x axis of every metric
BLOCK, HEADER = 32_768, 7  # bytes, of a .wandb file


class CsvRun(Logger):
    """`out`/metrics.csv: a row a call, its step and the metrics by name, each number as Python writes it.

    A run that goes on keeps the rows of the steps before it. Rows are appended; where a column is new, or rows go, the
    file is written anew beside its place first, so that a kill loses no more than the rows of the last `every` steps.
    Rank 0 alone writes.
    """

    name = version = None

    def __init__(self, out: str, every: int = 10):
        super().__init__()
        self.file, self.every = Path(out) / "metrics.csv", every
        self.columns: list[str] = []
        self.rows: list[dict] = []

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Keeps the rows before `step`, 0-based, of what the file holds."""
        self.rows = rows_before(step, self.file)
        self.columns = []
        self.save()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append({key: float(value) for key, value in metrics.items()} | {"step": step})
        if (step + 1) % self.every == 0:
            self.save()

    def log_hyperparams(self, *_, **__) -> None:
        """Hydra keeps them, in .hydra."""

    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        if self.columns and not self.file.exists():  # an append would go on without a header, or end in a traceback
            first = self.rows[0]["step"]
            tell(f"note: {self.file} was removed: a new one begins at step {first}")
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.columns = []
        columns = sorted(set(self.columns).union(*self.rows))
        if columns == self.columns:
            with open(self.file, "a", newline="") as lines:
                csv.DictWriter(lines, columns).writerows(self.rows)
        else:
            written = read_rows(self.file) if self.columns else []
            with whole(self.file) as partial, open(partial, "w", newline="") as lines:
                table = csv.DictWriter(lines, columns)
                table.writeheader()
                table.writerows([*written, *self.rows])
        self.columns, self.rows = columns, []

    def finalize(self, status: str) -> None:
        self.save()


class WandbRun(WandbLogger):
    """A run in W&B: the settings, the metrics by step, and as artifacts the data's manifest.json and the run's history.

    `data` is the prepared folder, `resume` what train.py was told. A run that goes on in the same `out` goes on as the
    same W&B run, whose id is kept in `out`; steps that W&B was given before, beyond the checkpoint, are not given
    again, and those that a kill kept from it are. Offline unless a key is at hand. Rank 0 alone logs.
    """

    def __init__(self, out: str, data: str, resume: str | None, settings: dict, **options):
        offline_without_key()
        os.environ.setdefault("WANDB_SILENT", "true")  # it prints some 35 lines a run
        self.out, self.manifest = Path(out), Path(data) / "manifest.json"
        self.last: dict[str, int] = {}  # metric -> the last step that W&B was given of it
        if rank_zero_only.rank == 0:
            file = self.out / "wandb_id"
            if resume is None or not file.exists():
                with whole(file) as partial:
                    partial.write_text(secrets.token_hex(4))
            options["id"] = file.read_text()
            for segment in sorted(self.out.glob(f"wandb/*run-*-{options['id']}/*.wandb")):
                self.last |= last_steps(segment)
        super().__init__(save_dir=out, config=settings, **options)

    @property
    def experiment(self):
        begins = self._experiment is None
        run = super().experiment
        if begins and self._experiment is not None:  # on rank 0
            print(f"W&B run {run.id}: {run.url or run.dir}", flush=True)
            self.keep("manifest", "data", self.manifest.name, self.manifest.read_text())
        return run

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Gives W&B what metrics.csv holds of the steps before `step` and W&B does not: it had not yet written it."""
        for row in rows_before(step, self.out / "metrics.csv"):
            number = int(row.pop("step"))
            self.log_metrics({key: float(value) for key, value in row.items()}, step=number)

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
        if status == "success" and (self.out / HISTORY_FILE).exists():
            facts = (self.out / HISTORY_FILE).read_text()
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


def rows_before(step: int, file: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv before `step`, 0-based, without what they leave empty; not one that a kill has cut."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(whole.splitlines())
    return [{key: value for key, value in row.items() if value} for row in rows if int(row["step"]) < step]


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
    data = []
    for label, *scores in rows:
        data.append([label, *(float(score) if score else None for score in scores)])
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
