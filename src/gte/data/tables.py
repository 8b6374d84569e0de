"""Rows of CSV and TSV files: their cells, line by line, a stray quote noticed before it swallows rows."""

import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from gte.data.raw_lines import MAX_LINE, Line, lines, texts
from gte.data.reasons import Reason
from gte.data.records import Rejected

MAX_ROW_LINES = 10_000  # of a csv row; the longest texts of real tables, code files, stay below
DOUBT_LINES = 64  # of a csv row, at which it is first asked whether an open quote swallows rows
Row = tuple[int, object]  # its number and value


class Taken(NamedTuple):
    """Rows that were read by columns, one a line: how many lines, and what they gave so far."""

    lines: int
    batches: list[pa.RecordBatch]


Take = Callable[[int], Taken]  # of a table so wide


def table_rows(
    path: Path | zipfile.Path,
    *,
    header: bool,
    delimiter: str = ",",
    quoting: str = "minimal",
    max_line: int = MAX_LINE,
    check: Callable[[list[str]], None] = lambda columns: None,
    items: Iterator[Line | Rejected] | None = None,
    take: Take | None = None,
) -> Iterator[Row | Rejected | Taken]:
    """The rows of a csv or tsv file as (line, {column: cell}), without a header as (line, cells).

    Column names are stripped. `check` is called with them before the first row, and may raise. items, take: the lines
    where they are not read here, and what may take lines away from them by itself wherever a row begins.
    """
    rejected: list[Rejected] = []
    text = texts(lines(path, max_line) if items is None else items, rejected)
    rows = split_lines(text, delimiter, take) if quoting == "none" else quoted_rows(text, delimiter, max_line, take)
    columns = None
    for found in rows:
        yield from rejected
        after_rejected = bool(rejected)
        rejected.clear()
        if isinstance(found, Rejected | Taken):
            yield found
            continue
        row, lines_read, cells = found
        if after_rejected and lines_read > 1:  # the row may have lost a line of its own
            yield Rejected(Reason.REJECTED_LINE, row)
        elif header and columns is None:
            columns = [cell.strip() for cell in cells]
            check(columns)
        elif not cells:
            continue
        elif columns is None:
            yield row, cells
        elif len(cells) != len(columns):
            few = len(cells) < len(columns)
            yield Rejected(Reason.TOO_FEW_COLUMNS if few else Reason.TOO_MANY_COLUMNS, row)
        else:
            yield row, dict(zip(columns, cells, strict=True))
    yield from rejected


def quoted_rows(
    text: Iterator[str], delimiter: str, max_cell: int, take: Take | None = None
) -> Iterator[tuple[int, int, list[str]] | Rejected | Taken]:
    """(row, lines of the row, cells) by RFC-4180; a rejection in place of a row that csv cannot read.

    A quote that is never closed, or closed by that of a later row, costs its own line: the lines behind it are read
    anew, as rows. It is told by what cannot be parsed, by MAX_ROW_LINES, and by lines within the quotes that are all
    rows of the table's width.
    """
    csv.field_size_limit(max_cell)
    source = Rewindable(text, delimiter)
    rows = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.begin_row()
        if take and source.is_between_rows() and (taken := take(source.width)).lines:
            source.number += taken.lines
            yield taken
            continue
        try:
            cells = next(rows)
            if source.swallows():
                raise Runaway
        except StopIteration:
            return
        except (csv.Error, Runaway):
            if len(source.taken) == 1:
                yield Rejected(Reason.MALFORMED_ROW, source.number)
            else:
                yield Rejected(Reason.OPEN_QUOTE, source.rewind())
            continue
        if source.number <= source.doubted and source.stray_quote():
            yield Rejected(Reason.MALFORMED_ROW, source.number)
            continue
        source.width = source.width or len(cells)
        yield source.number, len(source.taken), cells


class Runaway(Exception):
    """A quoted cell holds more lines than a cell does."""


class Rewindable:
    """Lines of which those behind the first one of a row can be read again; what csv.reader iterates over.

    number: of the line read last. taken: the lines of the row at hand. width: cells of the table's first row, 0 before
    it. doubted: up to this line a rewound row went.
    """

    def __init__(self, text: Iterator[str], delimiter: str):
        self.text, self.delimiter = text, delimiter
        self.taken: list[str] = []
        self.again: list[str] = []  # the next line last
        self.number = self.width = self.doubted = 0

    def __iter__(self) -> "Rewindable":
        return self

    def __next__(self) -> str:
        line = self.again.pop() if self.again else next(self.text)
        self.number += 1
        self.taken.append(line)
        if len(self.taken) > MAX_ROW_LINES or (len(self.taken) == DOUBT_LINES and self.swallows()):
            raise Runaway
        return line

    def begin_row(self) -> None:
        self.taken = []

    def is_between_rows(self) -> bool:
        """Whether the next line is new, begins a row of a table whose width is known, and no quote is in doubt."""
        return self.width > 0 and not self.again and self.number >= self.doubted

    def rewind(self) -> int:
        """Gives back all lines of the row but its first, whose number it returns."""
        first = self.number - len(self.taken) + 1
        self.doubted = max(self.doubted, self.number)
        self.again += reversed(self.taken[1:])
        self.number, self.taken = first, self.taken[:1]
        return first

    def swallows(self) -> bool:
        """Whether the row's lines look like rows themselves, each as wide as the table, its first one but for a quote.

        So do two lines of some texts, hence five at least.
        """
        first, *others = self.taken
        if len(others) < 4 or self.width < 2:
            return False
        before, _, after = first.rpartition('"')
        return self.is_row(before + after) and all(map(self.is_row, others))

    def is_row(self, line: str) -> bool:
        try:
            cells = next(csv.reader([line], delimiter=self.delimiter, strict=True), [])
        except csv.Error:
            return False
        return len(cells) == self.width and all(cells)

    def stray_quote(self) -> bool:
        """Whether the row is one line with the end of a quoted cell that began before it."""
        (line, *more) = self.taken
        cells = line.rstrip("\r\n").split(self.delimiter)
        return (
            not more
            and any(cell.endswith('"') and not cell.startswith('"') for cell in cells)
            and (line.count('"') % 2 == 1)
        )


def split_lines(
    text: Iterator[str], delimiter: str, take: Take | None = None
) -> Iterator[tuple[int, int, list[str]] | Taken]:
    """(row, lines of the row, cells) of lines split at every delimiter; none for a blank line."""
    number = width = 0
    while True:
        if take and width and (taken := take(width)).lines:
            number += taken.lines
            yield taken
            continue
        line = next(text, None)
        if line is None:
            return
        number, line = number + 1, line.rstrip("\r\n")
        cells = line.split(delimiter) if line else []
        width = width or len(cells)
        yield number, 1, cells
