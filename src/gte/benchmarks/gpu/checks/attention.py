"""Attention as the product runs it: the share that dropout really drops, and what a shape costs when it is new."""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gte.benchmarks.gpu.checks.encoder import KINDS, precisions
from gte.benchmarks.gpu.findings import Findings
from gte.benchmarks.gpu.setting import Setting
from gte.benchmarks.measure import synchronize
from gte.encoder import Encoder
from gte.precision import AUTOCAST

LENGTH = 64


def attention(findings: Findings, setting: Setting) -> None:
    folder = uniform_model(setting)
    texts = 16 if setting.small else 64
    for kind, packed in KINDS.items():
        for precision in precisions(setting):
            label = f"dropout {kind} {precision}"
            share = findings.attempt(label, lambda k=packed, p=precision: dropped(setting, folder, k, p, texts))
            if share and not (abs(share["dropped"] - 0.1) < 0.01 and abs(share["mean"] - 1) < 0.01):
                findings.fault(
                    f"{label}: 0.1 was asked for, {share['dropped']:.4f} is dropped, mean {share['mean']:.4f}"
                )
    for kind, packed in KINDS.items():
        findings.attempt(f"shapes {kind} bf16", lambda k=packed: new_shapes(setting, k))


def uniform_model(setting: Setting) -> Path:
    """A model whose attention weighs all tokens of a text alike and whose values are all one.

    Its output is then the mean of L Bernoulli draws over their rate: 1, with variance p / ((1 - p) L).
    """
    source = setting.model("base", 1, dropout=0.1)
    folder = Path(setting.work) / "models" / "uniform"
    if not folder.exists():
        weights = load_file(source / "model.safetensors")
        for name, weight in weights.items():
            if ".attention.self." in name:
                weight.zero_()
                if name.endswith("value.bias"):
                    weight.fill_(1)
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def dropped(setting: Setting, folder: Path, packed: bool, precision: str, texts: int) -> dict[str, float]:
    """The share of attention weights that dropout takes, by the variance of the first layer's output."""
    encoder = setting.encoder(folder, padding_free=packed)
    seen = []
    layer = next(module for name, module in encoder.lm.named_modules() if name.endswith("attention.self"))
    layer.register_forward_hook(lambda module, given, output: seen.append(output[0].detach().float().flatten(0, -2)))
    # shorter texts beside them, so that the padded batch has a mask
    lengths = torch.tensor([LENGTH] * texts + [LENGTH - 16] * texts)
    ids = torch.randint(5, 200, (int(lengths.sum()),), generator=torch.Generator().manual_seed(0))
    dtype = AUTOCAST[precision]
    torch.manual_seed(0)
    with torch.autocast(setting.device, dtype, enabled=dtype is not None):
        encoder(ids, lengths, encoder.plan(lengths.numpy(), int(LENGTH * len(lengths))))
    (x_TD,) = seen
    x_TD = x_TD[: texts * LENGTH]  # longest first: the texts of LENGTH tokens
    variance = float(x_TD.unflatten(1, (-1, encoder.width // heads(encoder)))[..., 0].var())
    return {"dropped": variance * LENGTH / (1 + variance * LENGTH), "mean": float(x_TD.mean())}


def heads(encoder: Encoder) -> int:
    """Attention heads of the language model."""
    return encoder.lm.config.num_attention_heads


def new_shapes(setting: Setting, packed: bool) -> dict[str, float]:
    """Milliseconds of a forward and backward of chunks of shapes not seen before, and of one seen before."""
    encoder = setting.encoder(setting.model("minilm", 2 if setting.small else 4), padding_free=packed)
    texts = 8 if setting.small else 256

    def step(number: int) -> float:
        lengths = torch.full((texts + 8 * number,), 24 + number)
        ids = torch.full((int(lengths.sum()),), 7)
        synchronize(setting.device)
        start = time.perf_counter()
        with torch.autocast(setting.device, torch.bfloat16):
            encoder(ids, lengths, encoder.plan(lengths.numpy(), 32768)).sum().backward()
        synchronize(setting.device)
        return (time.perf_counter() - start) * 1e3

    step(0)
    new = [step(number) for number in range(1, 6)]
    seen = [step(5) for _ in range(5)]
    return {"new_ms": sorted(new)[2], "seen_ms": sorted(seen)[2]}
