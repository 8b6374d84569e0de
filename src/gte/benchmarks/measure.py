"""What all benchmarks share: variants that take turns, ratios to one of them, peak memory, the machine's own rate."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch


def take_turns(variants: dict[str, Callable[[], dict]], rounds: int) -> dict[str, list[dict]]:
    """What each variant measured in each round. They take turns, so that what else the machine does falls on all."""
    measured: dict[str, list[dict]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            measured[name].append(measure())
    return measured


def compare(measured: dict[str, list[dict]], base: str, **facts) -> list[dict]:
    """A row a variant: medians of all numbers, and how often as long as `base` it took (`seconds`), round by round."""
    rows = []
    for name, rounds in measured.items():
        ratios = [mine["seconds"] / its["seconds"] for mine, its in zip(rounds, measured[base], strict=True)]
        spread = {"ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
        numbers = {key: median(one[key] for one in rounds) for key in rounds[0]}
        rows.append({"variant": name, **facts, "rounds": len(rounds), **numbers, **spread})
    return rows


def in_child(module: str, *arguments) -> dict:
    """The JSON object that `python -m <module> <arguments>` prints last; a process of its own has a peak of its own.

    Raises RuntimeError with what it wrote where it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def matmul_rate(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """FLOP/s of a square matrix product at its best of some tries: what this machine reaches in practice."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    synchronize = torch.cuda.synchronize if device != "cpu" else lambda: None
    best = float("inf")
    for _ in range(6):
        synchronize()
        start = time.perf_counter()
        for _ in range(3):
            a @ b
        synchronize()
        best = min(best, (time.perf_counter() - start) / 3)
    return 2 * size**3 / best


def encoder_flops(lengths_N: np.ndarray, config, backward: bool) -> int:
    """Floating-point operations of a BERT on texts of these lengths, padding not counted: the matrix products alone.

    A backward pass is two forward ones; what is recomputed is not counted.
    """
    width, inner = config.hidden_size, config.intermediate_size
    lengths = np.asarray(lengths_N, dtype=np.int64)
    layer = lengths.sum() * (8 * width**2 + 4 * width * inner) + 4 * width * (lengths**2).sum()
    return int(layer * config.num_hidden_layers * (3 if backward else 1))
