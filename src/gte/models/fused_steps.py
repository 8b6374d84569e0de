"""The steps that fused layers are made of, on a CPU: matrix products, their gradients, and masks of dropout.

Shapes: T tokens of all texts end to end, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gte.attention import Runs

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
ONEDNN_TYPES: set[torch.dtype] = set()  # that it multiplies on this processor
if ONEDNN is not None:
    ONEDNN_TYPES.add(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        ONEDNN_TYPES.add(torch.bfloat16)


def has_hooks(layer: nn.Module) -> bool:
    """Whether someone wants to see or change what lies within a layer."""
    parts = (part for part in layer.modules() if part is not layer)
    return any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision of matrix products: autocast's, or that of x."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def on_cpu(runs: Runs | None, hidden_states: Tensor, offsets: Tensor | None = None, **options) -> bool:
    """Whether a layer is given packed texts on a CPU; offsets are for a GPU."""
    return runs is not None and offsets is None and hidden_states.device.type == "cpu"


def rate(dropout: nn.Module) -> float:
    """The share that a layer's dropout drops now; nn.Identity drops nothing."""
    return getattr(dropout, "p", 0.0) if dropout.training else 0.0


def drop(y: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
    """y with some of its numbers dropped and the others grown, and the mask of what was not dropped."""
    if not dropout:
        return y, None
    mask = draw_mask(y, dropout)
    return (y * mask).mul_(1 / (1 - dropout)), mask


def drop_backward(gradient: Tensor, dtype: torch.dtype, mask: Tensor | None, dropout: float) -> Tensor:
    """The gradient of what `drop` took, in `dtype`."""
    return gradient.to(dtype) if mask is None else (gradient * mask).mul_(1 / (1 - dropout)).to(dtype)


def draw_mask(like: Tensor, dropout: float) -> Tensor:
    """0 with probability `dropout` to 1 / 65,536, else 1; from four 16-bit numbers a draw, six times as fast as one."""
    draws = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: like.numel()].view(like.shape)
    return torch.ge(bits, round(dropout * 2**16) - 2**15, out=torch.empty_like(like))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias.

    By oneDNN where PyTorch has it: in float32 a fifth faster than its usual library on an AMD processor, and in bf16
    the bias, added in passing, costs nothing instead of a tenth. On processors below AVX-512 it has no bf16.
    """
    if x.dtype not in ONEDNN_TYPES:
        return F.linear(x, weight, bias)
    return ONEDNN(x, weight, bias, "none", [], "")


def add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """total + left right, in place: total is a gradient that nobody else holds."""
    return total.add_(product(left, right.t()))


def weight_gradients(dy: Tensor, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias of y = W x + b, summed over tokens in float32 and then in the precision of dy.

    The bias as a product too: in float32 that takes half as long as a sum over rows.
    """
    return (dy.t() @ x).to(dtype), (dy.new_ones(1, len(dy)) @ dy)[0].to(dtype)
