"""Readers that take a raw file's plain rows by columns, some thousand at a time, with Arrow's parsers.

A row is plain where nothing about it can be read in two ways: its texts are strings of the expected columns that no
check refuses. All others go to the readers of `gte.data.readers`, line by line, so pairs, reasons and row numbers are
those that these give alone. Arrow's parsers do not hold Python's lock: blocks of a file are parsed on several cores.
"""

import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from gte.data.columnar.json_lines import jsonl_jobs, read_jsonl
from gte.data.columnar.parquet import parquet_jobs, read_parquet
from gte.data.columnar.table import read_csv, read_tsv
from gte.data.records import Pair, Record
from gte.data.sources import Raw, Source


def read_columns(source: Source, raw: Raw, threads: int = 1) -> Iterator[pa.RecordBatch | Record]:
    """Read a raw file as `Source.read` does, plain rows as batches.

    Args:
        source: what the file is of; where its format or its fields are none of those read here, all rows are records.
        raw: the file.
        threads: how many blocks are parsed at once.
    Yields: batches of HASHED, the pairs of plain rows with their `pair_hash`, and records; in no fixed order.
    Raises: as `Source.read`.
    """
    if raw.hub is not None:
        source = source.fetched(raw)
    reader = COLUMNAR.get(source.reader)
    if reader is None or not in_columns(source):
        yield from source.read(raw)
        return
    yield from reader(place(raw), source.fields, threads, **source.options)


def in_columns(source: Source) -> bool:
    """Whether the fields of a source are of those that are read by columns."""
    return source.mined is None and source.fields.id is None and not source.fields.replace


def place(raw: Raw) -> Path | zipfile.Path:
    """Where a raw file is opened."""
    return raw.path if raw.member is None else zipfile.Path(raw.path, raw.member)


def first_records(source: Source, raw: Raw, count: int) -> list[Record]:
    """The first records of a raw file, as `Source.read` gives them but for negatives and answers, in order.

    Args:
        source: what the file is of.
        raw: a file of this machine.
        count: how many; fewer where the file has no more.
    Raises: as `Source.read`.
    """
    jobs = JOBS.get(source.reader)
    if jobs is None or not in_columns(source):
        return list(islice(source.read(raw), count))
    held: list[Record] = []
    for job in jobs(place(raw), source.fields, **source.options):
        for found in job():
            if isinstance(found, pa.RecordBatch):
                texts = (found.column(name).to_pylist() for name in ("query", "document", "row"))
                held += map(Pair, *texts)
            else:
                held.append(found)
        if len(held) >= count:
            break
    return sorted(held, key=lambda record: record.row)[:count]


COLUMNAR = {"jsonl": read_jsonl, "csv": read_csv, "tsv": read_tsv, "parquet": read_parquet}
JOBS = {"jsonl": jsonl_jobs, "parquet": parquet_jobs}  # whose blocks come one by one
