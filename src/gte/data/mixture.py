"""Rows of a step's batch: a function of (seed, step), not the state of an iterator.

Source by Eq. 4, one source a batch; rows are a window of a keyed permutation of the source, so nothing is stored and
nothing replayed: a run killed at any step continues with the same batches, at any number of ranks.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

BLOCK = 65_536  # steps whose sources are drawn together
ROUNDS = 6  # of the Feistel network
MASK = 2**64 - 1


class Mixture:
    """Draw each step's source and rows: p_i = n_i^alpha / sum_j n_j^alpha, as a function of (seed, step).

    The k-th batch drawn from a source is window k of a permutation of its rows, keyed by (seed, source, epoch): no row
    comes twice within an epoch of the source, and none twice in a batch. The n_i mod global_batch rows that do not fill
    a batch are skipped in that epoch, other ones in each epoch.

    Args:
        sizes: rows of each source, n_i.
        alpha: exponent of Eq. 4; 0.5 in the paper, 0 draws all sources alike, 1 in proportion to their size.
        seed: of the draws and of the permutations.
        global_batch: rows of a step over all ranks.
        weights: p_i in proportion to these instead, one positive number a source; None is Eq. 4.
    Raises: ValueError for a source smaller than global_batch, and for weights that are not one positive number each.
    Source: Eq. 4, Section 3.2.

    >>> mixture = Mixture([10_000, 90_000], alpha=0.5, seed=0, global_batch=100)
    >>> mixture.probabilities.tolist()
    [0.25, 0.75]
    """

    def __init__(
        self,
        sizes: Sequence[int] | np.ndarray,
        *,
        alpha: float,
        seed: int,
        global_batch: int,
        weights: Sequence[float] | np.ndarray | None = None,
    ):
        self.sizes = np.asarray(sizes, dtype=np.int64)
        if self.sizes.ndim != 1 or len(self.sizes) == 0:
            raise ValueError("sizes must be a list of at least one source size")
        if global_batch < 1:
            raise ValueError(f"global_batch must be at least 1, got {global_batch}")
        if self.sizes.min() < global_batch:
            small = int(self.sizes.argmin())
            raise ValueError(
                f"source {small} has {self.sizes[small]} rows, fewer than one global batch of {global_batch}: "
                "lower global_batch, leave the source out, or merge it with another"
            )
        self.seed, self.global_batch = int(seed), int(global_batch)
        if weights is None:  # n^alpha scaled by the largest, so that no alpha overflows
            weights = (self.sizes / self.sizes.max()) ** float(alpha)
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != self.sizes.shape or not (np.isfinite(weights) & (weights > 0)).all():
            raise ValueError(
                f"weights {weights.tolist()} must be a positive number for each of {len(self.sizes)} sources"
            )
        self.probabilities = weights / weights.sum()
        self._cumulative = self.probabilities.cumsum()
        self._cumulative[-1] = 1.0
        self._draws_before_block = [np.zeros(len(self.sizes), dtype=np.int64)]  # a row a block seen so far

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[int, np.ndarray]:
        """Draw the source of a step and this rank's rows of it.

        Args:
            step: from 0.
            rank: of this process, from 0.
            world_size: number of the processes; the ranks' rows end to end are the same for every world_size.
        Returns: (number of the source, rows int64 [global_batch / world_size]).
        Raises: ValueError where global_batch does not divide over the ranks.

        >>> mixture = Mixture([10_000, 90_000], alpha=0.5, seed=0, global_batch=4)
        >>> source, rows = mixture.batch(step=7)
        >>> halves = [mixture.batch(step=7, rank=rank, world_size=2) for rank in (0, 1)]
        >>> [row for _, part in halves for row in part.tolist()] == rows.tolist()
        True
        """
        if self.global_batch % world_size:
            below = self.global_batch // world_size * world_size
            raise ValueError(
                f"global_batch {self.global_batch} does not divide over {world_size} ranks; try {below + world_size}"
                + (f" or {below}" if below else "")
            )
        source, earlier = self.draw(step)
        size = int(self.sizes[source])
        epoch, window = divmod(earlier, size // self.global_batch)
        share = self.global_batch // world_size
        start = window * self.global_batch + rank * share
        key = mix(mix(self.seed & MASK, source + 1), epoch + 1)
        return source, permute(np.arange(start, start + share), size, key)

    def checksum(self, step: int) -> int:
        """Compute the CRC-32 of a step's source and rows, those of all ranks: equal where two runs took the same batch.

        >>> first, second = (Mixture([1_000], alpha=0.5, seed=0, global_batch=100) for _ in range(2))
        >>> first.checksum(step=3) == second.checksum(step=3)
        True
        """
        source, rows = self.batch(step)
        return crc32(rows.tobytes(), source)

    def draw(self, step: int) -> tuple[int, int]:
        """The source of a step and how many earlier steps drew the same source."""
        block, within = divmod(step, BLOCK)
        while len(self._draws_before_block) <= block:
            known = len(self._draws_before_block) - 1
            counts = np.bincount(self._sources(known), minlength=len(self.sizes))
            self._draws_before_block.append(self._draws_before_block[-1] + counts)
        sources = self._sources(block)
        source = int(sources[within])
        return source, int(self._draws_before_block[block][source] + (sources[:within] == source).sum())

    def epochs(self, step: int) -> np.ndarray:
        """Count how often each source has been passed over before a step.

        Args:
            step: from 0.
        Returns: float64 [sources]; 1.0 is all of a source's rows once.

        >>> Mixture([1_000], alpha=0.5, seed=0, global_batch=100).epochs(step=25).tolist()
        [2.5]
        """
        block, within = divmod(step, BLOCK)
        self.draw(step)
        counts = np.bincount(self._sources(block)[:within], minlength=len(self.sizes))
        return (self._draws_before_block[block] + counts) * self.global_batch / self.sizes

    def _sources(self, block: int) -> np.ndarray:
        """Sources of the steps [block * BLOCK, (block + 1) * BLOCK), drawn by a counter-based generator."""
        if getattr(self, "_cached_block", (None,))[0] != block:
            # raw 64-bit words, whose stream NumPy keeps stable for ever; 53 bits make a uniform double
            key = np.array([self.seed & MASK, block], np.uint64)  # a list from 2^63 on would go through floats
            words = np.random.Philox(key=key).random_raw(BLOCK)
            uniform = (words >> np.uint64(11)) * 2.0**-53
            drawn = np.searchsorted(self._cumulative, uniform, side="right").astype(np.int32)
            self._cached_block = (block, drawn)
        return self._cached_block[1]


def mix(key: int, value: int) -> int:
    """A 64-bit hash of two integers (the finaliser of SplitMix64)."""
    x = (key * 0x9E3779B97F4A7C15 + value * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def permute(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Permute range(size) by a key, at the given positions only: in O(len(positions)) and no memory beyond.

    A Feistel network over the next power of two; values that fall outside of the range walk on until they are inside
    (cycle walking), fewer than two walks on average.

    Args:
        positions: int64 [n], each in range(size).
        size: rows of the source.
        key: 64 bits; another key gives another permutation.
    Returns: int64 [n].

    >>> sorted(permute(np.arange(5), size=5, key=1).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = max(int(size - 1).bit_length(), 2)
    low_bits = bits // 2
    high_bits = bits - low_bits
    keys = [np.uint64(mix(key, number)) for number in range(ROUNDS)]
    values = positions.astype(np.uint64)
    result = np.empty(len(values), dtype=np.uint64)
    pending = np.arange(len(values))
    while len(pending):
        values = _feistel(values, high_bits, low_bits, keys)
        inside = values < size
        result[pending[inside]] = values[inside]
        pending, values = pending[~inside], values[~inside]
    return result.astype(np.int64)


def _feistel(values: np.ndarray, high_bits: int, low_bits: int, keys: list[np.uint64]) -> np.ndarray:
    """One pass of an unbalanced Feistel network, a bijection on [0, 2^(high_bits + low_bits))."""
    left, left_bits = values >> np.uint64(low_bits), high_bits
    right, right_bits = values & np.uint64(2**low_bits - 1), low_bits
    for key in keys:
        hashed = (right ^ key) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        left = left ^ ((hashed >> np.uint64(32)) & np.uint64(2**left_bits - 1))
        left, right, left_bits, right_bits = right, left, right_bits, left_bits
    return (left << np.uint64(right_bits)) | right
