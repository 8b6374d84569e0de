"""Attention of packed texts with its gradient written out, for fused layers on a CPU.

Shapes: T tokens of all texts end to end, n texts of L tokens in a run, N texts of a group of runs, H heads, E width
of a head, D = H E.
"""

from itertools import accumulate

import torch
from torch import Tensor

from gte.attention import BAND_ROWS, Runs, band_mask
from gte.models.fused_steps import draw_mask

LONGEST_EAGER = 128  # tokens; the scores of longer texts are not kept


def in_groups(runs: Runs, dtype: torch.dtype) -> list[Runs]:
    """Neighbouring runs whose texts are padded to one length, for the attention alone; the longest first.

    A batched bf16 product of a new shape takes oneDNN as long to prepare as a dozen short texts take to compute, and
    the texts of a step have a hundred lengths. In other precisions each run is a group.
    """
    groups = []
    for run in runs:
        longest = groups[-1][0][1] if groups and pads(dtype) else 0
        if 7 / 8 * longest <= run[1] <= longest <= LONGEST_EAGER:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def pads(dtype: torch.dtype) -> bool:
    """Whether oneDNN does the products."""
    return dtype == torch.bfloat16


def keeps_weights(length: int, dtype: torch.dtype) -> bool:
    """Whether attention over so many tokens is faster step by step than by PyTorch's fused kernel."""
    return dtype == torch.bfloat16 and length <= LONGEST_EAGER


def tokens(group: Runs) -> int:
    """Tokens of all texts."""
    return sum(texts * length for texts, length in group)


def by_head(flat: Tensor, parts: int, group: Runs, heads: int) -> list[Tensor]:
    """Views [parts, n, H, L, E] of the rows [T, parts D] of a group, one a run."""
    rows = flat.split([texts * length for texts, length in group])
    return [x.view(*run, parts, heads, -1).permute(2, 0, 3, 1, 4) for x, run in zip(rows, group, strict=True)]


def places(padded: Tensor, group: Runs) -> list[Tensor]:
    """The parts [p, n, H, L, E] of a group's [p, N, H, longest, E] that hold the tokens of its runs."""
    texts = padded.split([texts for texts, _ in group], dim=1)
    return [x[:, :, :, :length] for x, (_, length) in zip(texts, group, strict=True)]


def pad_group(flat: Tensor, parts: int, group: Runs, heads: int) -> Tensor:
    """[parts, N, H, longest, E] of the rows [T, parts D] of a group, zero where there is no token."""
    new = flat.new_empty if len(group) == 1 else flat.new_zeros
    width = flat.shape[1] // parts // heads
    padded = new(parts, sum(texts for texts, _ in group), heads, group[0][1], width)
    for place, view in zip(places(padded, group), by_head(flat, parts, group, heads), strict=True):
        place.copy_(view)
    return padded


def unpad_group(padded: Tensor, flat: Tensor, group: Runs, heads: int) -> None:
    """Writes [parts, N, H, longest, E] to the rows [T, parts D] of a group."""
    for place, view in zip(places(padded, group), by_head(flat, len(padded), group, heads), strict=True):
        view.copy_(place)


def attend(
    qkv: Tensor, context: Tensor, group: Runs, heads: int, dropout: float, window: int | None = None
) -> tuple[Tensor, ...]:
    """Writes softmax(q k^T / sqrt(E)) v of the texts of a group into context [T, D]; returns what backward needs.

    qkv: [T, 3 D]. window: as far before and behind itself a token sees; None is all.
    """
    longest = group[0][1]
    if not dropout and not keeps_weights(longest, qkv.dtype):
        (qkv_3nHLE,), (context_nHLE,) = by_head(qkv, 3, group, heads), by_head(context, 1, group, heads)[0]
        out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *qkv_3nHLE, attn_mask=band(window, longest, qkv.dtype)
        )
        context_nHLE.copy_(out)
        return *qkv_3nHLE, out, log_sums
    padded = pad_group(qkv, 3, group, heads)
    q, k, v = padded.flatten(1, 2)
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(q.shape[-1] ** -0.5)
    near = band(window, longest, qkv.dtype)
    if near is not None:
        scores.add_(near)
    if len(group) > 1:
        texts = scores.view(-1, heads, longest, longest).split([texts for texts, _ in group])
        for part, (_, length) in zip(texts, group, strict=True):
            part[..., length:] = torch.finfo(scores.dtype).min  # not -inf: a padded query may see no other key
    weights = scores.softmax(-1)
    kept = [weights]
    if dropout:
        kept.append(draw_mask(weights, dropout))
        weights = (weights * kept[1]).mul_(1 / (1 - dropout))
    unpad_group(torch.bmm(weights, v).view(padded[:1].shape), context, group, heads)
    return q, k, v, *kept


def attend_backward(
    gradient: Tensor, d_qkv: Tensor, group: Runs, heads: int, dropout: float, window: int | None, q, k, v, *kept
) -> None:
    """Writes the gradient of qkv [T, 3 D] from that of the context [T, D] and what `attend` kept."""
    if q.ndim == 4:
        (d_3nHLE,), (d_context,) = by_head(d_qkv, 3, group, heads), by_head(gradient, 1, group, heads)[0]
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        near = band(window, q.shape[2], q.dtype)
        for place, found in zip(d_3nHLE, backward(d_context, q, k, v, *kept, 0.0, False, attn_mask=near), strict=True):
            place.copy_(found)
        return
    weights, *mask = kept
    d_context = pad_group(gradient, 1, group, heads).flatten(0, 2)
    d_weights = torch.bmm(d_context, v.transpose(1, 2))
    dropped = weights
    if dropout:
        dropped = (weights * mask[0]).mul_(1 / (1 - dropout))
        d_weights.mul_(mask[0]).mul_(1 / (1 - dropout))
    # dS = P (dP - rowsum(dP P)), 0 where a key is padding since P is; as rows, padded queries have dP = 0
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(q.shape[-1] ** -0.5)
    found = q.new_empty(3, *q.shape)
    torch.bmm(d_scores, k, out=found[0])
    torch.bmm(d_scores.transpose(1, 2), q, out=found[1])
    torch.bmm(dropped.transpose(1, 2), d_context, out=found[2])
    unpad_group(found.unflatten(1, (-1, heads)), d_qkv, group, heads)


def band(window: int | None, length: int, dtype: torch.dtype) -> Tensor | None:
    """[L, L], to be added to the scores of texts of so many tokens, at most BAND_ROWS; None where all see all."""
    if window is None or length <= window + 1:
        return None
    return band_mask(window, dtype, torch.device("cpu"))[:length, :length]


def attend_groups(
    qkv: Tensor, runs: Runs, heads: int, dropout: float, window: int | None = None
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """The context [T, D] of qkv [T, 3 D], and what `attend_groups_backward` needs beside its gradient."""
    context = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    groups = in_groups(runs, qkv.dtype)
    sizes = list(map(tokens, groups))
    parts = zip(groups, qkv.split(sizes), context.split(sizes), strict=True)
    return context, [attend(rows, place, group, heads, dropout, window) for group, rows, place in parts]


def attend_groups_backward(
    d_context: Tensor, runs: Runs, heads: int, dropout: float, window: int | None, kept: list[tuple[Tensor, ...]]
) -> Tensor:
    """The gradient of qkv [T, 3 D] from that of the context [T, D]."""
    d_qkv = d_context.new_empty(len(d_context), 3 * d_context.shape[1])
    groups = in_groups(runs, d_context.dtype)
    sizes = list(map(tokens, groups))
    for group, given, wanted, tensors in zip(groups, d_context.split(sizes), d_qkv.split(sizes), kept, strict=True):
        attend_backward(given, wanted, group, heads, dropout, window, *tensors)
    return d_qkv


def fits_window(runs: Runs, window: int | None) -> bool:
    """Whether `attend` takes these runs: with a window only texts whose scores are one block of its band."""
    return window is None or max(length for _, length in runs) <= BAND_ROWS


def cut(tensors: list[Tensor], counts: list[int]) -> list[list[Tensor]]:
    """The tensors of each group, from those of all end to end."""
    ends = list(accumulate(counts))
    return [tensors[end - count : end] for end, count in zip(ends, counts, strict=True)]
