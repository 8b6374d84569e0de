"""Real ranks take the same steps as one process, whoever starts them."""

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from launch import free_port, script, start, train

from gte.hub import load_encoder

RUN = [
    "model=tiny",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.dropout=0.0",
    "data=local",
    "workers=0",
    "stage.global_batch=32",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
]
STAGES = {
    "pretrain": ["stage=pretrain", "stage.steps=6"],
    "finetune": ["stage=finetune", "stage.steps=6", "sources=[triples]", "stage.group_size=4"],
}
DDP = ["trainer=ddp", "trainer.devices=2"]


def losses(run) -> list[float]:
    with open(run / "metrics.csv", newline="") as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, prepared) -> Path:
    """A folder with a run of each stage by one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, stage in STAGES.items():
        train(1, *RUN, *stage, "trainer=cpu", f"data.dir={prepared}", f"out={name}", cwd=folder)
    return folder


def same_training(run, alone) -> None:
    assert len(losses(run)) == 6
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-5)
    one, other = load_encoder(alone).state_dict(), load_encoder(run).state_dict()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=2e-5, msg=key)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("stage", STAGES)
def test_ranks_train_as_one_process(alone, prepared, tmp_path, stage, world):
    arguments = [*RUN, *STAGES[stage], *DDP, f"trainer.devices={world}", f"data.dir={prepared}", "out=run"]
    train(world, *arguments, cwd=tmp_path)
    same_training(tmp_path / "run", alone / stage)


def commands(*commands, cwd) -> None:
    """Runs them side by side to their end, as typed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    for process in started:
        _, err = process.communicate()
        assert process.returncode == 0, err[-3000:]


def test_lightning_starts_the_ranks_of_one_machine(alone, prepared, tmp_path):
    arguments = [*RUN, *STAGES["pretrain"], *DDP, f"data.dir={prepared}", "out=run"]
    commands([sys.executable, ROOT / "src" / "train.py", *arguments], cwd=tmp_path)
    same_training(tmp_path / "run", alone / "pretrain")


def test_torchrun_joins_two_nodes(alone, prepared, tmp_path):
    arguments = [*RUN, *STAGES["pretrain"], "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test"]
    node = [*torchrun, *meet, ROOT / "src" / "train.py", *arguments, f"data.dir={prepared}", "out=run"]
    commands(node, node, cwd=tmp_path)
    same_training(tmp_path / "run", alone / "pretrain")


def profiled(*arguments) -> None:
    """Trains, and writes down which collectives there were."""
    with torch.profiler.profile() as recorded, pytest.raises(SystemExit) as end:
        script("train", *arguments)
    assert end.value.code == 0
    torch.save(Counter(e.name for e in recorded.events() if e.name.startswith("c10d::")), f"{os.environ['RANK']}.pt")


def test_the_collectives_of_a_step(prepared, tmp_path):
    counts = {}
    for steps in (3, 5):
        arguments = [*RUN, "stage=pretrain", f"stage.steps={steps}", *DDP, f"data.dir={prepared}", f"out={steps}"]
        assert start(2, profiled, *arguments, cwd=tmp_path) == [0, 0]
        counts[steps] = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for short, long in zip(counts[3], counts[5], strict=True):
        assert {name: (long[name] - short[name]) / 2 for name in long if long[name] != short[name]} == {
            "c10d::_allgather_base_": 3,  # the loss: texts, log Z; the callback: who was told to stop
            "c10d::allreduce_": 1,  # all gradients, this small model's in one bucket
            "c10d::broadcast_": 1,  # Lightning: whether rank 0 got SIGTERM
        }
