"""Readers: one generator a raw format, streaming. Each yields a Record for every row, good or bad.

A reader is called as read(path, fields, **options), and with joined=(path, ...) where its source names files to join.
A path is a file's or, inside of a zip, a `zipfile.Path`: `open_raw` and `lines` open both. A row number is the line on
which the row ends (text formats) or its position (parquet), from 1. A file that is damaged part-way gives its good rows
and one rejection that says so, at the last row read.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.records import Fields, Record, Rejected, records
from gte.errors import UserError

MAX_LINE = 16 * 2**20  # bytes; a longer line is rejected, and never held in memory as a whole
BOM = b"\xef\xbb\xbf"

Reader = Callable[..., Iterator[Record]]
Line = tuple[int, bytes]


# module and function of each format: imported where a source is read, so that no format needs another one's parser
READERS = {
    "jsonl": "gte.data.readers:read_jsonl",
    "csv": "gte.data.readers:read_csv",
    "tsv": "gte.data.readers:read_tsv",
    "parquet": "gte.data.readers:read_parquet",
}


def reader(name: str) -> Reader:
    """The reader of a raw format. Raises UserError for a format that has none, or whose parser is not installed."""
    if name not in READERS:
        raise UserError(f"no reader for the format '{name}'; prepare reads: {', '.join(sorted(READERS))}")
    module, _, function = READERS[name].partition(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the format '{name}' needs the package {error.name}: pip install -r requirements.txt"
        ) from error


def read_jsonl(path: Path, fields: Fields, *, max_line: int = MAX_LINE) -> Iterator[Record]:
    """One JSON value a line, in any of the shapes of `Fields`; blank lines are no rows."""
    for item in lines(path, max_line):
        if isinstance(item, Rejected):
            yield item
            continue
        row, line = item
        if line.isspace():
            continue
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError:
            yield Rejected("invalid UTF-8", row)
        except (json.JSONDecodeError, RecursionError):
            yield Rejected("invalid JSON", row)
        else:
            yield from records(value, fields, row)


def read_csv(
    path: Path,
    fields: Fields,
    *,
    header: bool = True,
    delimiter: str = ",",
    quoting: str = "minimal",
    max_line: int = MAX_LINE,
) -> Iterator[Record]:
    """RFC-4180 rows, which may run over several lines (quoting=minimal), or plainly split lines (quoting=none).

    With a header, fields are column names; without, positions. Raises UserError where the header lacks a field.
    """
    rejected: list[Rejected] = []
    text = texts(lines(path, max_line), rejected)
    rows = split_lines(text, delimiter) if quoting == "none" else quoted_rows(text, delimiter, max_line)
    columns = None
    for row, lines_read, cells in rows:
        yield from rejected
        broken = bool(rejected) and lines_read > 1  # the row may have lost a line of its own
        rejected.clear()
        if isinstance(cells, Rejected):
            yield cells
        elif broken:
            yield Rejected("row with a rejected line", row)
        elif header and columns is None:
            columns = cells
            require_columns(path, fields, columns)
        elif not cells:
            continue
        elif columns is None:
            yield from records(cells, fields, row)
        elif len(cells) != len(columns):
            yield Rejected("too few columns" if len(cells) < len(columns) else "too many columns", row)
        else:
            yield from records(dict(zip(columns, cells, strict=True)), fields, row)
    yield from rejected


def read_tsv(path: Path, fields: Fields, *, header: bool = False, quoting: str = "none", **options) -> Iterator[Record]:
    """Tab-separated values: by default without a header and without quoting."""
    return read_csv(path, fields, header=header, quoting=quoting, **{"delimiter": "\t", **options})


def read_parquet(path: Path, fields: Fields) -> Iterator[Record]:
    """Rows of a parquet file. Raises UserError where a column is missing."""
    row = 0
    try:
        file = pq.ParquetFile(path)
        require_columns(path, fields, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=1024, columns=fields.names or None):
            for value in decoded_rows(batch):
                row += 1
                yield from [Rejected("invalid UTF-8", row)] if value is None else records(value, fields, row)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        if getattr(error, "errno", None):
            raise
        yield Rejected("damaged file", row)


def require_columns(path: Path, fields: Fields, columns: list[str]) -> None:
    """Raises UserError where a named field is no column of the file."""
    missing = [name for name in fields.names if name not in columns]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'; it has: {', '.join(columns)}")


def decoded_rows(batch: pa.RecordBatch) -> list[dict | None]:
    """The rows of a batch as dicts; None for one whose text is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        half = batch.num_rows // 2
        return decoded_rows(batch.slice(0, half)) + decoded_rows(batch.slice(half))


def open_raw(path: Path) -> io.BufferedIOBase:
    """The decompressed bytes of a file, by its suffix: .gz, .zst, or plain."""
    if path.suffix == ".gz":
        return gzip.open(path)  # no larger buffer around it: what a damaged file held in it would be lost
    if path.suffix == ".zst":
        return io.BufferedReader(pa.input_stream(path, compression="zstd"), 2**20)
    return open(path, "rb", buffering=2**20)


def lines(path: Path, max_line: int) -> Iterator[Line | Rejected]:
    """(number, line) of a text file, line ends kept; a rejection for an over-long line and for a damaged archive."""
    number = 0
    with open_raw(path) as stream:
        try:
            while line := stream.readline(max_line + 1):
                number += 1
                if len(line) > max_line:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(max_line)
                    yield Rejected(f"line over {max_line:,} bytes", number)
                    continue
                yield number, line.removeprefix(BOM) if number == 1 else line
        except (OSError, EOFError, zlib.error) as error:
            if getattr(error, "errno", None):  # the disk's fault, not the archive's
                raise
            yield Rejected("damaged archive", number)


def texts(items: Iterator[Line | Rejected], rejected: list[Rejected]) -> Iterator[str]:
    """The lines as text, rejections put aside. What is no UTF-8 becomes half surrogates, which `clean` refuses."""
    for item in items:
        if isinstance(item, Rejected):
            rejected.append(item)
            yield "\n" if item.reason.startswith("line") else ""  # keeps the count of lines right
        else:
            yield item[1].decode(errors="surrogateescape")


def split_lines(text: Iterator[str], delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """(row, lines of the row, cells) of lines split at every delimiter; none for a blank line."""
    for number, line in enumerate(text, 1):
        line = line.rstrip("\r\n")
        yield number, 1, line.split(delimiter) if line else []


def quoted_rows(text: Iterator[str], delimiter: str, max_cell: int) -> Iterator[tuple[int, int, list[str] | Rejected]]:
    """(row, lines of the row, cells) by RFC-4180; a rejection in place of cells that csv cannot read."""
    csv.field_size_limit(max_cell)  # an unclosed quote would otherwise swallow the rest of the file
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    before = 0
    while True:
        try:
            cells: list[str] | Rejected = next(rows)
        except StopIteration:
            return
        except csv.Error:
            cells = Rejected("malformed row", rows.line_num)
        yield rows.line_num, rows.line_num - before, cells
        before = rows.line_num
