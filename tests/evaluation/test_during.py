"""An evaluation during training shows in the log and nowhere else."""

import json

import numpy as np
import pytest
import torch
from conftest import loaded_from
from launch import train as train_ranks
from logs import column, rows
from task_folders import write_retrieval, write_rows, write_sts
from trainings import DDP, RUN, TINY

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
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_training(script, prepared, suite, arguments, message):
    assert message in script.refused("train", *TINY, f"data.dir={prepared}", "out=run", *arguments)
