"""Shared by all benchmarks: variants that take turns, ratios to one of them, peak memory, the machine's own rate."""

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
from transformers import PretrainedConfig


def take_turns(variants: dict[str, Callable[[], dict]], rounds: int) -> dict[str, list[dict]]:
    """Measure each variant in each round. They take turns, so that other work of the machine falls on all alike."""
    measured: dict[str, list[dict]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            measured[name].append(measure())
    return measured


def compare(measured: dict[str, list[dict]], base: str | Callable[[str], str], **facts) -> list[dict]:
    """A row a variant: medians of all numbers, and its time over that of its base, round by round.

    Args:
        measured: what `take_turns` returned; each turn has its `seconds`.
        base: the variant that the others are compared with, or a function that names it for each variant.
        facts: further columns, the same in all rows.
    Returns: the rows; `ratio` is the median of the rounds, `ratio_min` and `ratio_max` the least and the most.
    """
    rows = []
    for name, rounds in measured.items():
        bases = measured[base if isinstance(base, str) else base(name)]
        ratios = [mine["seconds"] / its["seconds"] for mine, its in zip(rounds, bases, strict=True)]
        spread = {"ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
        numbers = {key: median(one[key] for one in rounds) for key in rounds[0]}
        rows.append({"variant": name, **facts, "rounds": len(rounds), **numbers, **spread})
    return rows


def ours_alike(variant: str) -> str:
    """The variant of ours that computes in the same precision, the last word of a variant's name."""
    return f"ours {variant.split()[-1]}"


def in_child(module: str, *arguments) -> dict:
    """The JSON object that `python -m <module> <arguments>` prints last; a process of its own has a peak of its own.

    Raises RuntimeError with what it wrote where it fails.
    """
    before = os.environ.get("PYTHONPATH")  # packages may come from there too
    source = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{before}" if before else source}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given; nothing on a CPU."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def matmul_size(device: str) -> int:
    """The side of the square matrices whose product gives a device's rate."""
    return 2048 if device == "cpu" else 8192  # a GPU does 2,048 in 0.03 ms, no longer than the launch takes


def matmul_rate(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int | None = None) -> float:
    """The rate of a square matrix product that this machine reaches in practice: the best of some tries, warmed up.

    Args:
        device: "cpu" or "cuda".
        dtype: of the matrices.
        size: rows and columns; None is `matmul_size` of the device.
    Returns: FLOP/s.
    """
    size = size or matmul_size(device)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for turn in range(7):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(3):
            a @ b
        synchronize(device)
        seconds = (time.perf_counter() - start) / 3
        if turn > 0:  # the first loads the library and raises the clock
            best = min(best, seconds)
    return 2 * size**3 / best


def encoder_flops(lengths_N: np.ndarray, config: PretrainedConfig, backward: bool) -> int:
    """Count the floating-point operations of a BERT or ModernBERT on some texts: its matrix products alone.

    Args:
        lengths_N: tokens of each text; padding is not counted.
        config: of the language model; `intermediate_size` of a ModernBERT is that of a gated unit, which has three
            matrices, and a token of its `sliding_attention` layers meets those at most half a window away.
        backward: whether to add the backward pass, twice the forward one; what is recomputed is not counted.
    """
    width, inner = config.hidden_size, config.intermediate_size
    lengths = np.asarray(lengths_N, dtype=np.int64)
    matrices = 3 if config.model_type == "modernbert" else 2
    layer_types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    half = getattr(config, "local_attention", 0) // 2
    near = np.where(lengths > half, lengths * (2 * half + 1) - half * (half + 1), lengths**2)
    met = sum(int((near if kind == "sliding_attention" else lengths**2).sum()) for kind in layer_types)
    products = int(lengths.sum()) * (8 * width**2 + 2 * matrices * width * inner) * config.num_hidden_layers
    return (products + 4 * width * met) * (3 if backward else 1)
