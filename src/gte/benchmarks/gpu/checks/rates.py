"""The machine's own ceilings: matrix products, copies, launches, transfers."""

import os
import time
from collections.abc import Callable
from statistics import median

import torch

from gte.benchmarks.gpu.findings import Findings
from gte.benchmarks.gpu.setting import Setting
from gte.benchmarks.measure import matmul_rate, synchronize
from gte.provenance import versions

PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "pytorch-lightning",
    "mteb",
    "deepspeed",
    "triton",
    "numpy",
)


def env(findings: Findings, setting: Setting) -> None:
    findings.row("versions", **versions(PACKAGES), cores=os.cpu_count())
    size = 256 if setting.small else None
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        findings.row(f"matrix product {name}", tflops=matmul_rate(setting.device, dtype, size) / 1e12)
    torch.backends.cuda.matmul.allow_tf32 = True
    findings.row("matrix product tf32", tflops=matmul_rate(setting.device, torch.float32, size) / 1e12)
    torch.backends.cuda.matmul.allow_tf32 = False
    x = torch.empty((1 if setting.small else 1000) * 2**20, device=setting.device)
    y = torch.empty_like(x)
    findings.row("copy", tb_per_s=2 * x.nbytes / seconds(lambda: y.copy_(x), setting.device) / 1e12)
    few = torch.zeros(16, device=setting.device)
    findings.row("launch", us=seconds(lambda: [few.add_(1) for _ in range(1000)], setting.device) * 1e3)
    ids = torch.zeros(1_300_000, dtype=torch.int32)  # of a step of 16,384 pairs
    times = {"pageable_ms": seconds(lambda: ids.to(setting.device, non_blocking=True), setting.device) * 1e3}
    if setting.device != "cpu":
        pinned = ids.pin_memory()
        times["pinned_ms"] = seconds(lambda: pinned.to(setting.device, non_blocking=True), setting.device) * 1e3
    findings.row("a step's ids to the device", **times)


def seconds(function: Callable, device: str, repeats: int = 5) -> float:
    """Median seconds of a call after two that are not counted."""
    taken = []
    for _ in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[2:])
