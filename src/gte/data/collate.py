"""From rows of a source to what one rank's step works on: token ids end to end, no padding.

Texts of a step, in this order: N queries, N documents, N * K negatives (those of query 0, then those of query 1, ...).
A list of texts is a pair (flat ids, lengths).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gte.data.shards import spans

Texts = tuple[np.ndarray, np.ndarray]


class Batch(NamedTuple):
    """One rank's texts of a step, special tokens included."""

    ids_T: Tensor  # int32, all texts end to end
    lengths_R: Tensor  # int64, tokens of each of the R = N (2 + K) texts
    pairs: int  # N, queries on this rank
    negatives: int  # K, negatives of each query
    source: int
    step: int


def collate(
    table,
    rows_N: np.ndarray,
    *,
    source: int,
    step: int,
    seed: int,
    max_length: int,
    group_size: int,
    prefix: list[int],
    suffix: list[int],
) -> Batch:
    """The batch of the given rows of one source's TokenTable.

    Every text is cut to max_length, special tokens included, as its tokenizer would cut it. With group_size > 1 each
    query gets group_size - 1 negatives: its own hard ones, chosen by (seed, step, row), filled with random documents
    of the same source where it has too few (Section 3.4).
    """
    texts = [table.gather("query", rows_N), table.gather("document", rows_N)]
    if group_size > 1:
        texts.append(gather_group(table, rows_N, group_size - 1, key=hash64(np.uint64(seed), np.uint64(step))))
    flat = np.concatenate([ids for ids, _ in texts])
    lengths = np.concatenate([lengths for _, lengths in texts])
    ids_T, lengths_R = frame(flat, lengths, max_length, prefix, suffix)
    return Batch(
        torch.from_numpy(ids_T.astype(np.int32)), torch.from_numpy(lengths_R), len(rows_N), group_size - 1, source, step
    )


def frame(flat: np.ndarray, lengths: np.ndarray, max_length: int, prefix: list[int], suffix: list[int]) -> Texts:
    """Each text cut to what max_length leaves for it, between the special tokens prefix and suffix."""
    kept = np.minimum(lengths, max_length - len(prefix) - len(suffix))
    framed = kept + len(prefix) + len(suffix)
    ends = framed.cumsum()
    result = np.empty(int(ends[-1]) if len(ends) else 0, dtype=flat.dtype)
    starts = ends - framed
    for offset, token in enumerate(prefix):
        result[starts + offset] = token
    for offset, token in enumerate(reversed(suffix)):
        result[ends - 1 - offset] = token
    result[spans(starts + len(prefix), kept)] = flat[spans(lengths.cumsum() - lengths, kept)]
    return result, framed


def gather_group(table, rows_N: np.ndarray, per_query: int, key: np.uint64) -> Texts:
    """`per_query` negatives of each row: a random choice of its hard ones, then random documents of other rows."""
    flat, lengths, counts_N = table.gather_negatives(rows_N)
    owner = np.repeat(np.arange(len(rows_N)), counts_N)
    slot = np.arange(len(owner)) - np.repeat(counts_N.cumsum() - counts_N, counts_N)
    priority = hash64(hash64(key, rows_N[owner].astype(np.uint64)), slot.astype(np.uint64))
    order = np.lexsort((priority, owner))  # by row, in random order within it
    chosen = order[slot[: len(order)] < per_query]  # `slot` numbers the sorted texts of a row just as well
    # texts 0 .. len(lengths) - 1 are the hard negatives, what follows are random documents of other rows
    missing_N = np.maximum(per_query - counts_N, 0)
    filled = np.repeat(np.arange(len(rows_N)), missing_N)
    number = (np.arange(len(filled)) - np.repeat(missing_N.cumsum() - missing_N, missing_N)).astype(np.uint64)
    others = 1 + hash64(hash64(key, rows_N[filled].astype(np.uint64)), ~number) % np.uint64(max(len(table) - 1, 1))
    random_flat, random_lengths = table.gather("document", (rows_N[filled] + others.astype(np.int64)) % len(table))
    flat, lengths = np.concatenate([flat, random_flat]), np.concatenate([lengths, random_lengths])
    which = np.concatenate([chosen, len(owner) + np.arange(len(filled))])
    which = which[np.argsort(np.concatenate([owner[chosen], filled]), kind="stable")]
    starts = lengths.cumsum() - lengths
    return flat[spans(starts[which], lengths[which])], lengths[which]


def hash64(key: np.ndarray | np.uint64, value: np.ndarray | np.uint64) -> np.ndarray:
    """A 64-bit hash of pairs of unsigned integers (the finaliser of SplitMix64), element by element."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
        x = key * np.uint64(0x9E3779B97F4A7C15) + value * np.uint64(0xD1342543DE82EF95) + np.uint64(0x632BE59BD9B4E019)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
