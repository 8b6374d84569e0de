"""CSV and TSV files by columns."""

import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from gte.data.columnar.blocks import Block, Lines, line_blocks
from gte.data.columnar.plain import mask, plain_pairs, whole
from gte.data.columnar.plan import NUMBER, TEXT, Plan, object_plan, wanted
from gte.data.raw_lines import BOM, MAX_LINE
from gte.data.readers import require_columns
from gte.data.reasons import Reason
from gte.data.records import ANY_POSITIVE, Fields, Record, Rejected, records
from gte.data.tables import Taken, table_rows

MOST_COLUMNS = 100  # of a table whose plain lines a regular expression tells


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
            return Rejected(Reason.LONG_LINE.of(max_line), self.lines.number + number)
        return self.lines.number + number, self.block.line(number)

    def rows(self) -> list[pa.RecordBatch]:
        """The pairs of the lines that were taken."""
        if self.batch is None:
            return []
        taken = self.taken[self.batch.column("row").to_numpy() - self.lines.number]
        return [self.batch if taken.all() else self.batch.filter(pa.array(taken))]


def table_parser(table: Table, width: int) -> Callable[[Lines], Parsed] | None:
    """Make the parser of blocks of a table so wide; None where its columns are not read here."""
    fields, delimiter = table.fields, table.delimiter
    names = list(range(width)) if table.names is None else table.names
    query, document, negatives = fields.query, fields.document, fields.negatives
    if table.names is None and not isinstance(query, int):
        query, document, negatives = 0, 1, list(range(2, width))
        if width < 4:
            negatives = 2 if width > 2 else None
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
