"""One training step of real pairs, part by part, under several settings: from these the next optimisation is chosen."""

import sys
import time
from functools import partial
from pathlib import Path

import torch

from gte.benchmarks.gpu.findings import Findings
from gte.benchmarks.gpu.setting import Setting
from gte.benchmarks.loss import restart_peak
from gte.benchmarks.measure import encoder_flops, matmul_rate, synchronize
from gte.encoder import Encoder
from gte.loss import improved_contrastive_loss
from gte.memory import peak_memory
from gte.precision import AUTOCAST

SWEEP = {
    "packed bf16, chunks of 32k": {"packed": True},
    "packed bf16, chunks of 128k": {"packed": True, "batch_tokens": 131072},
    "packed fp16, chunks of 32k": {"packed": True, "precision": "fp16"},
    "padded bf16, chunks of 32k": {"packed": False},
    "packed bf16, chunks of 32k, half recomputed": {"packed": True, "recompute": 0.5},
}
MINILM_SWEEP = SWEEP | {"fp32, chunks of 32k": {"packed": None, "precision": "fp32"}}


def sweep_base(findings: Findings, setting: Setting) -> None:
    sweep(findings, setting, "base", SWEEP)


def sweep_minilm(findings: Findings, setting: Setting) -> None:
    sweep(findings, setting, "minilm", MINILM_SWEEP)


def sweep(findings: Findings, setting: Setting, name: str, variants: dict[str, dict]) -> None:
    """A row a variant."""
    folder, rates = setting.model(name), {}
    for label, options in variants.items():
        precision = options.get("precision", "bf16")
        if setting.device == "cpu" and precision == "fp16":
            continue
        if precision not in rates:
            size = 256 if setting.small else None
            rates[precision] = matmul_rate(setting.device, AUTOCAST[precision] or torch.float32, size)
        made = findings.attempt(label, partial(one_step, setting, folder, rates[precision], **options))
        print(f"{label}: {made}", file=sys.stderr)


def update(encoder: Encoder, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Clip the gradients and step, as a training does."""
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def one_step(
    setting: Setting,
    folder: Path,
    rate: float,
    packed: bool | None,
    precision: str = "bf16",
    batch_tokens: int = 32768,
    recompute: float = 1.0,
) -> dict[str, float]:
    """Seconds of forward, loss, backward and optimizer of a step after a smaller one; what a training step does."""
    pairs = setting.pairs(16384)
    ids_T, lengths_R = setting.batch(pairs)
    encoder = setting.encoder(folder, padding_free=packed)
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-5, fused=True)
    dtype = AUTOCAST[precision]
    scaler = torch.amp.GradScaler(setting.device, init_scale=256, enabled=precision == "fp16")

    marks: list[float] = []

    def mark(wait: bool = True) -> None:
        if wait:
            synchronize(setting.device)
        marks.append(time.perf_counter())

    def step(n: int) -> None:
        lengths = lengths_R[: 2 * n]
        ids = ids_T[: int(lengths.sum())]
        mark()
        with torch.autocast(setting.device, dtype, enabled=dtype is not None):
            x = encoder(ids, lengths, encoder.plan(lengths.numpy(), batch_tokens), recompute)
            mark(wait=False)  # the processor has handed all of it over
            mark()
            loss = improved_contrastive_loss(x[:n], x[n:])
        mark()
        scaler.scale(loss).backward()
        mark()
        update(encoder, optimizer, scaler)
        mark()

    step(max(pairs // 8, 8))
    restart_peak(setting.device)
    marks.clear()
    step(pairs)
    start, handed, forward, loss, backward, end = marks
    tokens, seconds = int(lengths_R.sum()), end - start
    flops = encoder_flops(lengths_R.numpy(), encoder.lm.config, backward=True)
    return {
        "tokens_per_s": tokens / seconds,
        "mfu": flops / seconds / rate,
        "peak_gb": peak_memory(setting.device) / 1e9,
        "seconds": seconds,
        "forward": forward - start,
        "forward_host": handed - start,
        "loss": loss - forward,
        "backward": backward - loss,
        "optimizer": end - backward,
        "tokens_a_text": tokens / (2 * pairs),
    }
