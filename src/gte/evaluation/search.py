"""Exact search in bounded memory: scores in blocks, the best kept.

Shapes: N queries, M documents of a block, K best, D width.
"""

from collections.abc import Iterable

import numpy as np
import torch

SCORES = 2**24  # scores held at a time: 64 MiB


def best_documents(
    q_ND: np.ndarray, blocks: Iterable[tuple[int, np.ndarray]], k: int, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Inner products [N, K] of each query with its k best documents, best first, and the documents' numbers [N, K].

    `blocks` yields (number of the first document, vectors [M, D]); K is less than k where there are fewer documents.
    """
    q_ND = torch.from_numpy(q_ND).to(device)
    values_NK = torch.empty(len(q_ND), 0, device=device)
    numbers_NK = torch.empty(len(q_ND), 0, dtype=torch.int64, device=device)
    for first, d_MD in blocks:
        d_DM = torch.from_numpy(d_MD).to(device).T
        size = max(1, SCORES // max(1, d_DM.shape[1]))
        best = [
            merge(values, numbers, q_nD @ d_DM, first, k)
            for q_nD, values, numbers in zip(
                q_ND.split(size), values_NK.split(size), numbers_NK.split(size), strict=True
            )
        ]
        values_NK, numbers_NK = (torch.cat(parts) for parts in zip(*best, strict=True))
    return values_NK.cpu().numpy(), numbers_NK.cpu().numpy()


def merge(values, numbers, scores_NM, first: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of what was kept and of a block's scores."""
    new_values, new_numbers = scores_NM.topk(min(k, scores_NM.shape[1]))
    values, numbers = torch.cat([values, new_values], 1), torch.cat([numbers, new_numbers + first], 1)
    values, at = values.topk(min(k, values.shape[1]))
    return values, numbers.gather(1, at)
