"""Real ranks take the same steps as one process, whoever starts them, from the start and after a kill."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import launch
import numpy as np
import pytest
import torch
from conftest import ROOT, loaded_from
from logs import column, rows
from task_folders import write_sts
from trainings import DDP, RUN, Begun, wait_for

from gte.data.mixture import Mixture
from gte.models.load import history, load_encoder
from gte.models.saved import newest_first

STAGES = {
    "pretrain": ["stage=pretrain"],
    "finetune": ["stage=finetune", "sources=[triples]", "stage.group_size=4"],
}


def start(cwd, *command) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory, prepared) -> Path:
    """A folder with a run of each stage by one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, stage in STAGES.items():
        launch.train(1, *RUN, *stage, "trainer=cpu", f"data.dir={prepared}", f"out={name}", cwd=folder)
    return folder


def losses(run) -> list[float]:
    return column(run, "train/loss")


def assert_same_training(run, alone) -> None:
    assert len(losses(run)) == 6
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-5)
    one, other = load_encoder(alone).state_dict(), load_encoder(run).state_dict()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=2e-5, msg=key)


@pytest.mark.parametrize(
    ("stage", "world", "nodes"),
    [
        ("pretrain", 2, 2),
        ("finetune", 4, 1),
        pytest.param("pretrain", 4, 1, marks=pytest.mark.slow),
        pytest.param("finetune", 2, 1, marks=pytest.mark.slow),
    ],
)
def test_ranks_train_as_one_process(alone, prepared, tmp_path, stage, world, nodes):
    sizes = [f"trainer.devices={world // nodes}", f"trainer.num_nodes={nodes}"]
    arguments = [*RUN, *STAGES[stage], *DDP, *sizes, f"data.dir={prepared}", "out=run"]
    launch.train(world, *arguments, cwd=tmp_path, launcher=launch.two_nodes if nodes > 1 else launch.torchrun)
    assert_same_training(tmp_path / "run", alone / stage)


@pytest.mark.parametrize("launcher", ["lightning", pytest.param("torchrun with two nodes", marks=pytest.mark.slow)])
def test_started_as_typed_ranks_train_as_one_process(alone, prepared, tmp_path, launcher):
    train = [ROOT / "src" / "train.py", *RUN, *DDP, f"data.dir={prepared}", "out=run"]
    if launcher == "lightning":
        started = [start(tmp_path, sys.executable, *train)]
    else:
        meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{launch.free_port()}", "--rdzv-id=test"]
        node = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *meet, *train]
        started = [start(tmp_path, *node, "trainer.devices=1", "trainer.num_nodes=2") for _ in range(2)]
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
    assert_same_training(tmp_path / "run", alone / "pretrain")


def test_a_run_killed_at_any_step_goes_on_with_the_same_batches_at_another_number_of_ranks(script, prepared, tmp_path):
    run = [*RUN, f"data.dir={prepared}", "checkpoint_every=7", "stage.steps=80", "data.alpha=0.3"]
    run.append("trainer.precision=64-true")  # in float32 the ranks' sums differ in their last bits
    code, _, errors = script("train", *run, "trainer=cpu", "out=whole")
    assert code == 0, errors
    killed = Begun(tmp_path, "train", *run, "trainer=cpu", "out=killed")
    file = tmp_path / "killed" / "metrics.csv"
    wait_for(lambda: file.exists() and file.read_bytes().count(b"\n") >= 15, killed)
    time.sleep(random.uniform(0, 0.1))
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, killed.said
    assert newest_first(tmp_path / "killed" / "checkpoints")
    launch.train(2, *run, *DDP, "resume=auto", "out=killed", cwd=tmp_path)

    mixture = Mixture([400, 150, 90, 64], alpha=0.3, seed=42, global_batch=32)
    for name in ("whole", "killed"):
        steps = {int(row["step"]): int(float(row["train/batch"])) for row in rows(tmp_path / name)}
        assert steps == {step: mixture.checksum(step) for step in range(80)}, name
        assert history(tmp_path / name)[0]["epochs"] == pytest.approx(
            dict(zip(("colours", "shapes", "times", "triples"), mixture.epochs(80), strict=True))
        )
    np.testing.assert_allclose(losses(tmp_path / "killed"), losses(tmp_path / "whole"), rtol=1e-9)


def watched(*arguments) -> None:
    """Trains, and writes down which modes the parts of the model had at each step, and the loss of each rank."""
    from gte.training.task import ContrastiveTask

    step, seen = ContrastiveTask.training_step, []

    def spy(task, *given):
        seen.append({part.training for part in task.modules()})
        return step(task, *given)

    ContrastiveTask.training_step = spy
    with pytest.raises(SystemExit) as end:
        launch.script("train", *arguments)
    assert end.value.code == 0
    torch.save(seen, f"modes-{os.environ['RANK']}.pt")


def test_on_every_rank_a_model_from_disk_drops_at_every_step_around_an_evaluation(
    script, pretrained, prepared, tmp_path
):
    write_sts(tmp_path / "suite" / "Related")
    arguments = [*loaded_from(pretrained, RUN), *DDP, f"data.dir={prepared}"]
    evaluation = ["evaluate_every=2", "evaluate.data_dir=suite"]
    for out, more in (("plain", []), ("evaluated", evaluation)):
        assert launch.start(2, watched, *arguments, *more, f"out={out}", cwd=tmp_path) == [0, 0]
        modes = [torch.load(tmp_path / f"modes-{rank}.pt", weights_only=False) for rank in range(2)]
        assert modes == [[{True}] * 6] * 2
    assert losses(tmp_path / "evaluated") == losses(tmp_path / "plain")
    still = json.loads((pretrained / "config.json").read_text()) | {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    shutil.copytree(pretrained, tmp_path / "still")
    (tmp_path / "still" / "config.json").write_text(json.dumps(still))
    alone = [*loaded_from(tmp_path / "still", RUN), "trainer=cpu", "stage.steps=1", f"data.dir={prepared}"]
    code, _, errors = script("train", *alone, "out=still_run")
    assert code == 0, errors
    ((without,), (dropped, *_)) = (losses(tmp_path / name) for name in ("still_run", "plain"))
    assert abs(dropped - without) > 1e-3 * without  # two ranks without dropout agree with one to 1e-5


def profiled(*arguments) -> None:
    """Trains, and writes down which collectives there were from the beginning of step 2 to that of step 4."""
    from gte.training.task import ContrastiveTask

    step, recorded = ContrastiveTask.training_step, torch.profiler.profile()

    def spy(task, batch, *given):
        if batch.step == 1:
            recorded.start()
        if batch.step == 3:
            recorded.stop()
        return step(task, batch, *given)

    ContrastiveTask.training_step = spy
    with pytest.raises(SystemExit) as end:
        launch.script("train", *arguments)
    assert end.value.code == 0
    torch.save(Counter(e.name for e in recorded.events() if e.name.startswith("c10d::")), f"{os.environ['RANK']}.pt")


def test_the_collectives_of_a_step(prepared, tmp_path):
    arguments = [*RUN, *DDP, "stage.steps=5", f"data.dir={prepared}", "out=run"]
    assert launch.start(2, profiled, *arguments, cwd=tmp_path) == [0, 0]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=False) == {  # of two steps
            "c10d::_allgather_base_": 2 * 3,  # the loss: texts, log Z; the callback: who was told to stop
            "c10d::allreduce_": 2 * 1,  # all gradients, this small model's in one bucket
            "c10d::broadcast_": 2 * 1,  # Lightning: whether rank 0 got SIGTERM
        }
