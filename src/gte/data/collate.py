"""From rows of a source to what one rank's step works on: token ids end to end, no padding.

Texts of a step, in this order: N queries, N documents, N * K negatives (those of query 0, then those of query 1, ...).
A list of texts is a pair (flat ids, lengths).
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gte.data.shards import TokenTable, spans
from gte.errors import UserError

if TYPE_CHECKING:
    from gte.data.prompts import Prompt  # which frames by what is here

KINDS = ("query", "document", "document")  # of a batch's lists of texts; negatives are documents
Texts = tuple[np.ndarray, np.ndarray]
TRIES = 1_000  # random documents that are drawn for a query until one is neither its own document nor its text


class Batch(NamedTuple):
    """One rank's texts of a step, special tokens included.

    Order of the R = N (2 + K) texts: N queries, N documents, then K negatives of query 0, of query 1, ...

    >>> batch = Batch(torch.arange(6, dtype=torch.int32), torch.tensor([3, 3]), pairs=1, negatives=0, source=0, step=0)
    >>> batch.ids_T.split(batch.lengths_R.tolist())
    (tensor([0, 1, 2], dtype=torch.int32), tensor([3, 4, 5], dtype=torch.int32))
    """

    ids_T: Tensor  # int32, all texts end to end
    lengths_R: Tensor  # int64, tokens of each of the R = N (2 + K) texts
    pairs: int  # N, queries on this rank
    negatives: int  # K, negatives of each query
    source: int
    step: int
    checksum: int = 0  # `Mixture.checksum`
    hashes_R: Tensor | None = None  # int64, the bits of `records.text_hash` of each text, where asked for
    skip_R: Tensor | None = None  # int64, tokens at each text's start that are not pooled, where there are any
    guide_RG: Tensor | None = None  # float16, vectors of loss.guide, where there is one


def collate(
    table: TokenTable,
    rows_N: np.ndarray,
    *,
    source: int,
    step: int,
    seed: int,
    max_length: int,
    group_size: int,
    prefix: list[int],
    suffix: list[int],
    text_hashes: bool = False,
    checksum: int = 0,
    prompts: "dict[str, Prompt] | None" = None,
) -> Batch:
    """Make the batch of the given rows of one source, without padding.

    With group_size > 1 each query gets group_size - 1 negatives: its own hard ones, chosen by (seed, step, row), filled
    with random documents of the same source where it has too few.

    Args:
        table: the source's TokenTable.
        rows_N: int64 [N], the rows of this rank.
        source: number of the source.
        step: of the training stage, from 0.
        seed: of the choice of negatives.
        max_length: tokens of a text, special tokens and prompt included; longer ones are cut as their tokenizer cuts.
        group_size: one positive and group_size - 1 negatives a query.
        prefix, suffix: ids of the special tokens before and behind a text.
        text_hashes: whether the batch holds `records.text_hash` of each text.
        checksum: `Mixture.checksum` of the step, handed on.
        prompts: the words before queries, and before documents and negatives, under `query` and `document`.
    Returns: the batch, on the host.
    Raises: UserError where hardly any document differs from a row's own, and where text_hashes asks for what the shards
        do not hold.
    Source: Section 3.4.

    >>> class Rows:  # stands in for a TokenTable: row i is the text [i, i]
    ...     def gather(self, column, rows_N):
    ...         return np.repeat(rows_N, 2), np.full(len(rows_N), 2)
    >>> order = {"source": 0, "step": 0, "seed": 0, "max_length": 8, "group_size": 1}
    >>> batch = collate(Rows(), np.array([5, 6]), **order, prefix=[1], suffix=[2])
    >>> batch.ids_T.tolist(), batch.lengths_R.tolist(), batch.pairs
    ([1, 5, 5, 2, 1, 6, 6, 2, 1, 5, 5, 2, 1, 6, 6, 2], [4, 4, 4, 4], 2)
    """
    texts, hashes = gather_texts(table, rows_N, group_size - 1, (seed, step), text_hashes)
    flat, lengths, skip_R = behind_prompts(texts, prompts or {}, max_length - len(prefix) - len(suffix))
    ids_T, lengths_R = frame(flat, lengths, max_length, prefix, suffix)
    return Batch(
        torch.from_numpy(ids_T.astype(np.int32)),
        torch.from_numpy(lengths_R),
        pairs=len(rows_N),
        negatives=group_size - 1,
        source=source,
        step=step,
        checksum=checksum,
        hashes_R=torch.from_numpy(np.concatenate(hashes).view(np.int64)) if text_hashes else None,
        skip_R=torch.from_numpy(skip_R) if skip_R.any() else None,
    )


def gather_texts(
    table: TokenTable, rows_N: np.ndarray, negatives: int, drawn_by: tuple[int, int], text_hashes: bool
) -> tuple[list[Texts], list[np.ndarray]]:
    """Queries, documents and so many negatives of each row, drawn by two numbers; and their hashes, where asked for."""
    texts = [table.gather(kind, rows_N) for kind in KINDS[:2]]
    hashes = [table.hashes(kind, rows_N) for kind in KINDS[:2]] if text_hashes else []
    if negatives:
        key = hash64(*map(np.uint64, drawn_by))
        flat, lengths, negative_hashes = gather_group(table, rows_N, negatives, key, text_hashes)
        texts.append((flat, lengths))
        hashes.append(negative_hashes)
    return texts, hashes


def behind_prompts(
    texts: list[Texts], prompts: "dict[str, Prompt]", longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The texts of KINDS end to end, behind the prompt of their kind where there is one.

    Returns: flat ids, lengths [R], and how many tokens at each text's start are not pooled [R].
    """
    flat, lengths, skips = [], [], []
    for (ids, sizes), kind in zip(texts, KINDS, strict=False):
        skip = 0
        if kind in prompts:
            (ids, sizes), skip = prompts[kind].before((ids, sizes), longest), prompts[kind].skip
        flat.append(ids)
        lengths.append(sizes)
        skips.append(np.full(len(sizes), skip, np.int64))
    return np.concatenate(flat), np.concatenate(lengths), np.concatenate(skips)


def frame(flat: np.ndarray, lengths: np.ndarray, max_length: int, prefix: list[int], suffix: list[int]) -> Texts:
    """Cut each text to what max_length allows for it, and put it between special tokens.

    Args:
        flat: ids of all texts end to end, without special tokens.
        lengths: int64 [N], ids of each text.
        max_length: tokens of a text, special tokens included.
        prefix: ids of the special tokens before a text.
        suffix: ids of the special tokens after a text.
    Returns: (flat ids, lengths int64 [N]), special tokens included.

    >>> flat, lengths = frame(np.array([7, 8, 9, 5]), np.array([3, 1]), max_length=4, prefix=[1], suffix=[2])
    >>> flat.tolist(), lengths.tolist()
    ([1, 7, 8, 2, 1, 5, 2], [4, 3])
    """
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


def gather_group(
    table: TokenTable, rows_N: np.ndarray, per_query: int, key: np.uint64, text_hashes: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Choose `per_query` negatives of each row: some of its hard ones at random, then random documents of other rows.

    Returns: their flat ids, lengths and, where asked for, text hashes.
    """
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
    random_rows = draw_others(table, rows_N[filled], number, key)
    random_flat, random_lengths = table.gather("document", random_rows)
    which = np.concatenate([chosen, len(owner) + np.arange(len(filled))])
    which = which[np.argsort(np.concatenate([owner[chosen], filled]), kind="stable")]
    hashes = None
    if text_hashes:
        hashes = np.concatenate([table.negative_hashes(rows_N), table.hashes("document", random_rows)])[which]
    flat, lengths = np.concatenate([flat, random_flat]), np.concatenate([lengths, random_lengths])
    starts = lengths.cumsum() - lengths
    return flat[spans(starts[which], lengths[which])], lengths[which], hashes


def draw_others(table: TokenTable, rows: np.ndarray, number: np.ndarray, key: np.uint64) -> np.ndarray:
    """For each row another one, drawn by (key, row, number), whose document is neither its own document nor its query.

    Raises UserError where TRIES of them are one of the two.
    """
    own = np.stack([table.hashes(column, rows) for column in ("query", "document")])
    drawn, open_ = rows.copy(), np.arange(len(rows))
    for attempt in range(TRIES):
        draw = ~number[open_] - np.uint64(attempt << 32)
        others = 1 + hash64(hash64(key, rows[open_].astype(np.uint64)), draw) % np.uint64(max(len(table) - 1, 1))
        drawn[open_] = (rows[open_] + others.astype(np.int64)) % len(table)
        open_ = open_[(own[:, open_] == table.hashes("document", drawn[open_])).any(axis=0)]
        if not len(open_):
            return drawn
    raise UserError(
        f"{table.name}: {TRIES:,} documents drawn as negatives of row {rows[open_[0]]} all equal its own document or "
        "query; leave the source out (sources=[...]) or train it without negatives (stage.group_size=1)"
    )


def hash64(key: np.ndarray | np.uint64, value: np.ndarray | np.uint64) -> np.ndarray:
    """A 64-bit hash of pairs of unsigned integers (the finaliser of SplitMix64), element by element."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
        x = key * np.uint64(0x9E3779B97F4A7C15) + value * np.uint64(0xD1342543DE82EF95) + np.uint64(0x632BE59BD9B4E019)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
