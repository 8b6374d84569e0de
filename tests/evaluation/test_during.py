"""An evaluation during training shows in the log and nowhere else."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import loaded_from
from evaluations import KnownEncoder
from launch import train as train_ranks
from logs import column, rows
from scipy.stats import spearmanr
from task_folders import write_retrieval, write_rows, write_sts
from trainings import DDP, RUN, TINY

from gte.evaluation.during import Evaluate, plan_evaluation
from gte.evaluation.model import EncoderModel

TRAIN = ["stage.steps=8", "model.dropout=0.2", "trainer.precision=32-true"]


@pytest.fixture
def suite(tmp_path):
    """A task whose score does not depend on chance, and two whose evaluators seed or draw from every generator."""
    write_sts(tmp_path / "suite" / "Related")
    write_retrieval(tmp_path / "suite" / "Found", documents=40)
    for split in ("train", "test"):
        texts = [{"text": f"{split} {i}", "label": i % 3} for i in range(30)]
        write_rows(tmp_path / "suite" / "Classes" / f"{split}.jsonl", texts)
    return tmp_path / "suite"


@pytest.mark.parametrize("start", ["random weights", "loaded from disk"])
def test_the_loss_curve_and_the_weights_are_bit_equal_with_and_without_evaluation(
    request, script, prepared, suite, tmp_path, start
):
    arguments = [*TINY, *TRAIN]
    if start == "loaded from disk":
        arguments = loaded_from(request.getfixturevalue("pretrained"), arguments)
    for out, more in (("without", []), ("with", ["evaluate_every=3", f"evaluate.data_dir={suite}"])):
        code, _, err = script("train", *arguments, f"data.dir={prepared}", f"out={out}", *more)
        assert code == 0, err
    without, with_ = (tmp_path / name for name in ("without", "with"))
    for key in ("train/loss", "train/grad_norm", "train/lr", "train/padding"):
        assert len(column(without, key)) == 8 and column(with_, key) == column(without, key)
    states = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (without, with_)
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    scored = {int(row["step"]): row for row in rows(with_) if row.get("eval/Related")}
    assert list(scored) == [2, 5, 7]  # after 3 and 6 steps, and after the last
    assert all(-100 <= float(row[f"eval/{name}"]) <= 100 for row in scored.values() for name in ("Found", "Classes"))
    assert len({row["eval/Related"] for row in scored.values()}) > 1  # the model did change
    assert {key for key in rows(with_)[0] if not key.startswith("eval/")} == set(rows(without)[0])


def test_the_last_evaluation_is_what_eval_gives_for_the_last_checkpoint(script, prepared, suite, tmp_path):
    arguments = ["evaluate_every=8", f"evaluate.data_dir={suite}", "evaluate.tasks=[Classes,Found,Related]"]
    code, _, err = script("train", *TINY, *TRAIN, f"data.dir={prepared}", "out=run", *arguments)
    assert code == 0, err
    code, _, err = script("eval", "checkpoint=run", "suite=local", f"data_dir={suite}", "out=eval")
    assert code == 0, err
    tasks = json.loads((tmp_path / "eval" / "results.json").read_text())["models"]["run"]["tasks"]
    last = rows(tmp_path / "run")[-1]
    for name, task in tasks.items():
        assert float(last[f"eval/{name}"]) == pytest.approx(task["main_score"], abs=0.5), name


def test_the_split_is_the_one_chosen_for_all_tasks_or_for_each(suite, monkeypatch):
    """Scores of the development data choose among checkpoints; those of the test data stay for the report."""
    write_sts(suite / "STSBenchmark")
    rows_of_dev = [{"sentence1": f"left {i}", "sentence2": f"right {i}", "score": -i} for i in range(20)]
    write_rows(suite / "STSBenchmark" / "validation.jsonl", rows_of_dev)
    every = {"Classes": "test", "Found": "test", "Related": "test", "STSBenchmark": "validation"}
    by_task = Evaluate(plan_evaluation(str(suite), None, {"STSBenchmark": "validation"}), 5, pause=print)
    assert {task.name: task.split for task in by_task.tasks} == every
    alone = plan_evaluation(str(suite), ["STSBenchmark"], "validation")
    encoder = KnownEncoder()
    monkeypatch.setattr("gte.evaluation.during.EncoderModel", lambda *_: EncoderModel(encoder))
    cosines = [encoder.vector(f"left {i}") @ encoder.vector(f"right {i}") for i in range(20)]
    expected = 100 * spearmanr(cosines, range(0, -20, -1)).statistic
    for evaluation in (by_task, Evaluate(alone, 5, pause=print)):
        found = evaluation.scores(SimpleNamespace(device=torch.device("cpu")))
        assert found["eval/STSBenchmark"] == pytest.approx(expected, abs=1e-3)
    test = Evaluate(plan_evaluation(str(suite), ["STSBenchmark"]), 5, pause=print)
    assert abs(test.scores(SimpleNamespace(device=torch.device("cpu")))["eval/STSBenchmark"] - expected) > 1


def test_a_best_of_other_data_is_not_compared_with(suite, capsys):
    write_rows(
        suite / "Related" / "dev.jsonl", [{"sentence1": f"a {i}", "sentence2": "b", "score": i} for i in range(9)]
    )
    test, dev, same = (
        Evaluate(plan_evaluation(str(suite), ["Related"], split), 5, pause=print, keep_best="eval/Related")
        for split in (None, "dev", None)
    )
    test.best, test.without = {"metric": "eval/Related", "score": 99.0, "step": 5}, 2
    for evaluation in (dev, same):
        evaluation.load_state_dict(test.state_dict())
    assert (dev.best, dev.without) == (None, 0) and (same.best, same.without) == (test.best, 2)
    assert "eval/Related was measured on other data before" in capsys.readouterr().err


@pytest.mark.slow
def test_rank_0_evaluates_while_the_others_wait(script, prepared, suite, tmp_path):
    script("train", "stage=pretrain", *RUN, f"data.dir={prepared}", "trainer=cpu", "out=one")
    evaluation = ["evaluate_every=4", f"evaluate.data_dir={suite}"]
    train_ranks(2, *RUN, *DDP, f"data.dir={prepared}", "out=two", *evaluation, cwd=tmp_path)
    one, two = (column(tmp_path / name, "train/loss") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert [row["step"] for row in rows(tmp_path / "two") if row["eval/Found"]] == ["3", "5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate_every=2"], "name evaluate.data_dir="),
        (["evaluate_every=-2", "evaluate.data_dir=suite"], "evaluate_every=-2 must be at least 1"),
        (["evaluate_every=2", "evaluate.data_dir=nowhere"], "nowhere does not exist"),
        (["evaluate_every=2", "evaluate.data_dir=suite", "evaluate.tasks=[Relatd]"], "did you mean Related"),
        (["evaluate_every=2", "evaluate.data_dir=suite", "evaluate.split=dev"], "suite/Classes lacks dev.jsonl"),
        (
            ["evaluate_every=2", "evaluate.data_dir=suite", "evaluate.split={Found: dev}"],
            "suite/Found lacks qrels/dev.tsv or qrels/dev.tsv.gz or qrels/dev.jsonl or qrels/dev.jsonl.gz (there are",
        ),
        (
            ["evaluate_every=2", "evaluate.data_dir=suite", "evaluate.split={Relatd: dev}"],
            "Relatd is no task of this evaluation, did you mean Related?",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_training(script, prepared, suite, arguments, message):
    assert message in script.refused("train", *TINY, f"data.dir={prepared}", "out=run", *arguments)
