"""Readers that take a raw file's plain rows by columns, some thousand at a time, with Arrow's parsers.

A row is plain where nothing about it can be read in two ways: its texts are strings of the expected columns that no
check refuses. All others go to the readers of `gte.data.readers`, line by line, so pairs, reasons and row numbers are
those that these give alone. Arrow's parsers do not hold Python's lock: blocks of a file are parsed on several cores.
"""

import zipfile
from collections.abc import Iterator

import pyarrow as pa

from gte.data.columnar.json_lines import read_jsonl
from gte.data.columnar.parquet import read_parquet
from gte.data.columnar.table import read_csv, read_tsv
from gte.data.records import Record
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
    fields = source.fields
    if reader is None or source.mined is not None or fields.id is not None or fields.replace:
        yield from source.read(raw)
        return
    place = raw.path if raw.member is None else zipfile.Path(raw.path, raw.member)
    yield from reader(place, fields, threads, **source.options)


COLUMNAR = {"jsonl": read_jsonl, "csv": read_csv, "tsv": read_tsv, "parquet": read_parquet}
