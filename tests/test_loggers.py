"""What a run leaves with W&B (offline) and TensorBoard: one curve without hole or repetition, also after a resume."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from test_train import TINY, column

from gte.figures import read_rows

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def resumed(script, prepared, tmp_path, monkeypatch):
    """Trains 4 steps, then goes on from step 2, as after a kill, to step 6; the run directory."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(logger: str) -> Path:
        common = [*TINY, f"data.dir={prepared}", f"logger={logger}", "checkpoint_every=2", "out=run"]
        assert script("train", *common, "stage.steps=4")[0] == 0
        checkpoints = tmp_path / "run" / "checkpoints"
        shutil.copy(checkpoints / "step-0000002.ckpt", checkpoints / "last.ckpt")
        code, _, err = script("train", *common, "stage.steps=6", "resume=auto")
        assert code == 0, err
        return tmp_path / "run"

    return run


def wandb_records(folder: Path) -> list[list]:
    """Records of each offline segment, in order of time. A .wandb file is a LevelDB log after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    segments = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        content, records, part, at = file.read_bytes(), [], b"", 7
        while at + 7 <= len(content):
            if 32_768 - at % 32_768 < 7:  # a block's end that has no room for a header
                at += 32_768 - at % 32_768
                continue
            _checksum, size, kind = struct.unpack_from("<IHB", content, at)
            part += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or the last part
                records.append(Record.FromString(part))
                part = b""
        segments.append(records)
    return segments


def history(records: list) -> list[dict]:
    rows = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in rows]


def test_a_resumed_run_is_one_wandb_run_with_every_step_once(resumed):
    run = resumed("wandb")
    first, second = wandb_records(run)
    ids = {record.run.run_id for record in first + second if record.WhichOneof("record_type") == "run"}
    assert ids == {json.loads((run / "wandb.json").read_text())["id"]}
    logged = [row for row in history(first) + history(second) if "train/loss" in row]
    assert [row["trainer/global_step"] for row in logged] == [0, 1, 2, 3, 4, 5]
    kept = column(run, "train/loss")
    assert [row["train/loss"] for row in logged[4:]] == pytest.approx(kept[4:])
    sources = {key for row in logged for key in row if key.startswith("train/loss/")}
    epochs = {key for row in logged for key in row if key.startswith("train/epochs/")}
    assert sources and len(sources) == len(epochs)

    metrics = [record.metric for record in first if record.WhichOneof("record_type") == "metric"]
    assert any(metric.glob_name == "*" and metric.step_metric == "trainer/global_step" for metric in metrics)
    config = {
        (item.key or item.nested_key[0]): item.value_json
        for record in first
        if record.WhichOneof("record_type") in ("config", "run")
        for item in (record.config.update if record.WhichOneof("record_type") == "config" else record.run.config.update)
    }
    assert json.loads(config["stage"])["global_batch"] == 32 and json.loads(config["seed"]) == 42
    artifacts = [record.request.log_artifact for record in second if record.HasField("request")]
    names = [one.artifact.type for one in artifacts] + [
        record.artifact.type for record in second if record.WhichOneof("record_type") == "artifact"
    ]
    assert "dataset" in names


def test_a_resumed_run_is_one_curve_in_tensorboard(resumed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = resumed("tensorboard")
    events = EventAccumulator(str(run)).Reload()
    scalars = events.Scalars("train/loss")
    assert [event.step for event in scalars] == [0, 1, 2, 3, 4, 5]
    assert [event.value for event in scalars] == pytest.approx(column(run, "train/loss"), rel=1e-5)
    assert len(read_rows(run / "metrics.csv")) == 6  # the csv is there too


def test_the_dashboard_shows_losses_by_size_and_by_source_over_one_axis():
    pytest.importorskip("wandb_workspaces")
    from gte.dashboard import STEP, dashboard

    workspace = dashboard("me", "gte", "training")
    panels = [panel for section in workspace.sections for panel in section.panels]
    assert {panel.x for panel in panels} == {STEP}
    by_title = {panel.title: panel for panel in panels}
    assert by_title["loss by source"].metric_regex == "train/loss/.*"
    assert "model" in str(by_title["loss by model size (Figure 4)"].groupby)
    assert [section.name for section in workspace.sections] == ["Loss", "Course", "Speed", "Evaluation"]


def test_without_a_key_the_dashboard_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "there is no W&B key" in script.refused("dashboard", "entity=me")
