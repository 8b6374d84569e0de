"""The device and the precision that a script computes on, chosen where the user leaves it open."""

import torch

from gte.encoder import PRECISIONS, native_bf16
from gte.errors import UserError


def choose_device(device: str) -> str:
    """`auto` is the GPU where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision(precision: str, device: str) -> str:
    """`auto` is fp16 on a GPU as in the paper; on a CPU bf16 where the processor computes it natively, else fp32."""
    if precision not in {"auto", *PRECISIONS}:
        raise UserError(f"precision={precision} is unknown; choose auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device == "cpu":
        raise UserError("precision=fp16 needs a GPU; on a CPU choose bf16 or fp32")
    if precision == "int8" and device != "cpu":
        raise UserError("precision=int8 is for a CPU; give device=cpu, or choose fp16 or bf16")
    if precision != "auto":
        return precision
    if device != "cpu":
        return "fp16"
    return "bf16" if native_bf16("cpu") else "fp32"


def choose_devices(device: str | list[str]) -> list[str]:
    """One or several: `auto` is every GPU, or the CPU where there is none."""
    if device == "auto" and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [choose_device(device)] if isinstance(device, str) else list(device)
