"""Checkpoints: how long training waits for them, against Lightning's own ways, with work that goes on meanwhile."""

import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.plugins.io import AsyncCheckpointIO

from gte.benchmarks.measure import compare, take_turns
from gte.training.checkpoint import WholeFiles


class Waiting(WholeFiles):
    """Ours, as it would be without a thread."""

    def save_checkpoint(self, *arguments, **options) -> None:
        super().save_checkpoint(*arguments, **options)
        self.finish()


def run(
    *,
    parameters: int = 110_000_000,
    steps: int = 45,
    every: int = 15,
    work: int = 20,
    folder: str = ".",
    rounds: int = 3,
) -> list[dict]:
    """A row a variant: seconds of `steps` steps, of which every `every`-th saves, and the mean wait a save, `stall`.

    A checkpoint is of a model of so many parameters and its two moments, float32; a step is `work` products of matrices
    of 1,024. `whole` is seconds until the last file was there. `folder`: on which disk.
    """
    rows = [torch.randn(parameters // 12, 12) for _ in range(3)]
    content = {"state_dict": {"weight": rows[0]}, "optimizer_states": [{"state": {0: {"m": rows[1], "v": rows[2]}}}]}
    variants = {
        "none": None,
        "ours": lambda: WholeFiles(Path(folder)),
        "ours, waiting": lambda: Waiting(Path(folder)),
        "lightning": TorchCheckpointIO,
        "lightning async": lambda: AsyncCheckpointIO(TorchCheckpointIO()),
    }
    turns = {name: partial(turn, make, content, steps, every, work, folder) for name, make in variants.items()}
    facts = {"megabytes": 12 * parameters / 1e6, "steps": steps, "threads": torch.get_num_threads()}
    return compare(take_turns(turns, rounds), "none", **facts)


def turn(make, content: dict, steps: int, every: int, work: int, folder: str) -> dict:
    files = make() if make else None
    a, b = torch.randn(2, 1024, 1024)
    stalls = []
    with tempfile.TemporaryDirectory(dir=folder) as out:
        start = time.perf_counter()
        for step in range(1, steps + 1):
            for _ in range(work):
                a @ b
            if files and step % every == 0:
                before = time.perf_counter()
                files.save_checkpoint(content, Path(out) / f"{step}.ckpt")
                stalls.append(time.perf_counter() - before)
        seconds = time.perf_counter() - start
        if files:
            files.teardown()
        whole = time.perf_counter() - start
    return {"seconds": seconds, "stall": sum(stalls) / max(len(stalls), 1), "whole": whole}
