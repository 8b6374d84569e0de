"""Readers that take a raw file's plain rows by columns, some thousand at a time, with Arrow's parsers.

A row is plain where nothing about it can be read in two ways: its texts are strings of the expected columns that no
check refuses. All others go to the readers of `gte.data.readers`, line by line, so pairs, reasons and row numbers are
those that these give alone. Arrow's parsers do not hold Python's lock: blocks of a file are parsed on several cores.
"""

import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from gte.data.readers import (
    BOM,
    DAMAGE,
    GROUP_ROWS,
    MAX_LINE,
    Taken,
    Unreadable,
    decoded_rows,
    group_rows,
    json_values,
    open_raw,
    require_columns,
    table_rows,
)
from gte.data.records import ANY_POSITIVE, Fields, Record, Rejected, records
from gte.data.sources import Raw, Source

HASHED = pa.schema([
    ("row", pa.int64()), ("high", pa.uint64()), ("low", pa.uint64()),
    ("query", pa.string()), ("document", pa.string()), ("negatives", pa.list_(pa.string())),
])  # fmt: skip
BLOCK_BYTES = 2**21  # of lines that are parsed together
CHUNK_BYTES = 2**18  # as `readers.lines` reads: so a damaged archive gives the same lines
FEW_ROWS = 32  # a block that Arrow refuses is halved down to so many rows
DEEP, LONG_NUMBER = 400, 4_300  # brackets and digits of a line that Python's parser may refuse, where Arrow's goes on
MOST_COLUMNS = 100  # of a table whose plain lines a regular expression tells
SAMPLE = 20  # rows that tell the columns' types
TEXT, TEXTS, NUMBER = pa.string(), pa.list_(pa.string()), pa.float64()


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


@dataclass(frozen=True)
class Plan:
    """Where the texts of plain rows stand.

    kind: "object" (rows are objects, or columns of a table), "list" or "set". types: Arrow's of the columns that are
    read. query: its column, or several to join. document, negatives: columns. absent: columns that a plain row must not
    have. alone: whether it has no other columns. positions: of a list: query's, document's and negative's; without one
    of a negative, a third text is one.
    """

    kind: str
    types: dict[str, pa.DataType] = field(default_factory=dict)
    query: str | list[str] | None = None
    document: str | list[str] | None = None
    negatives: str | None = None
    absent: tuple[str, ...] = ()
    alone: bool = False
    positions: tuple[int, int, int | None] = (0, 1, None)


def read_jsonl(
    path: Path | zipfile.Path, fields: Fields, threads: int, *, max_line: int = MAX_LINE
) -> Iterator[pa.RecordBatch | Record]:
    """As `readers.read_jsonl`."""

    def jobs() -> Iterator[Callable[[], list]]:
        plan, looked = None, False
        for block in line_blocks(path, max_line):
            if isinstance(block, Rejected):
                yield partial(list, [block])
                continue
            if not looked:
                plan, looked = json_plan(sample_json(block.data), fields), True
            yield partial(json_block, block, plan, fields, max_line)

    for found in in_turn(jobs(), threads):
        yield from found


def in_turn(jobs: Iterable[Callable[[], list]], threads: int) -> Iterator[list]:
    """The results of jobs in their order, worked on by some threads, so many in advance; by none where one is asked."""
    if threads < 2:
        for job in jobs:
            yield job()
        return
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Lines(NamedTuple):
    """Whole lines of a file: the number of the first one, the bytes, and how many were cut off before them (a BOM)."""

    number: int
    data: bytes
    cut: int = 0


def line_blocks(path: Path | zipfile.Path, max_line: int) -> Iterator[Lines | Rejected]:
    """The lines that `readers.lines` gives, some MiB at a time, and its rejections.

    A line of more than max_line bytes may be among those of a block, where it fits in there: that is for the caller.
    """
    number, over = 0, False  # lines so far; whether an over-long one has not ended yet
    held: list[bytes] = []
    size = 0

    def take(end: bool) -> Iterator[Lines | Rejected]:
        """The whole lines of what is held; at the file's end all of it."""
        nonlocal number, over, held, size
        data = b"".join(held)
        if over and (end or b"\n" in data):
            data, over = data.partition(b"\n")[2], False
            yield Rejected(f"line over {max_line:,} bytes", number)
        stop = len(data) if end else data.rfind(b"\n") + 1
        if not over and stop:
            cut = len(BOM) if number == 0 and data.startswith(BOM) else 0
            if stop > cut:
                yield Lines(number + 1, data[cut:stop] if cut or stop < len(data) else data, cut)
            number += data.count(b"\n", 0, stop) + (end and not data.endswith(b"\n"))
        if not over and len(data) - stop > max_line:
            over, number = True, number + 1
        held = [] if over else [data[stop:]]
        size = sum(map(len, held))

    try:
        with open_raw(path) as stream:
            while chunk := stream.read1(CHUNK_BYTES):
                held.append(chunk)
                size += len(chunk)
                if size >= BLOCK_BYTES and (over or b"\n" in chunk or size > max_line):
                    yield from take(end=False)
        yield from take(end=True)
    except Unreadable as fault:
        yield from take(end=False)
        yield Rejected(str(fault), number)


def sample_json(data: bytes) -> list:
    """The values of a block's first lines."""
    first = data[: 2**20].split(b"\n", SAMPLE)[:SAMPLE]
    return [item[1] for item in json_values(enumerate(first)) if not isinstance(item, Rejected)]


def json_plan(rows: list, fields: Fields) -> Plan | None:
    """How rows that look like these are read; None for by no columns."""
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


def wanted(query, document, negatives, fields: Fields) -> list:
    """The columns that are read."""
    names = [query, document, negatives, fields.answers, fields.score, *fields.keep, *fields.drop]
    flat = [name for one in names for name in (one if isinstance(one, list) else [one])]
    return list(dict.fromkeys(name for name in flat if name is not None))


def json_type(values: list) -> pa.DataType | None:
    """The type of a column with such values; None where they are of several, or of another one."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return TEXT
    if kinds == {list}:
        return TEXTS if all(isinstance(one, str) for value in values for one in value or ()) else None
    return NUMBER if kinds <= {int, float} else None


def object_plan(types: dict, query, document, negatives, fields: Fields, absent: tuple[str, ...] = ()) -> Plan | None:
    """The plan for objects or a table with columns of these types; None where they are not what the roles need."""

    def is_one_of(names, *kinds: pa.DataType) -> bool:
        return all(types.get(name) in kinds for name in (names if isinstance(names, list) else [names]))

    several = (TEXT,) if isinstance(document, list) else (TEXT, TEXTS)
    plain = (
        (is_one_of(query, TEXT) and is_one_of(document, *several))
        and (negatives is None or (not isinstance(negatives, list) and is_one_of(negatives, TEXT, TEXTS)))
        and (fields.answers is None or is_one_of(fields.answers, TEXT, TEXTS))
        and (fields.score is None or is_one_of(fields.score, NUMBER))
        and all(comparable(types.get(name), values) for name, values in [*fields.keep.items(), *fields.drop.items()])
    )  # fmt: skip
    return Plan("object", types, query, document, negatives, absent) if plain else None


def comparable(kind: pa.DataType | None, values) -> bool:
    """Whether Arrow compares a column with a filter's values as Python does; null equals null alone."""
    if kind is None:
        return False
    kinds = {type(value) for value in (values if isinstance(values, list) else [values]) if value is not None}
    return kinds <= {TEXT: {str}, pa.bool_(): {bool}}.get(kind, set())


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
            found.append(Rejected(f"line over {max_line:,} bytes", block.number + line))
            continue
        for value in json_values([(block.number + line, lines.line(line))]):
            found += [value] if isinstance(value, Rejected) else records(value[1], fields, value[0])
    return found


class Block:
    """Where the lines of a block begin and end.

    starts, ends: of the lines without their line ends, "\\n" or "\\r\\n". lengths: with them, as in the file. first,
    last: the first and the last byte of each; of an empty line some byte that is neither bracket.
    """

    def __init__(self, block: Lines):
        self.data, self.bytes = block.data, np.frombuffer(block.data, np.uint8)
        breaks = np.flatnonzero(self.bytes == ord("\n"))
        if not block.data.endswith(b"\n"):
            breaks = np.append(breaks, len(self.bytes))
        self.starts = np.append(0, breaks[:-1] + 1)
        self.stops = np.minimum(breaks + 1, len(self.bytes))
        self.lengths = self.stops - self.starts
        self.lengths[0] += block.cut
        self.ends = breaks - ((breaks > self.starts) & (self.bytes[breaks - 1] == ord("\r")))
        self.first = self.bytes[self.starts]
        self.last = np.where(self.ends > self.starts, self.bytes[self.ends - 1], 0)

    def line(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.stops[number]]

    def join(self, chosen: np.ndarray) -> bytes:
        """The chosen lines, in ascending order, as one text."""
        if len(chosen) == len(self.starts):
            return self.data
        breaks = np.flatnonzero(np.diff(chosen) != 1)
        begins, stops = self.starts[chosen[np.append(0, breaks + 1)]], self.stops[chosen[np.append(breaks, -1)]]
        return b"".join(self.data[begin:stop] for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True))

    def are_odd(self) -> np.ndarray:
        """The mask of JSON lines that Arrow may read and Python refuse: by depth, by a number's length or its name.

        None is where all values are texts.
        """
        odd = np.zeros(len(self.starts), bool)
        if self.data.count(b"[") + self.data.count(b"{") - len(odd) > DEEP:
            brackets = (self.bytes == ord("[")) | (self.bytes == ord("{"))
            odd = np.add.reduceat(brackets.astype(np.int32), self.starts) > DEEP
        for line in np.flatnonzero(self.lengths > LONG_NUMBER).tolist():
            odd[line] |= re.search(rb"[0-9]{%d}" % LONG_NUMBER, self.line(line)) is not None
        for name in (b"Inf", b"NaN"):  # Arrow knows Inf and -NaN as well
            place = self.data.find(name)
            while place >= 0:
                if self.data[max(0, place - 16) : place].rstrip()[-1:] in (b"", b":", b",", b"[", b"-"):
                    odd[np.searchsorted(self.starts, place, side="right") - 1] = True
                place = self.data.find(name, place + 1)
        return odd


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


def whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def plain_pairs(
    plan: Plan, columns: dict[str, pa.Array], numbers: np.ndarray, fields: Fields
) -> tuple[pa.RecordBatch, np.ndarray]:
    """The pairs of the rows of a table.

    Args:
        plan: what the columns are.
        columns: of equal lengths.
        numbers: the rows' numbers in their file.
        fields: the source's.
    Returns: a batch of HASHED with the pairs of all plain rows, and the mask of the rows that are not.
    """
    if plan.kind == "set":
        (texts,) = columns.values()
        texts, bad = clean_lists(texts)
        bad |= lengths_of(texts) < 2
        texts, owners = texts.filter(pa.array(~bad)).flatten(), np.repeat(np.arange(len(bad)), lengths_of(texts) * ~bad)
        followed = np.flatnonzero(owners[1:] == owners[:-1])
        query, document = (texts.take(pa.array(followed + step)) for step in (0, 1))
        return hashed(numbers[owners[followed]], query, document), bad
    if plan.kind == "list":
        query, document, negatives, bad = list_columns(columns["row"], plan)
    else:
        query, document = (joined(columns, names) for names in (plan.query, plan.document))
        negatives = None if plan.negatives is None else columns[plan.negatives]
        bad = filtered(columns, fields, len(numbers))
    query, empty = cleaned(query)
    bad |= empty | shorter(query, fields.min_query)
    if document.type == TEXTS:
        documents, empty = clean_lists(document)
        counts = lengths_of(documents)
        bad |= empty | (counts == 0)
    else:
        documents, empty = cleaned(document)
        counts = np.ones(len(numbers), int)
        bad |= empty
    flat = documents.flatten() if document.type == TEXTS else documents
    owners = np.repeat(np.arange(len(numbers)), counts)
    bad[owners[shorter(flat, fields.min_document)]] = True
    if fields.max_document is not None:
        bad[owners[~shorter(flat, fields.max_document + 1)]] = True
    if negatives is not None:
        negatives, doubtful = clean_negatives(negatives, flat, counts)
        bad |= doubtful
    if bad.any():
        keep = ~bad
        flat, owners = flat.filter(pa.array(keep[owners])), owners[keep[owners]]
    if bad.any() or len(owners) > len(numbers):
        query = query.take(pa.array(owners))
        negatives = negatives.take(pa.array(owners)) if negatives is not None else None
    return hashed(numbers[owners], query, flat, negatives), bad


def list_columns(rows: pa.ListArray, plan: Plan) -> tuple[pa.Array, pa.Array, pa.Array | None, np.ndarray]:
    """Query, document and negative of rows that are lists, and the mask of those that are too short."""
    values, counts = rows.flatten(), lengths_of(rows)
    starts = counts.cumsum() - counts
    query, document, negative = plan.positions
    bad = counts <= max(query, document, negative or 0)
    asked = [(query, bad), (document, bad)]
    if plan.positions == (0, 1, None):  # then a third text is a negative
        negative = 2
    if negative is not None:
        asked.append((negative, bad | (counts <= negative)))
    found = [values.take(pa.array(starts + place, mask=missing)) for place, missing in asked]
    return *found[:2], found[2] if len(found) > 2 else None, bad


def joined(columns: dict[str, pa.Array], names: str | list[str]) -> pa.Array:
    """The texts of a column; of several ones the non-empty texts of a row joined, as `records.pick` does."""
    if not isinstance(names, list):
        return columns[names]
    first, *others = [trimmed(pc.fill_null(columns[name], "")) for name in names]
    for part in others:
        both = pc.if_else(pc.equal(part, ""), first, pc.binary_join_element_wise(first, part, ": "))
        first = pc.if_else(pc.equal(first, ""), part, both)
    return first


def filtered(columns: dict[str, pa.Array], fields: Fields, count: int) -> np.ndarray:
    """The mask of rows that the source leaves out, or whose answers are no texts."""
    bad = np.zeros(count, bool)
    for filters, wanted in ((fields.keep, True), (fields.drop, False)):
        for name, values in filters.items():
            values = values if isinstance(values, list) else [values]
            bad |= mask(pc.is_in(columns[name], pa.array(values, columns[name].type))) != wanted
    if fields.score is not None:
        bad |= ~mask(pc.greater_equal(columns[fields.score], fields.min_score))
    if fields.answers is not None and columns[fields.answers].type == TEXTS:
        answers = columns[fields.answers]
        owners = np.repeat(np.arange(count), lengths_of(answers))
        bad[owners[mask(answers.flatten().is_null())]] = True
    return bad


def cleaned(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The texts as `records.clean` makes them, and the mask of those that it refuses."""
    texts = trimmed(pc.fill_null(texts, "") if texts.null_count else texts)
    bad = lengths_of(texts, pc.binary_length) == 0
    data = texts.buffers()[2]
    if data is not None and not np.frombuffer(data, np.uint8).all():
        bad |= mask(pc.match_substring(texts, "\0"))
    return texts, bad


def trimmed(texts: pa.StringArray) -> pa.StringArray:
    """The texts, none of them null, as `str.strip` leaves them."""
    texts = pc.ascii_trim_whitespace(texts)
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
    filled = offsets[1:] > offsets[:-1]
    if not filled.any():
        return texts
    data = np.frombuffer(texts.buffers()[2], np.uint8)
    edges = np.concatenate([data[offsets[:-1][filled]], data[offsets[1:][filled] - 1]])
    if ((edges > ord(" ")) & (edges < 0x7F)).all():
        return texts
    return pc.utf8_trim_whitespace(texts)  # its first call takes 0.2 s for a table of all characters


def clean_lists(texts: pa.ListArray) -> tuple[pa.ListArray, np.ndarray]:
    """Lists of texts with each of them `cleaned`, and the mask of the lists that are none or hold a refused one."""
    counts = lengths_of(texts)
    values, refused = cleaned(texts.flatten())
    bad = mask(texts.is_null())
    bad[np.repeat(np.arange(len(counts)), counts)[refused]] = True
    return lists_of(values, counts), bad


def clean_negatives(negatives: pa.Array, documents: pa.Array, counts: np.ndarray) -> tuple[pa.ListArray, np.ndarray]:
    """Negatives as lists, null where a row has none, and the mask of the rows in which not all can stay as they are.

    documents: all of them, `counts` of each row.
    """
    if negatives.type == TEXT:
        there = lengths_of(trimmed(pc.fill_null(negatives, "")), pc.binary_length) > 0
        values, sizes = negatives.filter(pa.array(there)), there.astype(int)
    else:
        values, sizes = negatives.flatten(), lengths_of(negatives)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    values, refused = cleaned(values)
    one = counts == 1
    places = pa.array((counts.cumsum() - counts)[owners], mask=~one[owners])
    refused |= ~mask(pc.not_equal(values, documents.take(places)))  # null, so refused, beside several documents
    bad = np.zeros(len(sizes), bool)
    bad[owners[refused]] = True
    return lists_of(values, sizes, sizes == 0), bad


def lists_of(values: pa.Array, counts: np.ndarray, null: np.ndarray | None = None) -> pa.ListArray:
    """Lists of so many of the values each."""
    offsets = pa.array(np.append(0, counts.cumsum()).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=None if null is None else pa.array(null))


def lengths_of(values: pa.Array, measure: Callable = pc.list_value_length) -> np.ndarray:
    """Lengths; 0 of null."""
    return pc.fill_null(measure(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def shorter(texts: pa.Array, least: int) -> np.ndarray:
    """The mask of texts of fewer characters."""
    return lengths_of(texts, pc.utf8_length) < least if least else np.zeros(len(texts), bool)


def mask(values: pa.BooleanArray) -> np.ndarray:
    """A mask; False for null."""
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def hashed(
    numbers: np.ndarray, query: pa.Array, document: pa.Array, negatives: pa.ListArray | None = None
) -> pa.RecordBatch:
    """A batch of HASHED, with what `records.pair_hash` gives for each pair."""
    spelt = pc.binary_join_element_wise(pc.cast(pc.binary_length(query), TEXT), query, ":")
    spelt = pc.binary_join_element_wise(spelt, document, "").cast(pa.binary())
    digests = b"".join([blake2b(text, digest_size=16).digest() for text in spelt.to_pylist()])
    high, low = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2).T
    if negatives is None:
        negatives = pa.nulls(len(numbers), TEXTS)
    return pa.record_batch(
        [pa.array(numbers), pa.array(high), pa.array(low), query, document, negatives], schema=HASHED
    )


def read_csv(
    path: Path | zipfile.Path,
    fields: Fields,
    threads: int,
    *,
    header: bool = True,
    delimiter: str = ",",
    quoting: str = "minimal",
    max_line: int = MAX_LINE,
) -> Iterator[pa.RecordBatch | Record]:
    """As `readers.read_csv`."""
    with ThreadPoolExecutor(threads) as pool:
        table = Table(line_blocks(path, max_line), fields, delimiter, quoting == "none", max_line, pool, threads)

        def check(columns: list[str]) -> None:
            require_columns(path, fields, columns)
            table.names = columns

        options = {"header": header, "delimiter": delimiter, "quoting": quoting, "max_line": max_line, "check": check}
        for row in table_rows(path, **options, items=table, take=table.take):
            if isinstance(row, Taken):
                yield from row.batches
            elif isinstance(row, Rejected):
                yield row
            else:
                yield from records(row[1], fields, row[0])
        yield from table.finish()


def read_tsv(
    path: Path | zipfile.Path,
    fields: Fields,
    threads: int,
    *,
    header: bool = False,
    delimiter: str = "\t",
    quoting: str = "none",
    max_line: int = MAX_LINE,
) -> Iterator[pa.RecordBatch | Record]:
    """As `readers.read_tsv`."""
    options = {"header": header, "delimiter": delimiter, "quoting": quoting, "max_line": max_line}
    return read_csv(path, fields, threads, **options)


class Table:
    """The lines of a csv or tsv file for `readers.table_rows`, which come one by one or are taken by columns.

    A line that is well-formed by itself is a row wherever no quoted cell is open before it, which only the reader of
    rows knows: so blocks are parsed in advance, and of what they gave those rows count that it lets be taken.
    """

    def __init__(
        self,
        blocks: Iterator[Lines | Rejected],
        fields: Fields,
        delimiter: str,
        unquoted: bool,
        max_line: int,
        pool: ThreadPoolExecutor,
        threads: int,
    ):
        self.blocks, self.fields, self.delimiter, self.unquoted = blocks, fields, delimiter, unquoted
        self.max_line, self.pool, self.threads = max_line, pool, threads
        self.names: list | None = None  # of the columns, from a header; without they are their positions
        self.parse: Callable[[Lines], Parsed] | None = None  # once the table's width is known, if it is read by columns
        self.looked = False
        self.waiting: deque[tuple[Lines | Rejected, Future | None]] = deque()
        self.block, self.cursor = Parsed(), 0
        self.done: list[pa.RecordBatch] = []

    def __iter__(self) -> "Table":
        return self

    def __next__(self) -> tuple[int, bytes] | Rejected:
        while self.cursor == self.block.count and self.advance():
            pass
        if self.cursor == self.block.count:
            if not self.waiting:
                raise StopIteration
            return self.waiting.popleft()[0]
        line, self.cursor = self.cursor, self.cursor + 1
        return self.block.line(line, self.max_line)

    def take(self, width: int) -> Taken:
        """Take all lines by columns up to one that must be read by itself, or the end of a block."""
        if not self.looked:
            self.looked, self.parse = True, table_parser(self, width)
            if self.parse and self.block.count:
                self.block = self.parse(self.block.lines)
        if self.parse is None or (self.cursor == self.block.count and not self.advance()):
            return Taken(0, [])
        place = np.searchsorted(self.block.slow, self.cursor)
        stop = self.block.slow[place] if place < len(self.block.slow) else self.block.count
        lines = int(stop) - self.cursor
        if not lines:
            return Taken(0, [])
        self.block.taken[self.cursor : stop] = True
        self.cursor += lines
        done, self.done = self.done, []
        return Taken(lines, done)

    def advance(self) -> bool:
        """Go on to the next block; False where a rejection or the end is next."""
        ahead = self.threads + 1 if self.parse and self.threads > 1 else 1
        while len(self.waiting) < ahead and (block := next(self.blocks, None)) is not None:
            parsed = self.parse and isinstance(block, Lines) and ahead > 1
            self.waiting.append((block, self.pool.submit(self.parse, block) if parsed else None))
        if not self.waiting or isinstance(self.waiting[0][0], Rejected):
            return False
        block, parsed = self.waiting.popleft()
        self.done += self.block.rows()
        if parsed is not None:
            self.block = parsed.result()
        else:
            self.block = self.parse(block) if self.parse else Parsed(block)
        self.cursor = 0
        return True

    def finish(self) -> list[pa.RecordBatch]:
        """The rows taken since the last time."""
        return self.done + self.block.rows()


class Parsed:
    """A block of a table's lines. slow: those that are read by themselves. taken: those that were taken by columns."""

    def __init__(self, lines: Lines | None = None, batch: pa.RecordBatch | None = None, slow: np.ndarray | None = None):
        self.lines, self.batch = lines, batch
        self.block = lines and Block(lines)
        self.count = len(self.block.starts) if lines else 0
        self.slow = np.arange(self.count) if slow is None else slow
        self.taken = np.zeros(self.count, bool)

    def line(self, number: int, max_line: int) -> tuple[int, bytes] | Rejected:
        if self.block.lengths[number] > max_line:
            return Rejected(f"line over {max_line:,} bytes", self.lines.number + number)
        return self.lines.number + number, self.block.line(number)

    def rows(self) -> list[pa.RecordBatch]:
        """The pairs of the lines that were taken."""
        if self.batch is None:
            return []
        taken = self.taken[self.batch.column("row").to_numpy() - self.lines.number]
        return [self.batch if taken.all() else self.batch.filter(pa.array(taken))]


def table_parser(table: Table, width: int) -> Callable[[Lines], Parsed] | None:
    """What parses a block of a table so wide; None where its columns are not read here."""
    fields, delimiter = table.fields, table.delimiter
    names = list(range(width)) if table.names is None else table.names
    query, document, negatives = fields.query, fields.document, fields.negatives
    if table.names is None and not isinstance(query, int):
        query, document, negatives = 0, 1, 2 if width > 2 else None
    elif query is None:
        query, document, negatives = "query", next((name for name in ANY_POSITIVE if name in names), None), None
        negatives = "neg" if "neg" in names else None
    types = {name: TEXT for name in wanted(query, document, negatives, fields) if names.count(name) == 1}
    if fields.score in types:
        types[fields.score] = NUMBER
    plan = object_plan(types, query, document, negatives, fields)
    if plan is None or not 2 <= width <= MOST_COLUMNS or len(delimiter) != 1 or delimiter in '"\r\n\0':
        return None
    if not delimiter.isascii():
        return None
    split = rf"\x{ord(delimiter):02x}"
    cell = rf"[^{split}\r\n\x00]*" if table.unquoted else rf'(?:[^"{split}\r\n\x00]*|"(?:[^"\r\n\x00]|"")*")'
    row = rf"^{cell}(?:{split}{cell}){{{width - 1}}}\r?\n?$"
    return partial(table_block, plan=plan, names=names, row=row, table=table)


def table_block(block: Lines, plan: Plan, names: list, row: str, table: Table) -> Parsed:
    """The pairs of the plain lines of a block of a table's, and the others; `row`: the pattern of a plain line."""
    lines = Block(block)
    offsets = np.append(lines.starts, len(block.data)).astype(np.int32)
    texts = pa.Array.from_buffers(TEXT, len(lines.starts), [None, pa.py_buffer(offsets), pa.py_buffer(block.data)])
    plain = mask(pc.match_substring_regex(texts, row)) & (lines.lengths <= table.max_line)
    for line in np.flatnonzero(plain & (lines.first == BOM[0])).tolist():
        plain[line] = not lines.line(line).startswith(BOM)  # Arrow would leave it out, where it comes first
    chosen = np.flatnonzero(plain)
    columns = table_columns(lines.join(chosen), plan, names, table) if len(chosen) else {}
    if not columns or any(len(column) != len(chosen) for column in columns.values()):
        return Parsed(block)
    batch, bad = plain_pairs(plan, columns, block.number + chosen, table.fields)
    plain[chosen[bad]] = False
    return Parsed(block, batch, np.flatnonzero(~plain))


def table_columns(data: bytes, plan: Plan, names: list, table: Table) -> dict | None:
    """The columns of a table's lines; None where Arrow refuses one."""
    places = {name: str(names.index(name)) for name in plan.types}
    options = {
        "read_options": pyarrow.csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=list(map(str, range(len(names))))
        ),
        "parse_options": pyarrow.csv.ParseOptions(
            delimiter=table.delimiter, quote_char=False if table.unquoted else '"', newlines_in_values=False
        ),
        "convert_options": pyarrow.csv.ConvertOptions(
            include_columns=list(places.values()), column_types=dict.fromkeys(places.values(), TEXT),
            strings_can_be_null=False,
        ),
    }  # fmt: skip
    try:
        found = pyarrow.csv.read_csv(pa.BufferReader(data), **options)
    except pa.ArrowInvalid:
        return None
    columns = {name: whole(found.column(place)) for name, place in places.items()}
    for name, kind in plan.types.items():
        if kind == NUMBER:  # other spellings, as of infinity, are Python's alone
            numeric = pc.match_substring_regex(columns[name], r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$")
            columns[name] = pc.cast(pc.if_else(numeric, columns[name], None), NUMBER)
    return columns


def read_parquet(path: Path | zipfile.Path, fields: Fields, threads: int) -> Iterator[pa.RecordBatch | Record]:
    """As `readers.read_parquet`."""
    for found in in_turn(parquet_jobs(path, fields), threads):
        yield from found


def parquet_jobs(path: Path | zipfile.Path, fields: Fields) -> Iterator[Callable[[], list]]:
    """What reads each batch of a parquet file."""
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
                    yield partial(list, [Rejected("damaged row group", lost)])
                row = max(row, end)
    except (pa.ArrowException, *DAMAGE) as error:
        if getattr(error, "errno", None):
            raise
        yield partial(list, [Rejected("damaged file", row)])


def group_batches(file: pq.ParquetFile, group: int, names: list[str] | None, facts) -> Iterator[pa.RecordBatch]:
    """Batches of a row group up to where it is damaged, of about a block's size each."""
    rows = int(BLOCK_BYTES * max(1, facts.num_rows) / max(1, facts.total_byte_size))
    try:
        yield from file.iter_batches(batch_size=min(2**14, max(64, rows)), row_groups=[group], columns=names)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise


def parquet_plan(schema: pa.Schema, fields: Fields) -> Plan | None:
    """How a parquet file of a schema is read."""
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
    return [Rejected("invalid UTF-8", row)] if value is None else list(records(value, fields, row))


COLUMNAR = {"jsonl": read_jsonl, "csv": read_csv, "tsv": read_tsv, "parquet": read_parquet}
