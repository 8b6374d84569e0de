"""Under SLURM: told of the time limit, a job stops after a step, queues again and goes on as if nothing had been."""

import csv
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from launch import srun, train
from pytorch_lightning.loggers import Logger

SBATCH = ROOT / "conf" / "trainer" / "slurm.sbatch"
RUN = [
    "model=tiny",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.dropout=0.1",
    "data=local",
    "workers=0",
    "stage.global_batch=32",
    "stage.steps=8",
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.precision=32-true",
    "resume=auto",
]


class TimeLimit(Logger):
    """Sends rank 1 the signal of SLURM's --signal=USR1@300 within step 3."""

    name, version = "limit", 0

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step):
        if step == 3 and os.environ["SLURM_PROCID"] == "1":
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder that comes first in PATH, with a scontrol that notes how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder / "scontrol", f'echo "$@" >> {tmp_path}/scontrol.calls')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/bash\n{lines}\n")
    path.chmod(0o755)


def rows(run) -> list[dict]:
    with open(run / "metrics.csv", newline="") as lines:
        timed = ("train/pairs_per_s", "train/tokens_per_s", "train/peak_memory_mb")
        return [{key: value for key, value in row.items() if key not in timed} for row in csv.DictReader(lines)]


def test_a_run_that_is_told_to_stop_goes_on_exactly(prepared, programs, tmp_path):
    run = [*RUN, f"data.dir={prepared}"]
    options = {"cwd": tmp_path, "launcher": srun, "PATH": os.environ["PATH"]}
    train(2, *run, "out=whole", **options)
    said = train(2, *run, "out=parts", "+logger.limit={_target_: test_slurm.TimeLimit}", codes=(75, 0), **options)
    assert "stopped after 4 steps; go on with resume=auto out=" in said
    assert len(rows(tmp_path / "parts")) == 4 and not list((tmp_path / "parts").glob("hpc*"))
    assert not (tmp_path / "scontrol.calls").exists()  # queueing again is the batch script's part, not Lightning's
    train(2, *run, "out=parts", **options)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 8


@pytest.mark.parametrize(("code", "calls"), [(75, "requeue 4242\n"), (0, None), (1, None)])
def test_the_job_queues_again_only_where_the_run_was_told_to_stop(programs, tmp_path, code, calls):
    program(programs / "srun", f'echo "$@" > {tmp_path}/srun.call\nexit {code}')
    result = batch(tmp_path, "stage=pretrain", "out=runs/a run", "optim.lr=1e-3")
    assert result.returncode == code
    called = (tmp_path / "srun.call").read_text().strip()
    assert called == (
        ".venv/bin/python src/train.py trainer.num_nodes=2 trainer.devices=8 resume=auto "
        "stage=pretrain out=runs/a run optim.lr=1e-3"
    )
    scontrol = tmp_path / "scontrol.calls"
    assert (scontrol.read_text() if scontrol.exists() else None) == calls


def test_a_job_without_a_directory_to_come_back_to_is_refused(programs, tmp_path):
    program(programs / "srun", f"touch {tmp_path}/srun.call")
    result = batch(tmp_path, "stage=pretrain", "stage.init_from=out")
    assert result.returncode == 2 and "add out=runs/NAME" in result.stderr
    assert not (tmp_path / "srun.call").exists()


def test_the_batch_file_asks_for_the_signal_and_to_be_queued_again():
    assert subprocess.run([shutil.which("bash"), "-n", SBATCH]).returncode == 0
    asked = {line.split()[1] for line in SBATCH.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"--signal=USR1@300", "--requeue", "--open-mode=append", "--ntasks-per-node=8"} <= asked


def batch(cwd, *arguments):
    """The batch script as SLURM runs it on the first of two nodes."""
    told = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "8"}
    return subprocess.run(
        ["bash", SBATCH, *arguments], cwd=cwd, env=os.environ | told, capture_output=True, text=True, timeout=60
    )
