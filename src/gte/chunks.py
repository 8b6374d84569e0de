"""Chunks of texts that go through the language model together: sorted by length, cut by a budget of tokens.

Shapes: N texts, T tokens of all texts end to end.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gte.attention import on_cuda
from gte.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Chunks of texts that go through the language model together, longest first."""

    chunks: list[np.ndarray]  # row numbers, longest text first
    order: np.ndarray  # the chunks end to end
    tokens: int  # real tokens
    computed_tokens: int  # what the language model computes on
    packed: bool = False  # whether chunks go through it without padding

    @property
    def padding(self) -> float:
        """Share of the computed tokens that are padding."""
        return 1 - self.tokens / max(self.computed_tokens, 1)


def plan_chunks(lengths_N: np.ndarray, batch_tokens: int, packed: bool = False) -> Plan:
    """Sort by length, then cut by token budget, padding included unless `packed`.

    Raises UserError where a single text is longer than the budget.
    """
    lengths_N = np.asarray(lengths_N)
    order = np.argsort(-lengths_N, kind="stable")
    longest = int(lengths_N[order[0]]) if len(order) else 0
    if longest > batch_tokens:
        raise UserError(f"batch_tokens={batch_tokens} is less than one text of {longest} tokens; raise it to {longest}")
    ends = lengths_N[order].cumsum()
    chunks, computed, start = [], 0, 0
    while start < len(order):
        if packed:
            done = ends[start - 1] if start else 0
            rows = order[start : np.searchsorted(ends, done + batch_tokens, side="right")]
            computed += int(lengths_N[rows].sum())
        else:
            width = max(int(lengths_N[order[start]]), 1)
            rows = order[start : start + batch_tokens // width]
            computed += width * len(rows)
        chunks.append(rows)
        start += len(rows)
    return Plan(chunks, order, int(lengths_N.sum()), computed, packed)


class Placed(NamedTuple):
    """Texts on the device of the language model, in the order of a plan: a chunk is a range of them."""

    ids_T: Tensor  # int32, in the caller's order
    starts_N: Tensor  # int64, in ids_T
    lengths_N: Tensor  # int64
    host_lengths_N: np.ndarray  # the same for the host, which would have to wait for the device's
    back_N: Tensor  # int64, where each of the caller's texts is
    chunks: list[range]
    packed: bool
    skip_N: Tensor | None  # int64, tokens at the start of each text that are not pooled


def place(
    ids_T: Tensor, lengths_N: np.ndarray, plan: Plan, device: torch.device, skip_N: np.ndarray | None = None
) -> Placed:
    """Brings the texts of a step, token ids end to end, to a device, in two transfers."""
    lengths = np.asarray(lengths_N, dtype=np.int64)
    numbers_N = np.empty((3 if skip_N is None else 4, len(lengths)), dtype=np.int64)
    numbers_N[0], numbers_N[1] = (lengths.cumsum() - lengths)[plan.order], lengths[plan.order]
    numbers_N[2, plan.order] = np.arange(len(lengths))
    if skip_N is not None:
        numbers_N[3] = skip_N[plan.order]
    starts_N, sorted_N, back_N, *skipped = upload(torch.from_numpy(numbers_N), device)
    ends = np.cumsum([0, *map(len, plan.chunks)]).tolist()
    chunks = list(map(range, ends[:-1], ends[1:]))
    skip_N = skipped[0] if skipped else None
    return Placed(upload(ids_T, device), starts_N, sorted_N, numbers_N[1], back_N, chunks, plan.packed, skip_N)


def upload(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; to a GPU from pinned memory, so that the host does not wait for it."""
    return x.pin_memory().to(device, non_blocking=True) if on_cuda(device) else x.to(device)
