"""Which texts go through the language model together: sorted by length, cut by a budget of tokens."""

from dataclasses import dataclass

import numpy as np

from gte.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Which texts go through the language model together: longest first, at most `batch_tokens` a chunk."""

    chunks: list[np.ndarray]  # row numbers, longest text first
    order: np.ndarray  # the chunks end to end
    tokens: int  # real tokens
    computed_tokens: int  # what the language model computes on

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
    return Plan(chunks, order, int(lengths_N.sum()), computed)
