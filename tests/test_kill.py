"""A run that is killed goes on with the same batches."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from launch import train
from test_ddp import DDP, RUN, losses

from gte.data.mixture import Mixture
from gte.hub import history


def steps_of(run) -> dict[int, int]:
    """Step -> the checksum of its batch."""
    with open(run / "metrics.csv", newline="") as lines:
        return {int(row["step"]): int(float(row["train/batch"])) for row in csv.DictReader(lines)}


def test_a_run_killed_at_any_step_goes_on_with_the_same_batches_at_another_number_of_ranks(script, prepared, tmp_path):
    run = [f"data.dir={prepared}", "checkpoint_every=7", "stage.steps=80", "data.alpha=0.3"]
    code, _, errors = script("train", *RUN, *run, "trainer=cpu", "out=whole")
    assert code == 0, errors
    command = [sys.executable, ROOT / "src" / "train.py", *RUN, *run, "trainer=cpu", "out=killed"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    file = tmp_path / "killed" / "metrics.csv"
    while not file.exists() or file.read_bytes().count(b"\n") < 15:
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoints" / "last.ckpt").exists()
    train(2, *RUN, *run, *DDP, "resume=auto", "out=killed", cwd=tmp_path)

    mixture = Mixture([400, 150, 90, 64], alpha=0.3, seed=42, global_batch=32)
    for name in ("whole", "killed"):
        assert steps_of(tmp_path / name) == {step: mixture.checksum(step) for step in range(80)}, name
        assert history(tmp_path / name)[0]["epochs"] == pytest.approx(
            dict(zip(("colours", "shapes", "times", "triples"), mixture.epochs(80), strict=True))
        )
    np.testing.assert_allclose(losses(tmp_path / "killed"), losses(tmp_path / "whole"), rtol=1e-3)
