"""The tasks of a preparation, each a function of files that any process may run: a source's pairs, a range's shards.

A range is a run of complete row groups of a pairs file, cut by that file alone: the shards are the same bytes whoever
makes them, in which order, and however many at a time.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from xxhash import xxh3_64_intdigest

from gte.data import shards
from gte.data.contamination import load_evaluation
from gte.data.page_sums import page_sums
from gte.data.pairs import hash_file, make_pairs, use_engine
from gte.data.pairs_file import open_pairs, pair_batches
from gte.data.shards import described, write_shards
from gte.data.sources import Raw, Source
from gte.data.tokens import Tokens

TOKENS_BATCH = 8_192  # pairs tokenised at a time
BATCH_BYTES = 2**25  # of texts at a time, about: fewer pairs where they are long
RANGE_BYTES = 2**29  # of texts of a range of rows, at most where a row group is not larger


def source_pairs(
    source: Source,
    raws: list[Raw],
    build: Path,
    work: Path,
    max_rejected: float,
    across: list[Path] | None,
    index: Path | None,
) -> dict:
    """Writes pairs/<source>.parquet below `build`; returns its tally and its files as the manifest records them.

    across: hash files of earlier sources, whose pairs are duplicates; None where each source is by itself. index: file
    of the evaluation texts that no pair may hold, nor a negative.
    """
    target = f"pairs/{source.name}.parquet"
    evaluation = None if index is None else load_evaluation(index)
    tally = make_pairs(
        source, raws, build / target, work, max_rejected=max_rejected, seen=across, evaluation=evaluation
    )
    files = [described_pairs(build, source.name)]
    if across is not None:
        files.append(described(build, hash_file(work).relative_to(build).as_posix()))
    return {"tally": asdict(tally), "files": files}


def described_pairs(build: Path, source: str) -> dict:
    """A pairs file as the manifest records it, with the checksums of its pages, which are written beside it."""
    file, pages = f"pairs/{source}.parquet", f"pairs/{source}.pages"
    page_sums(build / file).tofile(build / pages)
    return {**described(build, file), "pages": described(build, pages)}


def source_pairs_alone(*arguments) -> dict:
    """`source_pairs` by this process alone, also where it is one of a Ray cluster's."""
    use_engine("native")
    return source_pairs(*arguments)


def ranges(path: Path) -> list[tuple[int, int, int]]:
    """(first row group, last + 1, about how many bytes) of each range of a pairs file: a shard or RANGE_BYTES."""
    facts = open_pairs(path, []).metadata
    found: list[tuple[int, int, int]] = []
    rows = 0
    for number in range(facts.num_row_groups):
        group = facts.row_group(number)
        last = found[-1] if found else None
        if last is None or rows + group.num_rows > shards.SHARD_ROWS or last[2] + group.total_byte_size > RANGE_BYTES:
            found.append((number, number, 0))
            rows = 0
        first, end, size = found[-1]
        found[-1] = (first, end + 1, size + group.total_byte_size)
        rows += group.num_rows
    return found


def token_shards(
    build: Path, source: str, number: int, groups: tuple[int, int], rules: Path, fingerprint: str, max_tokens: int
) -> dict:
    """Writes shards/<source>/<number>.arrow below `build`, the tokens of a range of its pairs; more where one is full.

    groups: first row group and last + 1. rules: the tokenizer.json to read by, with its fingerprint. Returns the files
    as the manifest records them, and how many texts there are and are cut.
    """
    counts = Counter(texts=0, cut=0)
    path = build / "pairs" / f"{source}.parquet"
    first, end = groups
    facts = open_pairs(path, []).metadata
    held = [facts.row_group(number) for number in range(first, end)]
    size = max(1, sum(group.total_byte_size for group in held) // max(1, sum(group.num_rows for group in held)))
    rows = max(1, min(TOKENS_BATCH, BATCH_BYTES // size))
    batches = pair_batches(path, rows, list(range(first, end)))
    files = write_shards(tokenised(batches, load_tokens(rules, fingerprint, max_tokens), counts), build, source, number)
    return {"files": files, "counts": counts}


@lru_cache(1)
def load_tokens(rules: Path, fingerprint: str, max_tokens: int) -> Tokens:
    """The reader of a tokenizer.json, once a process: it remembers words."""
    tokenizer = Tokenizer.from_file(str(rules))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Tokens(tokenizer, max_tokens)


def tokenised(batches: Iterator[pa.RecordBatch], tokens: Tokens, counts: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Batches of pairs as batches of shard rows; `counts`: how many texts fill max_tokens."""
    for batch in batches:
        columns = {}
        for name in ("query", "document"):
            columns[name] = tokens.encode(batch.column(name))
            lengths = np.diff(columns[name].offsets.to_numpy())
            counts.update(texts=len(lengths), cut=int((lengths >= tokens.max_tokens).sum()))
        if "negatives" in batch.schema.names:
            negatives = batch.column("negatives").fill_null([])
            offsets = pa.array(negatives.offsets.to_numpy() - negatives.offsets[0].as_py())
            distinct = negatives.flatten().dictionary_encode()  # a document is the negative of many queries
            hashes = text_hashes(distinct.dictionary)
            ids = tokens.encode(distinct.dictionary)
            lengths = np.diff(ids.offsets.to_numpy())[distinct.indices.to_numpy()]
            counts.update(texts=len(lengths), cut=int((lengths >= tokens.max_tokens).sum()))
            for name, values in (("negatives", ids), ("negatives_hash", hashes)):
                columns[name] = pa.ListArray.from_arrays(offsets, values.take(distinct.indices))
        for name in ("query", "document"):
            columns[f"{name}_hash"] = text_hashes(batch.column(name))
        yield pa.RecordBatch.from_pydict(columns)


def text_hashes(texts: pa.Array) -> pa.Array:
    """`records.text_hash` of each text, uint64, without a Python string of any."""
    digests = map(xxh3_64_intdigest, texts.cast(pa.binary()).to_pylist())
    return pa.array(np.fromiter(digests, np.uint64, len(texts)))
