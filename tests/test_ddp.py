"""Two real ranks take the same steps as one."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from gte.hub import load_encoder

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


def train(cwd, *arguments, launcher=()) -> None:
    command = [sys.executable, *launcher, str(ROOT / "src" / "train.py"), *RUN, *arguments]
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr[-3000:]


def losses(run) -> list[float]:
    with open(run / "metrics.csv", newline="") as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines)]


@pytest.mark.parametrize("stage", [["stage=pretrain"], ["stage=finetune", "sources=[triples]", "stage.group_size=4"]])
def test_two_ranks_train_as_one(prepared, tmp_path, stage):
    train(tmp_path, *stage, f"data.dir={prepared}", "trainer=cpu", "out=one")
    train(tmp_path, *stage, f"data.dir={prepared}", "trainer=ddp", "trainer.devices=2", "out=two")
    assert len(losses(tmp_path / "two")) == 6
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    one, two = (load_encoder(tmp_path / name).state_dict() for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-5, msg=key)
