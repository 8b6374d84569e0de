"""The distinct pairs among the rows of a bucket, and the negatives that the rows of a pair have together."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.columnar.plain import lengths_of, lists_of
from gte.data.runs import PART
from gte.data.shards import spans

HASHES = pa.schema([PART.field("high"), PART.field("low")])


class Distinct(NamedTuple):
    """The distinct pairs of a bucket in order of their hashes.

    Args:
        order: numbers of all rows in order of (hash, file, row).
        first: positions in `order` of each pair's first row.
        counts: how many rows each pair has, which stand behind each other in `order`.
        high: the first 64 bits of each pair's hash.
    """

    order: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    high: np.ndarray

    def rows(self, part: slice) -> np.ndarray:
        """The numbers of the first rows of some pairs."""
        return self.order[self.first[part]]


def distinct_rows(rows: pa.Table, seen: list[Path] | None) -> Distinct:
    """Find the distinct pairs among rows by their hashes, but for hashes in `seen`; the first row is that of the lowest
    (file, row)."""
    high, low, row = (rows.column(name).to_numpy() for name in ("high", "low", "row"))
    order = np.argsort(high)  # ties are put in order below
    ordered = high[order]
    equal = ordered[1:] == ordered[:-1]
    tied = np.zeros(len(order), bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    ties = order[tied]
    if len(ties):
        files = rows.column("file").take(pa.array(ties)).combine_chunks().dictionary_encode()
        ranks = np.argsort(np.argsort(np.array(files.dictionary.to_pylist(), object)))
        ranks = ranks[files.indices.to_numpy()]
        order[tied] = ties[np.lexsort((row[ties], ranks, low[ties], high[ties]))]
    high, low = high[order], low[order]
    first = np.ones(len(order), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    begins = np.flatnonzero(first)
    counts = np.diff(begins, append=len(order))
    if seen and len(order):
        new = ~np.isin(joint(high[begins], low[begins]), joint(*seen_hashes(seen, high[0], high[-1])))
        begins, counts = begins[new], counts[new]
    return Distinct(order, begins, counts, high[begins])


def all_negatives(rows: pa.Table, pairs: Distinct, part: slice) -> tuple[pa.ListArray, np.ndarray]:
    """Join the negatives of all rows of each pair, in order of (file, row), each of them once.

    Triplets with one negative a row, as sentence-transformers' data sets have them, are a pair of several rows.

    Args:
        rows: what `pairs` was found in, with a column of negatives.
        pairs, part: which of them.
    Returns: the negatives of each pair, null where it has none; and how many of these its first row does not have.
    """
    first, counts = pairs.first[part], pairs.counts[part]
    lists = rows.column("negatives").take(pa.array(pairs.order[spans(first, counts)])).combine_chunks()
    sizes, texts = lengths_of(lists), lists.flatten()
    owners = np.repeat(np.repeat(np.arange(len(counts)), counts), sizes)
    codes = texts.dictionary_encode().indices.to_numpy().astype(np.int64)
    _, once = np.unique(owners * (len(texts) + 1) + codes, return_index=True)
    once.sort()
    is_other = np.ones(len(sizes), bool)
    is_other[counts.cumsum() - counts] = False
    added = once[np.repeat(is_other, sizes)[once]]
    kept, others = (np.bincount(owners[places], minlength=len(counts)) for places in (once, added))
    return lists_of(texts.take(pa.array(once)), kept, kept == 0), others


def with_negatives(group: pa.Table, negatives: pa.ListArray, gathered: np.ndarray) -> pa.Table:
    """Put the negatives of pairs in place of those of their first rows, beside how many of them these do not have."""
    place = group.schema.get_field_index("negatives")
    return group.set_column(place, "negatives", negatives).append_column("gathered", pa.array(gathered))


def keep_negatives(group: pa.Table, kept: np.ndarray) -> pa.Table:
    """Drop some of the negatives of pairs `with_negatives`; kept: the mask of the others, of those of all pairs."""
    lists = group.column("negatives").combine_chunks()
    sizes, gathered = lengths_of(lists), group.column("gathered").to_numpy()
    owners = np.repeat(np.arange(len(sizes)), sizes)
    slot = np.arange(len(owners)) - np.repeat(sizes.cumsum() - sizes, sizes)
    is_other = slot >= (sizes - gathered)[owners]  # those of a pair's first row come first
    left, others = (np.bincount(owners[mask], minlength=len(sizes)) for mask in (kept, kept & is_other))
    lists = lists_of(lists.flatten().filter(pa.array(kept)), left, left == 0)
    return with_negatives(group.drop_columns(["gathered"]), lists, others)


def joint(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Both halves of the hashes as one value each."""
    return np.ascontiguousarray(np.stack([high, low], axis=1).astype(">u8")).view("S16").ravel()


def seen_hashes(seen: list[Path], least: np.uint64, most: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """Read the hashes (high, low) of an interval from hash files."""
    found = [np.empty((0, 2), np.uint64)]
    for path in seen:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                span = file.metadata.row_group(group).column(0).statistics
                if span.max >= least and span.min <= most:
                    table = file.read_row_group(group)
                    found.append(np.stack([table.column(name).to_numpy() for name in HASHES.names], axis=1))
    high, low = np.concatenate(found).T
    inside = (high >= least) & (high <= most)
    return high[inside], low[inside]
