"""The encoder on the device against the same model directory on the CPU in float32."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gte.benchmarks.gpu.checks.loss import distance
from gte.benchmarks.gpu.findings import Findings
from gte.benchmarks.gpu.setting import Setting
from gte.encoder import Encoder
from gte.precision import AUTOCAST

# of 4 layers: what products in half precision leave of the gradient's digits; TF32 is off in float32
LIMITS = {"fp32": 2e-4, "bf16": 0.06, "fp16": 0.06}
KINDS = {"padded": False, "packed": True}


def pass_through(encoder: Encoder, batch: tuple[Tensor, Tensor], precision: str, recompute: float = 0.0, seed: int = 1):
    """Embeddings [N, D] and the gradients of all weights for some scalar of them."""
    ids_T, lengths_N = batch
    encoder.zero_grad()
    torch.manual_seed(seed)
    dtype, device = AUTOCAST[precision], encoder.device.type
    budget = max(len(ids_T) // 6, int(lengths_N.max()))  # six chunks or more, so that some of them can be recomputed
    with torch.autocast(device, dtype, enabled=dtype is not None):
        x_ND = encoder(ids_T, lengths_N, encoder.plan(lengths_N.numpy(), budget), recompute)
    weights_ND = torch.randn(x_ND.shape, generator=torch.Generator().manual_seed(3))
    (x_ND * weights_ND.to(x_ND.device)).sum().backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in encoder.lm.parameters()]
    return x_ND.detach(), grads


def precisions(setting: Setting) -> list[str]:
    """Those of the device; fp16 on a CPU is too slow to try."""
    return ["fp32", "bf16"] if setting.device == "cpu" else ["fp32", "bf16", "fp16"]


def encoder(findings: Findings, setting: Setting) -> None:
    batch = setting.batch(12 if setting.small else 256)
    layers = 4
    for name in ("minilm", "base"):  # heads of 32 and of 64
        folder = setting.model(name, layers, dropout=0.0)
        exact = pass_through(setting.encoder(folder, "cpu", padding_free=False), batch, "fp32")
        for kind, packed in KINDS.items():
            model = setting.encoder(folder, padding_free=packed)
            for precision in precisions(setting):
                compare_pass(findings, f"{name} {kind} {precision}", model, batch, precision, exact)
    folder = setting.model("minilm", layers, dropout=0.1)
    for kind, packed in KINDS.items():
        model = setting.encoder(folder, padding_free=packed)
        for precision in precisions(setting):
            compare_dropout(findings, f"dropout {kind} {precision}", model, batch, precision)
    compare_encode(findings, setting, folder)


def compare_pass(
    findings: Findings, label: str, model: Encoder, batch: tuple[Tensor, Tensor], precision: str, exact: tuple
) -> None:
    """Forward and backward against the CPU's."""

    def errors() -> dict:
        found = pass_through(model, batch, precision)
        return {"embeddings": distance([found[0]], [exact[0]]), "gradients": distance(found[1], exact[1])}

    made = findings.attempt(label, errors)
    if made:
        findings.bound(label, LIMITS[precision], **made)


def compare_dropout(
    findings: Findings, label: str, model: Encoder, batch: tuple[Tensor, Tensor], precision: str
) -> None:
    """A chunk that runs again must draw the dropout that it drew before; another seed must draw another."""

    def errors() -> dict:
        kept = pass_through(model, batch, precision)
        again = pass_through(model, batch, precision, recompute=1.0)
        half = pass_through(model, batch, precision, recompute=0.5)
        other = pass_through(model, batch, precision, seed=2)
        return {
            "recomputed_embeddings": distance([again[0]], [kept[0]]),
            "recomputed_gradients": distance(again[1], kept[1]),
            "half_recomputed_gradients": distance(half[1], kept[1]),
            "another_seed": distance([other[0]], [kept[0]]),
        }

    made = findings.attempt(label, errors)
    if made:
        if not made.pop("another_seed") > 1e-3:
            findings.fault(f"{label}: another seed gives the same embeddings, so there is no dropout")
        findings.bound(label, 1e-4 if precision == "fp32" else 0.02, **made)


def compare_encode(findings: Findings, setting: Setting, folder: Path) -> None:
    """`encode` in every precision against the CPU's in float32, and a model in train mode is handed back in it."""
    texts = [f"text {number} " * (1 + number % 40) for number in range(50 if setting.small else 500)]
    exact_ND = setting.encoder(folder, "cpu", padding_free=False).encode(texts)
    for kind, packed in (KINDS | {"default": None}).items():
        model = setting.encoder(folder, padding_free=packed)
        for precision in precisions(setting):
            label = f"encode {kind} {precision}"

            def smallest(model: Encoder = model, precision: str = precision) -> dict:
                found_ND = model.encode(texts, precision=precision)
                return {"distance": float(1 - (found_ND.astype(np.float64) * exact_ND).sum(1).min())}

            made = findings.attempt(label, smallest)
            if made:
                findings.bound(label, 1e-5 if precision == "fp32" else 1e-3, **made)
        if not model.training:
            findings.fault(
                f"encode {kind}: a model in train mode comes back in eval mode, so it trains without dropout"
            )
