"""Two real ranks take the same steps as one, from the start and after a kill."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT

from gte.data.mixture import Mixture
from gte.hub import history, load_encoder

RUN = [
    "model=tiny",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.dropout=0.0",
    "data=local",
    "workers=0",
    "stage.global_batch=32",
    "stage.steps=6",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
]


def start(cwd, *arguments) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "src" / "train.py"), *RUN, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def train(cwd, *arguments) -> None:
    process = start(cwd, *arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


def metrics(run) -> list[dict]:
    with open(run / "metrics.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def losses(run) -> list[float]:
    return [float(row["train/loss"]) for row in metrics(run)]


@pytest.mark.parametrize("stage", [["stage=pretrain"], ["stage=finetune", "sources=[triples]", "stage.group_size=4"]])
def test_two_ranks_train_as_one(prepared, tmp_path, stage):
    train(tmp_path, *stage, f"data.dir={prepared}", "trainer=cpu", "out=one")
    train(tmp_path, *stage, f"data.dir={prepared}", "trainer=ddp", "trainer.devices=2", "out=two")
    assert len(losses(tmp_path / "two")) == 6
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    one, two = (load_encoder(tmp_path / name).state_dict() for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-5, msg=key)


def test_a_run_killed_at_any_step_goes_on_with_the_same_batches_at_another_number_of_ranks(script, prepared, tmp_path):
    run = [f"data.dir={prepared}", "checkpoint_every=7", "stage.steps=80", "data.alpha=0.3"]
    code, _, errors = script("train", *RUN, *run, "trainer=cpu", "out=whole")
    assert code == 0, errors
    killed = start(tmp_path, *run, "trainer=cpu", "out=killed")
    file = tmp_path / "killed" / "metrics.csv"
    while not file.exists() or file.read_bytes().count(b"\n") < 15:
        assert killed.poll() is None, killed.stderr.read()[-3000:]
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoints" / "last.ckpt").exists()
    train(tmp_path, *run, "trainer=ddp", "trainer.devices=2", "resume=auto", "out=killed")

    mixture = Mixture([400, 150, 90, 64], alpha=0.3, seed=42, global_batch=32)
    for name in ("whole", "killed"):
        steps = {int(row["step"]): int(float(row["train/batch"])) for row in metrics(tmp_path / name)}
        assert steps == {step: mixture.checksum(step) for step in range(80)}, name
        assert history(tmp_path / name)[0]["epochs"] == pytest.approx(
            dict(zip(("colours", "shapes", "times", "triples"), mixture.epochs(80), strict=True))
        )
    np.testing.assert_allclose(losses(tmp_path / "killed"), losses(tmp_path / "whole"), rtol=1e-3)
