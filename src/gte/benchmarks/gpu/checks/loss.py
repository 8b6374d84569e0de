"""The contrastive losses on the device: right to float32's digits, fast, and small in memory."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gte.benchmarks.gpu.findings import Findings
from gte.benchmarks.gpu.setting import Setting
from gte.benchmarks.loss import restart_peak, step, variants
from gte.loss import contrastive_loss, improved_contrastive_loss
from gte.memory import peak_memory

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MILLION = 1_048_576


def hard_pairs(n: int, width: int, device: str = "cpu") -> list[Tensor]:
    """Queries and documents [n, width] that share 12 directions, so that other documents are often nearer.

    Of independent random vectors the loss would be ln 2 to the last digit, and its gradient rounding alone.
    """
    g = torch.Generator(device).manual_seed(0)
    basis_KD = torch.randn(12, width, generator=g, device=device) / 12**0.5
    topic_NK = torch.randn(n, 12, generator=g, device=device)
    q_ND = topic_NK @ basis_KD + 0.2 * torch.randn(n, width, generator=g, device=device)
    topic_NK += 0.5 * torch.randn(n, 12, generator=g, device=device)
    return [q_ND, topic_NK @ basis_KD + 0.2 * torch.randn(n, width, generator=g, device=device)]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """|a - b| / |b| over all of the tensors, in float64 on the CPU."""
    flat_a, flat_b = (torch.cat([x.detach().cpu().double().flatten() for x in side]) for side in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())


def loss_exact(findings: Findings, setting: Setting) -> None:
    n, width = (60, 32) if setting.small else (1500, 768)
    q_ND, d_ND = hard_pairs(n, width)
    n_NKD = torch.stack([q_ND.roll(1, 0), d_ND.roll(7, 0)], 1)
    hashes = torch.randint(0, n, (4 * n,), generator=torch.Generator().manual_seed(0))
    cases = {
        "improved": (improved_contrastive_loss, [q_ND, d_ND], {}),
        "improved, negatives, hashes": (improved_contrastive_loss, [q_ND, d_ND, n_NKD], {"text_hashes": hashes}),
        "vanilla, negatives": (contrastive_loss, [q_ND, d_ND, n_NKD], {}),
    }
    for dtype in DTYPES:
        for name, (function, inputs, options) in cases.items():
            rounded = [x.to(dtype) for x in inputs]  # both sides get the same numbers
            exact = value_and_gradients(function, rounded, "cpu", torch.float64, options)
            found = value_and_gradients(function, rounded, setting.device, dtype, options | {"chunk_rows": 257})
            # half precision rounds the gradient that it hands back, 2^-9 and 2^-12 of it
            limit = {torch.float32: 1e-4, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]
            errors = {"loss": abs(found[0] / exact[0] - 1), "gradient": distance(found[1], exact[1])}
            findings.bound(f"{name} {dtype}".replace("torch.", ""), limit, **errors)


def value_and_gradients(function: Callable, inputs: list[Tensor], device: str, dtype: torch.dtype, options: dict):
    """The loss and its gradients, under autocast where the numbers are in half precision."""
    own = [x.detach().to(device, dtype, copy=True).requires_grad_() for x in inputs]
    with torch.autocast(device, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        value = function(*own, **options)
    value.backward()
    return float(value), [x.grad for x in own]


def measure(function: Callable, n: int, width: int, device: str, warm: bool = True) -> dict[str, float]:
    """Seconds of a forward and backward, and GB above the inputs at its peak."""
    batch = [x.requires_grad_() for x in hard_pairs(n, width, device)]
    if warm:
        step(function, *batch)
    batch[0].grad = batch[1].grad = None
    before = restart_peak(device)
    seconds = step(function, *batch)
    return {"seconds": seconds, "peak_gb": (peak_memory(device) - before) / 1e9}


def loss_speed(findings: Findings, setting: Setting) -> None:
    n, width = (256, 32) if setting.small else (16384, 768)
    for name, make in variants().items():
        label, function = f"{name}, {n} pairs of {width}", make()
        made = findings.attempt(label, lambda function=function: measure(function, n, width, setting.device))
        if name == "ours" and made:
            findings.at_most("loss at 16,384 pairs", 0.15, made["seconds"], "s")
            findings.at_most("loss at 16,384 pairs, above its inputs", 1.0, made["peak_gb"], "GB")
    torch.backends.cuda.matmul.allow_tf32 = True
    findings.attempt(
        f"ours with TF32 products, {n} pairs of {width}",
        lambda: measure(improved_contrastive_loss, n, width, setting.device),
    )


def loss_million(findings: Findings, setting: Setting) -> None:
    """All of it at the largest width that a trial of a sixteenth of the pairs, 1/256 of the work, says to fit."""
    n, limit = (1024, 60.0) if setting.small else (MILLION, 75.0)
    for width in (768, 384, 64):
        tried = measure(improved_contrastive_loss, n // 16, width, setting.device)
        expected = tried["seconds"] * 256
        findings.row(f"trial: {n // 16} pairs of {width}", **tried, expected_s=expected)
        if expected < limit or width == 64:
            break
    made = measure(improved_contrastive_loss, n, width, setting.device, warm=False)
    findings.row(f"ours, {n} pairs of {width}", **made, tflops=gram_flops(n, width) / made["seconds"] / 1e12)


def gram_flops(n: int, width: int) -> float:
    """Operations of the loss's matrix products: S over half of its 2n x 2n entries twice, and G X over all of them."""
    return 2 * width * math.pow(2 * n, 2) * (0.5 + 0.5 + 1.0)
