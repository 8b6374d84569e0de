"""The CUDA path of the encoder on a processor: PyTorch's operators of variable length, in plain arithmetic.

They are given to PyTorch as its kernels for the CPU, so what differentiates them is PyTorch's own formula.
"""

from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor

from gte import attention, inputs
from gte.models import encoding

LIBRARY = torch.library.Library("aten", "IMPL")
calls: list[tuple] = []  # (operator, window) of each forward call


def texts_of(q, k, v, offsets: Tensor, dropout: float, seed: int, scale, window):
    """Each text's range, its q, k and v in float32 [H, L, E], its weights, and what dropout multiplies these by."""
    generator, ends = torch.Generator().manual_seed(seed), offsets.tolist()
    assert ends[0] == 0 and ends[-1] == len(q) and offsets.dtype == torch.int32
    for start, end in pairwise(ends):
        one = [x[start:end].transpose(0, 1).float() for x in (q, k, v)]
        scores = one[0] @ one[1].mT * scale
        if window is not None:
            place = torch.arange(end - start)
            scores = scores.masked_fill((place[:, None] - place).abs() > window, -torch.inf)
        keep = (torch.rand(scores.shape, generator=generator) >= dropout) / (1 - dropout)
        yield slice(start, end), *one, scores.softmax(-1), keep


def forward(q, k, v, offsets, dropout, seed, scale, window) -> Tensor:
    """[T, H, E]"""
    out, scale = torch.empty_like(q), scale or q.shape[-1] ** -0.5
    for rows, _, _, v1, weights, keep in texts_of(q, k, v, offsets, dropout, seed, scale, window):
        out[rows] = ((weights * keep) @ v1).transpose(0, 1).to(q.dtype)
    return out


def backward(grad, q, k, v, offsets, dropout, seed, scale, window) -> list[Tensor]:
    """Of the above, by hand: a kernel has no autograd."""
    found, scale = [torch.empty_like(x) for x in (q, k, v)], scale or q.shape[-1] ** -0.5
    for rows, q1, k1, v1, weights, keep in texts_of(q, k, v, offsets, dropout, seed, scale, window):
        out1 = grad[rows].transpose(0, 1).float()
        weights1 = (out1 @ v1.mT) * keep
        scores1 = weights * (weights1 - (weights1 * weights).sum(-1, keepdim=True)) * scale
        for result, part in zip(found, (scores1 @ k1, scores1.mT @ q1, (weights * keep).mT @ out1), strict=True):
            result[rows] = part.transpose(0, 1).to(q.dtype)
    return found


def draw() -> Tensor:
    """What stands for the place in the device's generator."""
    return torch.randint(2**31, (2,))


def flash(
    q, k, v, offsets, offsets_k, longest, longest_k, dropout, causal, debug, *, scale=None, window_size_left=None,
    window_size_right=None, **_,
):  # fmt: skip
    assert offsets is offsets_k or torch.equal(offsets, offsets_k)
    assert longest == longest_k == offsets.diff().max() and not causal and window_size_left == window_size_right
    state = draw()
    calls.append(("flash", window_size_left))
    out = forward(q, k, v, offsets, dropout, int(state[0]), scale, window_size_left)
    return out, q.new_empty(q.shape[1], len(q), dtype=torch.float32), state, torch.empty(()), q.new_empty(0)


def flash_backward(
    grad, q, k, v, out, sums, offsets, offsets_k, longest, longest_k, dropout, causal, state, unused, *, scale=None,
    window_size_left=None, window_size_right=None,
):  # fmt: skip
    return tuple(backward(grad, q, k, v, offsets, dropout, int(state[0]), scale, window_size_left))


def efficient(
    q, k, v, bias, offsets, offsets_k, longest, longest_k, dropout, kind, compute_log_sumexp=False, *, scale=None, **_
):
    assert bias is None and kind == 0 and compute_log_sumexp and longest == longest_k == offsets.diff().max()
    state = draw()
    calls.append(("efficient", None))
    out = forward(q[0], k[0], v[0], offsets, dropout, int(state[0]), scale, None)[None]
    return out, q.new_empty(1, q.shape[2], q.shape[1]), state[0], state[1], longest, longest_k


def efficient_backward(
    grad, q, k, v, bias, out, offsets, offsets_k, longest, longest_k, sums, dropout, seed, place, kind, bias_grad=False,
    *, scale=None, **_,
):  # fmt: skip
    found = backward(grad[0], q[0], k[0], v[0], offsets, dropout, int(seed), scale, None)
    return *(x[None] for x in found), torch.empty(0)


for name, kernel in (
    ("_flash_attention_forward", flash),
    ("_flash_attention_backward", flash_backward),
    ("_efficient_attention_forward", efficient),
    ("_efficient_attention_backward", efficient_backward),
):
    LIBRARY.impl(name, kernel, "CPU")


@contextmanager
def pretended(monkeypatch):
    """Within, the encoder takes the processor for a GPU that has flash kernels."""
    with monkeypatch.context() as patch:
        for module in (attention, encoding, inputs):
            patch.setattr(module, "on_cuda", lambda device: True)
        patch.setattr(attention, "has_flash", lambda device: True)
        calls.clear()
        yield
