"""Parquet files by columns."""

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gte.data.columnar.blocks import BLOCK_BYTES, in_turn
from gte.data.columnar.plain import plain_pairs
from gte.data.columnar.plan import NUMBER, TEXT, TEXTS, Plan, object_plan, wanted
from gte.data.raw_lines import DAMAGE
from gte.data.readers import GROUP_ROWS, decoded_rows, group_rows, require_columns
from gte.data.reasons import Reason
from gte.data.records import ANY_POSITIVE, Fields, Record, Rejected, records


def read_parquet(path: Path | zipfile.Path, fields: Fields, threads: int) -> Iterator[pa.RecordBatch | Record]:
    """As `readers.read_parquet`."""
    for found in in_turn(parquet_jobs(path, fields), threads):
        yield from found


def parquet_jobs(path: Path | zipfile.Path, fields: Fields) -> Iterator[Callable[[], list]]:
    """The jobs that read the batches of a parquet file."""
    row = 0
    try:
        with path.open("rb") as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            require_columns(path, fields, file.schema_arrow.names)
            plan = parquet_plan(file.schema_arrow, fields)
            for group in range(file.num_row_groups):
                facts = file.metadata.row_group(group)
                first, end = row, row + facts.num_rows
                if plan is not None:
                    for batch in group_batches(file, group, fields.names or None, facts):
                        yield partial(parquet_block, batch, row + 1, plan, fields)
                        row += batch.num_rows
                if plan is None or row < end:  # by rows, up to where it is damaged
                    for value in islice(group_rows(file, group, fields.names or None), row - first, None):
                        row += 1
                        yield partial(value_records, value, row, fields)
                for lost in range(row + 1, min(end, row + GROUP_ROWS) + 1):
                    yield partial(list, [Rejected(Reason.DAMAGED_ROW_GROUP, lost)])
                row = max(row, end)
    except (pa.ArrowException, *DAMAGE) as error:
        if getattr(error, "errno", None):
            raise
        yield partial(list, [Rejected(Reason.DAMAGED_FILE, row)])


def group_batches(
    file: pq.ParquetFile, group: int, names: list[str] | None, facts: pq.RowGroupMetaData
) -> Iterator[pa.RecordBatch]:
    """Batches of a row group up to where it is damaged, of about a block's size each."""
    rows = int(BLOCK_BYTES * max(1, facts.num_rows) / max(1, facts.total_byte_size))
    try:
        yield from file.iter_batches(batch_size=min(2**14, max(64, rows)), row_groups=[group], columns=names)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise


def parquet_plan(schema: pa.Schema, fields: Fields) -> Plan | None:
    """Plan the reading of a parquet file of a schema."""
    query, document, negatives = fields.query, fields.document, fields.negatives
    if query is None:
        query, document = "query", next((name for name in ANY_POSITIVE if name in schema.names), None)
        negatives = "neg" if "neg" in schema.names else None
    types = {}
    for name in wanted(query, document, negatives, fields):
        if schema.names.count(name) == 1:
            kind = schema.field(name).type
            of_texts = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            if is_text(kind):
                types[name] = TEXT
            elif of_texts and is_text(kind.value_type):
                types[name] = TEXTS
            elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
                types[name] = NUMBER
            elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
                types[name] = kind
    return object_plan(types, query, document, negatives, fields)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def parquet_block(batch: pa.RecordBatch, first: int, plan: Plan, fields: Fields) -> list[pa.RecordBatch | Record]:
    """The pairs and records of a batch of a parquet file whose first row has that number."""
    numbers, bad, found = first + np.arange(batch.num_rows), np.ones(batch.num_rows, bool), []
    try:
        columns = {name: pc.cast(batch.column(name), kind, safe=kind != NUMBER) for name, kind in plan.types.items()}
        for column in columns.values():
            column.validate(full=True)  # UTF-8
        pairs, bad = plain_pairs(plan, columns, numbers, fields)
        found.append(pairs)
    except pa.ArrowInvalid:
        pass
    for row, value in zip(numbers[bad].tolist(), decoded_rows(batch.filter(pa.array(bad))), strict=True):
        found += value_records(value, row, fields)
    return found


def value_records(value: dict | None, row: int, fields: Fields) -> list[Record]:
    """The records of a row of a parquet file; None is one that is no UTF-8."""
    return [Rejected(Reason.INVALID_UTF8, row)] if value is None else list(records(value, fields, row))
