"""The best of a run is kept and the run ended where scores rise no more: the same after kills, and on all ranks."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from launch import alone, start
from launch import script as run_script
from logs import rows
from task_folders import write_sts
from trainings import DDP, RUN, TINY

from gte.evaluation.during import Evaluate, check_keep_best, plan_evaluation
from gte.evaluation.suite import Plan
from gte.training.resume import finished

CURVE = {2: 10.0, 4: 30.0, 6: 20.0, 8: 40.0, 10: 35.0, 12: 40.0, 14: 39.0, 16: 41.0, 18: 5.0, 20: 5.0}
KEEP = ["evaluate_every=2", "keep_best=eval/mean", "early_stop=3", "checkpoint_every=3", "keep_initial=true"]


def follow(kill_at: int | None = None, rank: int = 0) -> None:
    """Has evaluations give CURVE's score of their step; kills this process where best.ckpt of a step is written but
    no other checkpoint of it."""
    from gte.evaluation.during import Evaluate
    from gte.training.checkpoint import Checkpoints

    evaluate, save = Evaluate.on_train_batch_end, Checkpoints.on_train_batch_end

    def at_step(self, trainer, task, outputs, batch, index):
        self.at = batch.step + 1
        evaluate(self, trainer, task, outputs, batch, index)

    def scores(self, encoder):
        assert rank == 0
        return {"eval/Related": -CURVE[self.at], "eval/mean": CURVE[self.at]}

    def die_or_save(self, trainer, task, outputs, batch, index):
        if batch.step + 1 == kill_at:
            trainer.strategy.checkpoint_io.finish()
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, trainer, task, outputs, batch, index)

    Evaluate.on_train_batch_end, Evaluate.scores = at_step, scores
    Checkpoints.on_train_batch_end = die_or_save


def follow_here(monkeypatch) -> None:
    """`follow` in this process, until the test's end."""
    from gte.evaluation.during import Evaluate
    from gte.training.checkpoint import Checkpoints

    for kept, name in ((Evaluate, "on_train_batch_end"), (Evaluate, "scores"), (Checkpoints, "on_train_batch_end")):
        monkeypatch.setattr(kept, name, getattr(kept, name))  # what `follow` replaces is put back
    follow()


def train(kill_at: int | None, *arguments: str) -> None:
    """src/train.py with scores of CURVE, on a process of `launch.start`."""
    follow(kill_at, int(os.environ.get("RANK", 0)))
    run_script("train", *arguments)


def state(run, name: str = "last.ckpt") -> dict:
    return torch.load(run / "checkpoints" / name, weights_only=True)


def evaluations(run) -> dict:
    (found,) = (kept for name, kept in state(run)["callbacks"].items() if "Evaluate" in name)
    return found


def test_a_killed_run_keeps_the_same_best_and_stops_at_the_same_step(script, prepared, tmp_path, monkeypatch):
    write_sts(tmp_path / "suite" / "Related")
    arguments = [*TINY, "stage.steps=20", f"data.dir={prepared}", f"evaluate.data_dir={tmp_path / 'suite'}", *KEEP]

    def launch(kill_at, *more) -> tuple[int, str]:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        (code,) = start(1, train, kill_at, *arguments, *more, cwd=tmp_path, log=log, launcher=alone)
        return code, log.read_text()

    code, said = launch(None, "out=whole")
    assert code == 0 and "best eval/mean: 40.00 after step 8" in said and "ended early: 3 evaluations" in said, said
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert state(whole)["global_step"] == 14
    assert state(whole, "best.ckpt")["global_step"] == 8  # neither the last nor the equal one at 12
    kills = (8, 13)  # best.ckpt is ahead of the last checkpoint; that of step 12 has counted two in a row
    assert [launch(kill, "out=cut", "resume=auto")[0] for kill in kills] == [-signal.SIGKILL] * 2
    assert evaluations(cut)["without"] == 2
    code, said = launch(None, "out=cut", "resume=auto")
    assert code == 0 and "best eval/mean: 40.00 after step 8" in said and "ended early" in said, said
    best = {"metric": "eval/mean", "score": 40.0, "step": 8}
    counted = evaluations(whole)
    assert evaluations(cut) == counted and (counted["best"], counted["without"]) == (best, 3)
    assert state(cut)["history"] == state(whole)["history"] and state(whole)["history"][-1]["best"] == best
    for name in ("best.ckpt", "last.ckpt"):
        one, two = (state(run, name) for run in (cut, whole))
        assert one["global_step"] == two["global_step"]
        assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    assert [row["eval/mean"] for row in rows(cut)] == [row["eval/mean"] for row in rows(whole)]
    code, said, err = script("train", *arguments, "out=cut", "resume=auto")
    assert code == 0 and "was done already" in said, err
    last, facts = whole / "checkpoints" / "last.ckpt", state(whole)["history"][-1]
    begun = {key: facts[key] for key in ("seed", "early_stop", "keep_best")}
    assert finished(last, begun, 20) and not finished(last, begun | {"early_stop": 4}, 20)  # lengthened
    follow_here(monkeypatch)
    code, said, err = script("train", *arguments, "out=new", f"resume={last}")  # its best.ckpt is not there
    assert code == 0 and "best.ckpt is not there, not the best up to here, of step 8" in err, err
    assert "best eval/mean: 41.00 after step 16" in said


def test_a_best_of_other_tasks_or_other_data_is_not_the_best_of_these(tmp_path, capsys):
    """Its score would stay the highest for good, of another quantity."""
    for name, other in (("STS12", False), ("STS13", False), ("STS12", True)):
        write_sts(tmp_path / ("other" if other else "tasks") / name, rows=5 + other)

    def evaluation(folder: str, tasks: list[str], keep_best: str) -> Evaluate:
        found = plan_evaluation(str(tmp_path / folder), tasks)
        return Evaluate(found, 2, pause=lambda _: None, keep_best=keep_best)

    mean = evaluation("tasks", ["STS12", "STS13"], "eval/mean")
    mean.best, mean.without = {"metric": "eval/mean", "score": 90.0, "step": 4}, 1
    alone = evaluation("tasks", ["STS12"], "eval/STS12")
    alone.best = {"metric": "eval/STS12", "score": 80.0, "step": 2}
    for kept, settings, same in (
        (mean, ("tasks", ["STS12", "STS13"], "eval/mean"), True),
        (mean, ("tasks", ["STS12"], "eval/mean"), False),
        (alone, ("tasks", ["STS12", "STS13"], "eval/STS12"), True),  # what else is scored does not matter
        (alone, ("other", ["STS12"], "eval/STS12"), False),
    ):
        resumed = evaluation(*settings)
        resumed.load_state_dict(kept.state_dict())
        assert (resumed.best == kept.best) is same and (resumed.without == kept.without) is (same or not kept.without)
        assert ("the best is chosen anew" in capsys.readouterr().err) is not same


def test_two_ranks_stop_at_the_step_at_which_one_does(prepared, tmp_path):
    write_sts(tmp_path / "suite" / "Related")
    arguments = [*RUN, *DDP, "stage.steps=20", f"data.dir={prepared}", f"evaluate.data_dir={tmp_path / 'suite'}", *KEEP]
    log = tmp_path / "log"
    assert start(2, train, None, *arguments, "out=two", cwd=tmp_path, log=log) == [0, 0], log.read_text()[-3000:]
    assert state(tmp_path / "two")["global_step"] == 14 and evaluations(tmp_path / "two")["without"] == 3
    assert state(tmp_path / "two", "best.ckpt")["global_step"] == 8
    assert [row["step"] for row in rows(tmp_path / "two")][-1] == "13"


def test_the_best_is_exported_and_evaluated_by_its_name_in_the_run(script, prepared, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    from gte.models.load import load_encoder

    write_sts(tmp_path / "suite" / "Related")
    follow_here(monkeypatch)
    evaluation = ["evaluate_every=2", "keep_best=eval/Related", "evaluate.data_dir=suite", "checkpoint_every=2"]
    arguments = [*TINY, "stage.steps=6", "optim.lr=0.01", f"data.dir={prepared}", *evaluation]
    code, out, err = script("train", *arguments, "out=run")
    assert code == 0 and "best eval/Related: -10.00 after step 2" in out, err
    code, _, err = script("export", "checkpoint=run/best.ckpt", "out=model")
    assert code == 0, err
    texts = ["one text", "another text about blue"]
    assert "- chosen by: eval/Related = -10.00, the highest" in (tmp_path / "model" / "README.md").read_text()
    assert script("export", "checkpoint=run/best.ckpt", "mix_with=run/checkpoints/last.ckpt", "out=mixed")[0] == 0
    words = "0.5 × those of step 2 (chosen by eval/Related = -10.00, the highest during training) + 0.5 × last.ckpt"
    assert f"- weights: {words}\n" in (tmp_path / "mixed" / "README.md").read_text()
    exported = SentenceTransformer(str(tmp_path / "model")).encode(texts)
    best, last = (load_encoder(f"run/checkpoints/{name}").encode(texts) for name in ("step-0000002.ckpt", "last.ckpt"))
    np.testing.assert_allclose(exported, best, atol=1e-6)
    assert np.abs(exported - last).max() > 1e-3
    code, _, err = script("eval", "checkpoint=run/best.ckpt", "suite=local", "data_dir=suite", "out=eval")
    assert code == 0, err
    assert list(json.loads((tmp_path / "eval" / "results.json").read_text())["models"]) == ["best"]
    assert "did you mean best.ckpt" in script.refused("export", "checkpoint=run/checkpoints/bset.ckpt", "out=other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keep_best=eval/mean"], "keep_best=eval/mean needs evaluations: set evaluate_every="),
        (["early_stop=2"], "early_stop=2 needs a score to watch: keep_best="),
        (["keep_best=eval/Relatd"], "keep_best=eval/Relatd is not measured by these evaluations, did you mean eval/R"),
        (["keep_best=ndcg"], "keep_best=ndcg is not measured by these evaluations; there are eval/mean, eval/Related"),
        (["keep_best=eval/mean", "early_stop=0"], "early_stop=0 must be at least 1 and whole, or null"),
        (["keep_best=eval/mean", "early_stop=2", "evaluate_every=end"], "early_stop= needs more evaluations"),
    ],
)
def test_what_is_never_measured_is_said_before_the_training(script, prepared, tmp_path, arguments, message):
    write_sts(tmp_path / "suite" / "Related")
    evaluation = [] if "needs" in message and "more" not in message else ["evaluate.data_dir=suite"]
    if evaluation and "evaluate_every=end" not in arguments:
        evaluation.append("evaluate_every=2")
    assert message in script.refused("train", *TINY, f"data.dir={prepared}", "out=run", *evaluation, *arguments)


def test_evaluations_may_be_a_suite_by_name(tmp_path, capsys, monkeypatch):
    from evaluations import suite_of
    from task_folders import write_retrieval

    from gte.errors import UserError

    for name in ("NanoSciFactRetrieval", "NanoNQRetrieval"):
        write_retrieval(tmp_path / name, split="train")
    found = plan_evaluation(str(tmp_path), "nano")
    assert list(found.run) == [name for name in suite_of("nano").tasks if (tmp_path / name).is_dir()]
    assert "lacks 11 tasks of nano" in capsys.readouterr().err
    check_keep_best("eval/NanoNQRetrieval", 3, 10, found)
    assert [found.task(name).split for name in found.run] == ["train", "train"]
    with pytest.raises(UserError, match=r"evaluate\.tasks=nanno is no suite, did you mean nano\?; a single task is"):
        plan_evaluation(str(tmp_path), "nanno")
    with pytest.raises(UserError, match=r"evaluate\.tasks=demo is no suite"):  # is what a folder holds
        plan_evaluation(None, "demo")
    monkeypatch.setattr("gte.evaluation.board.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    with pytest.raises(UserError, match="suite=nano needs the hub, which cannot be reached, for the data of Nano"):
        plan_evaluation(None, "nano")
    with pytest.raises(UserError, match="keep_best=eval/STS12 is not measured"):
        check_keep_best("eval/STS12", None, 10, Plan({"STS13": None}, {}))
    for count, end in ((5, "eval/T4$"), (6, r"eval/T4, \.\.\.$")):
        with pytest.raises(UserError, match=end):
            check_keep_best("ndcg", None, 10, Plan(dict.fromkeys(f"T{n}" for n in range(count)), {}))
