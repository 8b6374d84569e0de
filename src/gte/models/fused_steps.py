"""The steps that fused layers are made of, on a CPU: matrix products, their gradients, and masks of dropout.

Shapes: T tokens of all texts end to end, D width.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gte.attention import Runs

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


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
    the bias, added in passing, costs nothing instead of a tenth.
    """
    if not by_onednn(x.dtype):
        return F.linear(x, weight, bias)
    return ONEDNN(x, weight, bias, "none", [], "")


class Weight:
    """W and b of y = x W^T + b as matrix products take them, in the precision of these: [out, in], [out].

    shared: whether more products with it are to come, so that it pays to lay it out for oneDNN once, by a twentieth of
    a product. Laid out, it takes its memory twice, once for each direction.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], dtype: torch.dtype, shared: bool):
        one = len(weights) == 1
        self.plain = (weights[0] if one else torch.cat(list(weights))).to(dtype)
        self.bias = (biases[0] if one else torch.cat(list(biases))).to(dtype)
        self.shared = shared and by_onednn(dtype)
        self.forth: Tensor | None = None
        self.back: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """x W^T + b."""
        if self.shared and self.forth is None:
            self.forth = lay_out(self.plain, len(x))
        return product(x, self.plain if self.forth is None else self.forth, self.bias)

    def apply_back(self, dy: Tensor) -> Tensor:
        """dy W."""
        if self.shared and self.back is None:
            self.back = lay_out(self.plain.t(), len(dy))
        return product(dy, self.plain.t() if self.back is None else self.back)


SHARED: ContextVar[dict[tuple, Weight] | None] = ContextVar("shared", default=None)


@contextmanager
def sharing_weights(shared: dict[tuple, Weight] | None):
    """Within, the layers take casts of their weights from `shared` and put new ones there; None shares nothing.

    For chunks of one step: the weights must not change until the last one's gradient is known.
    """
    before = SHARED.set(shared)
    try:
        yield
    finally:
        SHARED.reset(before)


def weight_of(weights: Sequence[Tensor], biases: Sequence[Tensor], dtype: torch.dtype) -> Weight:
    """Of one product, or of several of one input below each other."""
    shared = SHARED.get()
    if shared is None:
        return Weight(weights, biases, dtype, False)
    key = (dtype, *(weight.data_ptr() for weight in weights))
    if key not in shared:
        shared[key] = Weight(weights, biases, dtype, True)
    return shared[key]


def by_onednn(dtype: torch.dtype) -> bool:
    """Whether `product` has oneDNN compute it."""
    return ONEDNN is not None and dtype in (torch.float32, torch.bfloat16)


def lay_out(weight: Tensor, rows: int) -> Tensor:
    """A weight as oneDNN wants it for a product with so many rows; only `product` can read it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """total + left right, in place: total is a gradient that nobody else holds."""
    return total.add_(product(left, right.t()))


def weight_gradients(dy: Tensor, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of weight and bias of y = W x + b, summed over tokens in float32 and then in the precision of dy.

    The bias as a product too: in float32 that takes half as long as a sum over rows.
    """
    return (dy.t() @ x).to(dtype), (dy.new_ones(1, len(dy)) @ dy)[0].to(dtype)
