"""Ranks for tests: processes forked from one that has imported everything, as torchrun or srun would start them."""

import multiprocessing
import os
import random
import runpy
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = [  # all that a training or a preparation loads, some of it where it is needed
    "zero_on_cpu",
    "gte.build",
    "gte.data.module",
    "gte.data.prepare",
    "gte.evaluation.suite",
    "gte.loss",
    "gte.results.figures",
    "gte.results.report",
    "gte.training.callbacks",
    "gte.training.resume",
    "gte.training.task",
    "gte.training.zero",
    "hydra._internal.hydra",
    "pandas",
]


def torchrun(rank: int, world_size: int) -> dict:
    """What a process learns from torchrun on one node."""
    return {"TORCHELASTIC_RUN_ID": "test", "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size}


def two_nodes(rank: int, world_size: int) -> dict:
    """What a process learns from torchrun where each rank is alone on its node."""
    return torchrun(rank, world_size) | {"LOCAL_RANK": 0, "GROUP_RANK": rank, "LOCAL_WORLD_SIZE": 1}


def srun(rank: int, world_size: int) -> dict:
    """What a process learns from srun on one node."""
    job = {"SLURM_JOB_ID": 4242, "SLURM_JOB_NAME": "gte", "SLURM_NNODES": 1, "SLURM_NODEID": 0}
    tasks = {"SLURM_NTASKS": world_size, "SLURM_NTASKS_PER_NODE": world_size}
    return job | tasks | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}


def alone(rank: int, world_size: int) -> dict:
    """What a process learns that nobody has started as a rank."""
    return {}


def begin(
    world_size: int, function: Callable, *args, cwd: Path, log: Path | None = None, launcher=torchrun, **env
) -> list[multiprocessing.Process]:
    """Starts function(*args) on each of the ranks in `cwd`, in this process's environment and `env`.

    `log` takes what they print.
    """
    paths = ":".join(str(ROOT / folder) for folder in ("src", "tests", "tests/helpers"))
    ours = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    multiprocessing.set_forkserver_preload(IMPORTED)
    with patch.dict(os.environ, ours):
        forkserver.ensure_running()
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = []
    for rank in range(world_size):
        variables = os.environ | ours | launcher(rank, world_size) | meet | env
        processes.append(CONTEXT.Process(target=work, args=(function, args, variables, cwd, log)))
    for process in processes:
        process.start()
    return processes


def start(world_size: int, function: Callable, *args, **options) -> list[int]:
    """Runs function(*args) on each of the ranks, as `begin` starts them; exit codes in rank order."""
    processes = begin(world_size, function, *args, **options)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def free_port() -> int:
    """A port below those that systems hand out, which another process could be given before it is used."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def work(function: Callable, args: tuple, variables: dict, cwd: Path, log: Path | None) -> None:
    import torch

    os.environ.clear()  # of the test that started the first rank
    os.environ |= {name: str(value) for name, value in variables.items()}
    os.chdir(cwd)
    if log is not None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
    torch.set_num_threads(1)
    function(*args)


def script(name: str, *arguments: str) -> None:
    """`python src/<name>.py <arguments>` on a rank, without the loss curve, which takes longer than the training."""
    from gte.results import figures

    figures.loss_curves = lambda *_: None
    sys.argv = [f"{name}.py", *arguments]
    runpy.run_path(str(ROOT / "src" / f"{name}.py"), run_name="__main__")


def train(world_size: int, *arguments: str, cwd: Path, codes: tuple = (), **options) -> str:
    """Trains on `world_size` ranks in `cwd`; what they printed. They must exit with `codes`, or else with 0."""
    log = cwd / "ranks.log"
    log.unlink(missing_ok=True)
    found = start(world_size, script, "train", *arguments, cwd=cwd, log=log, **options)
    assert found == (list(codes) or [0] * world_size), log.read_text()[-3000:]
    return log.read_text()
