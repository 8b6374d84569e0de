"""Exact search in bounded memory: scores in blocks, the best kept, ties by one rule.

A score is the inner product in float64 rounded to float32; of equal scores the document of the lowest number comes
first. So the documents found do not depend on the device, on how the work is cut into blocks, or on the order of a sum:
plain float32 products differ in their last bits between them, and torch.topk promises nothing about equal values.

Shapes: N queries, M documents of a block, K best, D width.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

SCORES = 2**23  # scores held at a time: 96 MiB with the keys that order them
LOW_BITS = 0x7FFFFFFF  # all of a float32 but its sign
LAST_NUMBER = 0xFFFFFFFF


def best_documents(
    q_ND: np.ndarray,
    blocks: Iterable[tuple[int, np.ndarray]],
    k: int,
    device: str = "cpu",
    bar: Callable[[Tensor, int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find each query's k best documents by inner product, exactly, in bounded memory.

    Args:
        q_ND: float32 [N, D], the queries' vectors.
        blocks: (number of the first document, vectors float32 [M, D]) of one block after the other.
        k: how many are wanted; K is less where there are fewer documents.
        device: where it is computed; what is no CUDA device counts as cpu, since not every other has float64.
        bar: takes some scores [n, m] and the numbers of their first query and document, and sets those to -inf that are
            not to be found: where a query has fewer than K others, its last scores are -inf.
    Returns: float32 scores [N, K], best first, and int64 numbers of the documents [N, K]; equal scores by number.

    >>> d_MD = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    >>> scores, numbers = best_documents(d_MD[:1], [(0, d_MD)], k=2)
    >>> numbers.tolist(), scores.tolist()
    ([[0, 2]], [[1.0, 1.0]])
    """
    device = device if device.startswith("cuda") else "cpu"
    q_ND = torch.from_numpy(q_ND).to(device, torch.float64)
    values_NK = torch.empty(len(q_ND), 0, device=device)
    numbers_NK = torch.empty(len(q_ND), 0, dtype=torch.int64, device=device)
    for first, d_MD in blocks:
        d_DM = torch.from_numpy(d_MD).to(device, torch.float64).T
        size = max(1, SCORES // max(1, d_DM.shape[1]))
        best, parts = [], zip(q_ND.split(size), values_NK.split(size), numbers_NK.split(size), strict=True)
        for query, (q_nD, values, numbers) in zip(range(0, len(q_ND) or 1, size), parts, strict=True):
            scores_nM = (q_nD @ d_DM).float()
            if bar is not None:
                bar(scores_nM, query, first)
            best.append(merge(values, numbers, scores_nM, first, k))
        values_NK, numbers_NK = (torch.cat(parts) for parts in zip(*best, strict=True))
    return values_NK.cpu().numpy(), numbers_NK.cpu().numpy()


def merge(values: Tensor, numbers: Tensor, scores_NM: Tensor, first: int, k: int) -> tuple[Tensor, Tensor]:
    """The k best of what was kept, float32 values [N, K] of numbers [N, K], and of a block's scores from `first` on."""
    new = torch.arange(first, first + scores_NM.shape[1], device=scores_NM.device)
    new_keys = order_keys(scores_NM, new).topk(min(k, len(new))).values
    keys = torch.cat([order_keys(values, numbers), new_keys], 1)
    return from_keys(keys.topk(min(k, keys.shape[1])).values)


def order_keys(values: Tensor, numbers: Tensor) -> Tensor:
    """int64 keys, no two alike, that grow with the float32 value and, where values are equal, as the number falls."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0: they are equal
    return (ordered(bits).long() << 32) + (LAST_NUMBER - numbers)


def from_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The values and numbers that `order_keys` was given."""
    return ordered((keys >> 32).int()).view(torch.float32), LAST_NUMBER - (keys & LAST_NUMBER)


def ordered(bits: Tensor) -> Tensor:
    """Bits of float32 values as int32 numbers in the values' order, and back: the same flip undoes itself."""
    return bits ^ ((bits >> 31) & LOW_BITS)
