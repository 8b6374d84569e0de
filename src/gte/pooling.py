"""Pooling: one vector of each text out of its tokens' (Eq. 2: their mean), summed in at least float32.

Shapes: n texts of a chunk, T tokens of all of them end to end, L tokens of the longest, D width.
"""

import torch
from torch import Tensor

from gte.attention import Runs, at_least_float32


def pool_packed(hidden_TD: Tensor, runs: Runs, lengths: Tensor, skip: Tensor | None, pooling: str) -> Tensor:
    """Pool texts that stand end to end.

    Args:
        hidden_TD: the last layer's hidden states.
        runs: how many texts of which length follow each other.
        lengths: tokens of each text, int64 [n].
        skip: how many tokens at the start of each text are not pooled, int64 [n]; None is none.
        pooling: mean, cls or last.
    Returns: [n, D], at least float32.
    Source: Eq. 2.

    >>> pool_packed(torch.tensor([[1.0], [3.0], [5.0]]), [(1, 2), (1, 1)], torch.tensor([2, 1]), None, "mean")
    tensor([[2.],
            [5.]])
    """
    dtype = at_least_float32(hidden_TD)
    if pooling != "mean":
        return hidden_TD[lengths.cumsum(0) - lengths + chosen(lengths, skip, pooling)].to(dtype)
    if skip is not None:
        return mean_behind(hidden_TD, lengths, skip)
    parts = hidden_TD.split([texts * length for texts, length in runs])
    return torch.cat([part.unflatten(0, run).mean(1, dtype=dtype) for part, run in zip(parts, runs, strict=True)])


def pool_padded(hidden_nLD: Tensor, mask: Tensor | None, lengths: Tensor, skip: Tensor | None, pooling: str) -> Tensor:
    """Pool texts that are padded to the longest.

    Args:
        hidden_nLD: the last layer's hidden states.
        mask: bool [n, L], false where padding is; None where there is none.
        lengths, skip, pooling: as in `pool_packed`.
    Returns: [n, D], at least float32.
    Source: Eq. 2.
    """
    dtype = at_least_float32(hidden_nLD)
    if pooling != "mean":
        return hidden_nLD[torch.arange(len(hidden_nLD), device=hidden_nLD.device), chosen(lengths, skip, pooling)].to(
            dtype
        )
    if skip is not None:
        pooled = torch.arange(hidden_nLD.shape[1], device=hidden_nLD.device) >= skip[:, None]
        mask = pooled if mask is None else mask & pooled
    if mask is None:
        return hidden_nLD.mean(1, dtype=dtype)
    sum_nD = (hidden_nLD * mask[..., None]).sum(1, dtype=dtype)
    return sum_nD / mask.sum(1, keepdim=True).clamp(min=1)


def chosen(lengths: Tensor, skip: Tensor | None, pooling: str) -> Tensor:
    """The token of each text, counted from its first, whose vector pooling by cls or last takes: [n]."""
    if pooling == "last":
        return lengths - 1
    return torch.zeros_like(lengths) if skip is None else torch.where(skip < lengths, skip, 0)


def mean_behind(hidden_TD: Tensor, lengths: Tensor, skip: Tensor) -> Tensor:
    """The mean of each text's rows but its first `skip`, in at least float32: [n, D]; 0 where none is left."""
    total = len(hidden_TD)
    text = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)
    within = torch.arange(total, device=lengths.device) - (lengths.cumsum(0) - lengths)[text]
    rows_TD = hidden_TD.to(at_least_float32(hidden_TD)) * (within >= skip[text])[:, None]
    sum_nD = rows_TD.new_zeros(len(lengths), hidden_TD.shape[1]).index_add(0, text, rows_TD)
    return sum_nD / (lengths - skip).clamp(min=1)[:, None]
