"""The arithmetic of a language model: the precisions there are, and a model's weights in one of them."""

from contextlib import contextmanager

import torch
from torch import nn

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = (*AUTOCAST, "int8")  # of `encode`


def native_bf16(device_type: str) -> bool:
    """Whether bfloat16 matrix products run on this machine's own instructions, where they are 2-3x float32."""
    if device_type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_bf16_supported()


@contextmanager
def cast_weights(module: nn.Module, dtype: torch.dtype):
    """Within, the floating-point parameters of a module are copies in this type; buffers stay as they are.

    The parameters themselves are put aside, not changed: gradients, an optimizer and DDP, which hangs on them, see
    nothing of it. The copies are made anew each time, so they never are those of an earlier training step.
    """
    kept = [(part, dict(part.named_parameters(recurse=False))) for part in module.modules()]
    copies = {p: nn.Parameter(p.detach().to(dtype), False) for p in module.parameters() if p.is_floating_point()}
    try:
        for part, parameters in kept:
            for name, parameter in parameters.items():
                setattr(part, name, copies.get(parameter, parameter))
        yield
    finally:
        for part, parameters in kept:
            for name, parameter in parameters.items():
                setattr(part, name, parameter)
