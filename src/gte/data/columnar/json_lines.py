"""JSON lines by columns."""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json

from gte.data.columnar.blocks import Block, Lines, in_turn, line_blocks
from gte.data.columnar.plain import plain_pairs, whole
from gte.data.columnar.plan import NUMBER, TEXT, TEXTS, Plan, object_plan, wanted
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import json_values
from gte.data.reasons import Reason
from gte.data.records import ANY_POSITIVE, Fields, Record, Rejected, records

FEW_ROWS = 32  # a block that Arrow refuses is halved down to so many rows
SAMPLE = 20  # rows that tell the columns' types


def read_jsonl(
    path: Path | zipfile.Path, fields: Fields, threads: int, *, max_line: int = MAX_LINE
) -> Iterator[pa.RecordBatch | Record]:
    """As `readers.read_jsonl`."""

    for found in in_turn(jsonl_jobs(path, fields, max_line=max_line), threads):
        yield from found


def jsonl_jobs(
    path: Path | zipfile.Path, fields: Fields, *, max_line: int = MAX_LINE
) -> Iterator[Callable[[], list[pa.RecordBatch | Record]]]:
    """The jobs that read the blocks of a file, in order; each returns its pairs and records in no fixed order."""
    plan, looked = None, False
    for block in line_blocks(path, max_line):
        if isinstance(block, Rejected):
            yield partial(list, [block])
            continue
        if not looked:
            plan, looked = json_plan(sample_json(block.data), fields), True
        yield partial(json_block, block, plan, fields, max_line)


def sample_json(data: bytes) -> list:
    """The values of a block's first lines."""
    first = data[: 2**20].split(b"\n", SAMPLE)[:SAMPLE]
    return [item[1] for item in json_values(enumerate(first)) if not isinstance(item, Rejected)]


def json_plan(rows: list, fields: Fields) -> Plan | None:
    """Plan the reading of rows that look like these; None where they have no columns."""
    if rows and all(isinstance(row, list) for row in rows):
        return list_plan(fields)
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects or len(objects) < len(rows):
        return None
    if (
        fields.query is None
        and not fields.names
        and all(isinstance(row.get("set"), list) and "query" not in row for row in objects)
    ):
        return Plan("set", {"set": TEXTS}, absent=("query",), alone=all(len(row) == 1 for row in objects))
    document, negatives, absent = fields.document, fields.negatives, ()
    if fields.query is None:
        names = [next((name for name in ANY_POSITIVE if name in row), None) for row in objects]
        if names[0] is None or len(set(names)) > 1:
            return None
        document, negatives, absent = names[0], "neg", ANY_POSITIVE[: ANY_POSITIVE.index(names[0])]
    query = "query" if fields.query is None else fields.query
    if not all(isinstance(name, str) for name in wanted(query, document, negatives, fields)):
        return None
    types = {name: found for name in wanted(query, document, negatives, fields)
             if (found := json_type([row.get(name) for row in objects])) is not None}  # fmt: skip
    plan = object_plan(types, query, document, negatives, fields, absent)
    return plan and replace(plan, alone=all(types.keys() >= row.keys() for row in objects) and fields.score is None)


def json_type(values: list) -> pa.DataType | None:
    """The type of a column with such values; None where they are of several, or of another one."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return TEXT
    if kinds == {list}:
        return TEXTS if all(isinstance(one, str) for value in values for one in value or ()) else None
    if kinds == {bool}:
        return pa.bool_()
    return NUMBER if kinds <= {int, float} else None


def list_plan(fields: Fields) -> Plan | None:
    """The plan for rows that are lists of texts."""
    if fields.keep or fields.drop or fields.score is not None:
        return None
    if not isinstance(fields.query, int):
        return Plan("list", alone=True)
    if isinstance(fields.document, int) and (fields.negatives is None or isinstance(fields.negatives, int)):
        return Plan("list", alone=True, positions=(fields.query, fields.document, fields.negatives))
    return None


def json_block(block: Lines, plan: Plan | None, fields: Fields, max_line: int) -> list[pa.RecordBatch | Record]:
    """The pairs and records of a block of JSON lines."""
    lines = Block(block)
    over, doubtful = lines.lengths > max_line, np.ones(len(lines.starts), bool)
    if plan is not None:
        opened, closed = b"[]" if plan.kind == "list" else b"{}"
        doubtful = over | (lines.first != opened) | (lines.last != closed)
        if not plan.alone:
            doubtful |= lines.are_odd()
    found: list[pa.RecordBatch | Record] = []
    slow = np.flatnonzero(doubtful).tolist()
    pending = [np.flatnonzero(~doubtful)]
    while pending:
        chosen = pending.pop()
        if len(chosen) < FEW_ROWS:
            slow += chosen.tolist()
            continue
        columns = json_columns(lines.join(chosen), len(chosen), plan)
        if columns is None:
            pending += [chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]]
            continue
        batch, bad = plain_pairs(plan, columns, block.number + chosen, fields)
        slow += chosen[bad].tolist()
        found.append(batch)
    for line in slow:
        if over[line]:
            found.append(Rejected(Reason.LONG_LINE.of(max_line), block.number + line))
            continue
        for value in json_values([(block.number + line, lines.line(line))]):
            found += [value] if isinstance(value, Rejected) else records(value[1], fields, value[0])
    return found


def json_columns(data: bytes, count: int, plan: Plan) -> dict[str, pa.Array] | None:
    """The columns of JSON lines; None where one of them is not plain, or Arrow and Python may read it differently."""
    names = plan.types
    if plan.kind == "list":
        names = {"row": TEXTS}
        data = b'{"row":' + data.removesuffix(b"\n").replace(b"\n", b'}\n{"row":') + b"}"
    try:
        if not data.isascii():
            data.decode()
        if any(b'"%b"' % name.encode() in data for name in plan.absent) or (plan.absent and b"\\u00" in data):
            return None
        table = pyarrow.json.read_json(
            pa.BufferReader(data),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(list(names.items())),
                unexpected_field_behavior="error" if plan.alone else "ignore",
            ),
        )
        if table.num_rows != count:
            return None
        columns = {name: whole(table.column(name)) for name in names}
        if b"\\" in data and b"\\u" in data:  # half a surrogate pair
            for column in columns.values():
                column.validate(full=True)
    except (UnicodeDecodeError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return columns
