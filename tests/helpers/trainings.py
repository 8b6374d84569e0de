"""Trainings as tests start them: small sizes, and processes that are waited for or killed."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import launch
from conftest import ROOT

from gte.stage import Stage

PATIENCE = 600  # seconds that are waited for a process, on a machine that does much else
TINY = [
    "model=tiny",
    "data=local",
    "trainer=cpu",
    "trainer.precision=32-true",
    "logger=csv",
    "workers=0",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "stage.global_batch=32",
    "stage.steps=24",
]
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
DDP = ["trainer=ddp", "trainer.devices=2"]
LASTING = ["checkpoint_every=3", "resume=auto"]
DROPPING = [*TINY, "model.dropout=0.1"]


def watched(*arguments: str) -> None:
    """A script, with a file `evaluating` in its folder while it evaluates."""
    from gte.evaluation.during import Evaluate

    scores = Evaluate.scores

    def marked(*given):
        Path("evaluating").touch()
        found = scores(*given)
        Path("evaluating").unlink()
        return found

    Evaluate.scores = marked
    launch.script(*arguments)


class Begun:
    """A script under way in a process forked from one that has imported everything: seconds less than a start.

    `words`: the arguments of `function`, of a script as a user types them. `said` is what it has printed. All else is
    as in subprocess.Popen.
    """

    numbers = itertools.count()

    def __init__(self, folder: Path, *words, function=launch.script):
        self.log = folder / f"begun-{next(self.numbers)}.log"
        (self.process,) = launch.begin(1, function, *words, cwd=folder, log=self.log, launcher=launch.alone)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int:
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"runs after {PATIENCE} s: {self.said[-3000:]}"
        return self.process.exitcode


def lasting(prepared, *arguments: str, model=DROPPING) -> list[str]:
    """The words of a training that another like it resumes."""
    return ["train", *model, f"data.dir={prepared}", *LASTING, *arguments]


def command(prepared, *arguments: str) -> list[str]:
    """The same as a command."""
    _, *words = lasting(prepared, *arguments)
    return [sys.executable, str(ROOT / "src" / "train.py"), *words]


def begin(cwd, *words) -> subprocess.Popen:
    """Starts a command in a folder with pipes for what it prints."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found, process) -> None:
    """Waits until `found()`, PATIENCE seconds at most and only while the process runs."""
    limit = time.monotonic() + PATIENCE
    while not found() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)


def stage(name: str = "pretrain", **changes) -> Stage:
    """A Stage of small sizes."""
    facts = {"max_length": 32, "global_batch": 32, "steps": 40, "epochs": None, "group_size": 1, "lr_scale": 1.0}
    return Stage(name, **facts | {"init_from": None, "batch_tokens": 512, "recompute_fraction": 0.0} | changes)
