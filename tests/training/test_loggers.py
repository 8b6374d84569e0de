"""W&B and TensorBoard hold what metrics.csv holds, once, also where a run was stopped and went on."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from launch import train as train_ranks
from logs import column, logged, rows, segments
from task_folders import write_sts
from trainings import DDP, RUN, TINY

from gte.errors import UserError
from gte.training.loggers import CsvRun, read_records

KEY = "0123456789abcdef" * 3


@pytest.fixture(autouse=True)
def no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def train(script, prepared):
    def run(*arguments):
        code, _, err = script("train", *TINY, "stage.steps=8", f"data.dir={prepared}", *arguments)
        assert code == 0, err

    return run


def metrics(run) -> dict[str, dict[int, float]]:
    """The same of metrics.csv."""
    table = rows(run)
    keys = [key for key in table[0] if key != "step"]
    return {key: {int(row["step"]): float(row[key]) for row in table if row[key]} for key in keys}


def assert_holds(found: dict, expected: dict) -> None:
    assert len(expected) > 10
    for key, values in expected.items():
        assert found[key] == pytest.approx(values), key


def stop_at(run, step: int) -> None:
    """Leaves of a run what a kill leaves: logs that reach beyond the newest checkpoint."""
    shutil.copy(run / "checkpoints" / f"step-{step:07d}.ckpt", run / "checkpoints" / "last.ckpt")


def test_wandb_holds_the_metrics_the_settings_the_manifest_and_the_history(train, prepared, tmp_path, monkeypatch):
    write_sts(tmp_path / "suite" / "Related")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    train("out=run", "logger=wandb", "evaluate_every=4", "evaluate.data_dir=suite", "optim.lr=0.00321")
    run = tmp_path / "run"
    (records,) = segments(run)
    found = logged(records)
    table = metrics(run)
    assert list(table["eval/Related"]) == [3, 7] and {"train/pairs_per_s", "train/tokens_per_s"} <= set(table)
    assert any(key.startswith("train/epochs/") for key in table)
    assert_holds(found, table)

    config = next(record.run for record in records if record.HasField("run")).config
    config = {item.key: json.loads(item.value_json) for item in config.update}
    composed = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
    assert config["optim"] == composed["optim"] | {"lr": 0.00321} and config["loss"] == composed["loss"]
    assert set(composed) <= set(config) and config["data"]["dir"] == str(prepared)
    assert config["choices"]["model"] == "tiny"
    axes = {record.metric.glob_name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert axes["*"] == "trainer/global_step"
    names = {record.request.log_artifact.artifact.name for record in records if record.HasField("request")}
    names |= {record.artifact.name for record in records if record.HasField("artifact")}
    identity = (run / "wandb_id").read_text()
    assert {"manifest", f"training-{identity}"} <= names
    staged = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "staging" in path.parts]
    assert (prepared / "manifest.json").read_bytes() in staged
    assert any(b'"commit"' in content and b'"epochs"' in content for content in staged)
    assert not any(KEY.encode() in path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_a_killed_run_goes_on_as_the_same_wandb_run_and_logs_no_step_twice(train, tmp_path):
    train("out=run", "logger=wandb", "checkpoint_every=3")
    run = tmp_path / "run"
    stop_at(run, 3)
    file = cut_within(run, 5)  # two steps beyond the checkpoint, and a part of the next
    train("out=run", "logger=wandb", "checkpoint_every=3", "resume=auto")
    first, second = segments(run)
    assert {record.run.run_id for record in first + second if record.HasField("run")} == {file.stem.split("-")[-1]}
    assert list(logged(first)["train/loss"]) == [0, 1, 2, 3, 4] and list(logged(second)["train/loss"]) == [5, 6, 7]
    measured = ("train/pairs_per_s", "train/tokens_per_s", "train/peak_memory_mb")  # these differ when done again
    assert_holds(
        logged(first + second), {key: steps for key, steps in metrics(run).items() if not key.startswith(measured)}
    )


def test_steps_that_a_kill_kept_from_wandb_are_given_to_it_later(train, tmp_path):
    train("out=run", "logger=wandb", "checkpoint_every=3")
    run = tmp_path / "run"
    stop_at(run, 6)
    cut_within(run, 2)
    train("out=run", "logger=wandb", "checkpoint_every=3", "resume=auto")
    first, second = segments(run)
    assert list(logged(first)["train/loss"]) == [0, 1] and list(logged(second)["train/loss"]) == [2, 3, 4, 5, 6, 7]
    assert_holds(logged(first + second), metrics(run))


def cut_within(run, step: int) -> Path:
    """Leaves of the run's .wandb file what a kill within that step leaves."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    cut = next(size for size in range(len(content), 0, -1) if not has_step(file, content[:size], step))
    assert has_step(file, content[:cut], step - 1)
    return file


def has_step(file, content: bytes, step: int) -> bool:
    file.write_bytes(content)
    return any(record.history.step.num >= step for record in read_records(file) if record.history.item)


def test_a_run_that_does_not_resume_is_another_wandb_run(train, tmp_path):
    for _ in range(2):
        train("out=run", "logger=wandb", "stage.steps=2")
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    first, second = segments(tmp_path / "run")
    assert list(logged(first)["train/loss"]) == list(logged(second)["train/loss"]) == [0, 1]
    names = [{record.run.run_id for record in records if record.HasField("run")} for records in (first, second)]
    assert len(set.union(*names)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["wandb", "tensorboard"])
def test_rank_0_alone_logs(prepared, tmp_path, logger):
    home = {"HOME": tmp_path, "WANDB_MODE": "offline"}
    train_ranks(2, *RUN, *DDP, f"data.dir={prepared}", "out=run", f"logger={logger}", cwd=tmp_path, **home)
    files = [*(tmp_path / "run").glob("wandb/offline-run-*"), *(tmp_path / "run" / "tensorboard").glob("events.*")]
    assert len(files) == 1 and len(column(tmp_path / "run", "train/loss")) == 6


def curves(run) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a run; asserts that it shows no step twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    found = {}
    for key in shown.Tags()["scalars"]:
        events = shown.Scalars(key)
        found[key] = {event.step: event.value for event in events}
        assert len(found[key]) == len(events), key
    return found


def test_tensorboard_shows_the_metrics_once_also_of_a_run_that_went_on(train, tmp_path):
    run = tmp_path / "run"
    train("out=run", "logger=tensorboard", "checkpoint_every=3")
    assert_holds(curves(run), metrics(run))
    stop_at(run, 3)
    train("out=run", "logger=tensorboard", "checkpoint_every=3", "resume=auto")
    assert len(list((run / "tensorboard").glob("events.*"))) == 2
    assert list(metrics(run)["train/loss"]) == list(range(8))
    assert_holds(curves(run), metrics(run))


def test_evaluation_logs_its_table(script, small_model, tmp_path):
    write_sts(tmp_path / "suite" / "Related")
    arguments = [f"checkpoint={small_model}", "suite=local", "data_dir=suite", "out=eval"]
    code, _, err = script("eval", *arguments, "wandb=true")
    assert code == 0, err
    (records,) = segments(tmp_path / "eval")
    (table,) = (json.loads(path.read_text()) for path in (tmp_path / "eval").rglob("results_*.table.json"))
    header, row = (line.split(",") for line in (tmp_path / "eval" / "table.csv").read_text().splitlines())
    assert table["columns"] == header and table["data"] == [[row[0], *map(float, row[1:])]]
    assert any("results" in (item.key, *item.nested_key) for record in records for item in record.history.item)


def test_metrics_cut_at_any_byte_go_on_with_the_whole_rows_before(tmp_path):
    logger = CsvRun(tmp_path, every=1)
    for step, values in enumerate(({"a": 0.1}, {"a": 0.2}, {"a": 0.3, "b": 7.0}, {"b": 8.0})):
        logger.log_metrics(values, step)
    content = (tmp_path / "metrics.csv").read_bytes()
    expected = [("0.1", ""), ("0.2", ""), ("0.3", "7.0"), ("", "8.0")]
    for cut in range(len(content) + 1):
        (tmp_path / "metrics.csv").write_bytes(content[:cut])
        whole = max(content[:cut].count(b"\r") - 1, 0)
        again = CsvRun(tmp_path, every=1)
        again.begin(3)
        again.log_metrics({"c": 1.0}, 3)
        found = [(row.get("a", ""), row.get("b", ""), row["c"]) for row in rows(tmp_path)]
        assert found == [(*pair, "") for pair in expected[: min(whole, 3)]] + [("", "", "1.0")], cut


@pytest.mark.parametrize(
    "content", ["\0" * 40 + "\n", "\0" * 40 + "\n\0\n", "loss\n1.0\n", "step,loss\nx,1.0\n", "\xff\xfe\n1\n"]
)
def test_a_metrics_file_that_is_no_table_is_one_line(tmp_path, content):
    logger = CsvRun(tmp_path)
    logger.file.write_bytes(content.encode("latin-1"))
    try:
        logger.begin(3)
    except UserError as error:
        assert "metrics.csv cannot be read (" in str(error) and "move it away" in str(error)
    else:
        assert content.count("\n") == 1  # nothing in it but a header
