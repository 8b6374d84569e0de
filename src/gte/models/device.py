"""The device and the precision that a script computes on, chosen where the user leaves it open."""

import torch

from gte.errors import UserError
from gte.precision import PRECISIONS, native_bf16


def choose_device(device: str) -> str:
    """Choose the device that a script computes on.

    Args:
        device: auto, cpu, cuda or cuda:NUMBER; auto is the GPU where there is one.

    >>> choose_device("cpu")
    'cpu'
    """
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision(precision: str, device: str) -> str:
    """Choose the precision that a model is run in.

    Args:
        precision: auto, fp32, bf16, fp16 or int8; auto is fp16 on a GPU as in the paper, on a CPU bf16 where the
            processor computes it natively, else fp32.
        device: of `choose_device`.
    Raises: UserError for an unknown precision, and for one that the device does not compute in.

    >>> choose_precision("auto", "cuda")
    'fp16'
    >>> choose_precision("fp16", "cpu")
    Traceback (most recent call last):
    gte.errors.UserError: precision=fp16 needs a GPU; on a CPU choose bf16 or fp32
    """
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
    """Choose one or several devices.

    Args:
        device: as of `choose_device`, or a list; auto is every GPU, or the CPU where there is none.

    >>> choose_devices(["cuda:0", "cuda:1"])
    ['cuda:0', 'cuda:1']
    """
    if device == "auto" and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [choose_device(device)] if isinstance(device, str) else list(device)
