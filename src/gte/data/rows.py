"""What readers yield as rows of a run, and the rows of a bucket of keys as records again."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from gte.data.records import Keyed, KeyedRow, Record, Rejected, Triple, pair_hash, text_hash
from gte.data.runs import PART, columns_of, read_buckets
from gte.data.sources import Raw, Source
from gte.errors import UserError

REJECTED = -1  # the bucket of rejected rows
FATAL = "\0"  # begins the reason of what stops the source instead of being counted


def leading(high: np.ndarray, intervals: int) -> np.ndarray:
    """Find the interval that each hash lies in, of `intervals` equal ones, a power of two."""
    bits = intervals.bit_length() - 1
    return high >> np.uint64(64 - bits) if bits else np.zeros(len(high), np.uint64)


def raw_records(source: Source, raw: Raw) -> Iterator[tuple[str, Record | Keyed]]:
    """(file, record) of a raw file, read row by row."""
    for record in refusals(source.read(raw)):
        yield raw.name, record


def refusals(found: Iterator) -> Iterator:
    """Yield what is found, and an error that ends it as a rejection, which is counted and then stops the source."""
    try:
        yield from found
    except (UserError, OSError) as error:
        said = str(error).encode(errors="backslashreplace").decode()  # it may quote what is no UTF-8
        yield Rejected(FATAL + said, 0)


def joined_records(source: Source, folder: Path, bucket: int) -> Iterator[tuple[str, Record]]:
    """(file, record) of a bucket of KEYED rows, which is held in memory."""
    names = list(KeyedRow._fields)
    table = read_buckets(folder, range(bucket, bucket + 1))
    if table is None:
        return
    table = table.select(names).sort_by([(name, "ascending") for name in ("key", "order", "file", "row")])
    batches = table.to_batches(max_chunksize=1_024)
    rows = (KeyedRow(*row) for batch in batches for row in columns_of(batch, names))
    for _, group in groupby(rows, key=lambda row: row.key):
        yield from source.combine(group)


def plain_part(batch: pa.RecordBatch, file: str, buckets: int) -> pa.RecordBatch:
    """The PART rows of what a columnar reader yields."""
    high = batch.column("high").to_numpy()
    columns = {
        "file": pa.repeat(file, batch.num_rows),
        "reason": pa.nulls(batch.num_rows, pa.string()),
        "bucket": pa.array(leading(high, buckets).astype(np.int32)),
        "way": pa.nulls(batch.num_rows, pa.string()),
        "dropped": pa.nulls(batch.num_rows, pa.list_(pa.string())),
    }
    columns |= {name: batch.column(name) for name in batch.schema.names}
    return pa.record_batch([columns[name] for name in PART.names], schema=PART)


def part_row(file: str, record: Record, buckets: int) -> tuple[int, tuple]:
    """(characters, PART row) of a record."""
    if isinstance(record, Rejected):
        return 0, (file, record.row, record.reason, REJECTED, None, None, None, None, None, None, None)
    query, document = record[:2]
    high, low = pair_hash(query, document)
    negatives = record.negatives if isinstance(record, Triple) else None
    characters = len(query) + len(document) + sum(map(len, negatives or ()))
    bucket, dropped = high * buckets >> 64, record.dropped or None
    return characters, (file, record.row, None, bucket, dropped, high, low, query, document, negatives, record.way)


def keyed_row(file: str, record: Keyed | Rejected, buckets: int) -> tuple[int, tuple]:
    """(characters, KEYED row) of what the reader of a keyed format yields."""
    if isinstance(record, Rejected):
        return 0, (file, record.row, record.reason, REJECTED, None, None, None)
    key, order, values, row = record
    return sum(map(len, values)), (file, row, None, text_hash(key) * buckets >> 64, key, order, values)
