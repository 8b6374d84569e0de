"""Readers: one generator a raw format, streaming. Each yields a Record for every row, good or bad.

A path is a file's or, inside of a zip, a `zipfile.Path`: `open_raw` and `lines` open both. A row number is the line on
which the row ends (text formats) or its position (arrays, parquet), from 1. A file that is damaged part-way gives its
good rows and one rejection that says so, at the last row read.
"""

import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from gte.data.records import Fields, Keyed, Record, Rejected, Unfit, records, split_row
from gte.errors import UserError

MAX_LINE = 16 * 2**20  # bytes; a longer line is rejected, and never held in memory as a whole
MAX_ROW_LINES = 10_000  # of a csv row; the longest texts of real tables, code files, stay below
GROUP_ROWS = 2**20  # of a parquet file's row group, at most, as pyarrow writes them
DOUBT_LINES = 64  # of a csv row, at which it is first asked whether an open quote swallows rows
BOM = b"\xef\xbb\xbf"
KINDS = {".gz": "gzip", ".zst": "zstd"}  # what is unpacked, by a name's suffix
MAGIC = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh91AY&SY": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\3\4": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z", b"PAR1\x15": "parquet", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
    **{bytes([first]) + b"\x2a\x4d\x18": "zstd" for first in range(0x50, 0x60)},  # a frame to skip comes first
}  # fmt: skip
BOMB_BYTES, BOMB_RATIO = 2**30, 200  # text packs 3 to 20 times; more than both is no text
# the reasons of rejections that stand for all that would have followed in their file
ENDS = ("damaged archive", "damaged file", "archive bomb", "array without an end")
# what the unpackers raise for a bad archive; OSError without a number is one of these
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, zstandard.ZstdError)


class Unreadable(Exception):
    """Why a file cannot be read on: the reason of the rejection that says so."""


Reader = Callable[..., Iterator[Record | Keyed]]
Join = Callable[..., Iterator[tuple[str, Record]]]
Line = tuple[int, bytes]
Row = tuple[int, object]  # its number and value


class Taken(NamedTuple):
    """Rows that were read by columns, one a line: how many lines, and what they gave so far."""

    lines: int
    batches: list[pa.RecordBatch]


Take = Callable[[int], Taken]  # of a table so wide


# module and function of each format: imported where a source is read, so that no format needs another one's parser
READERS = {
    "jsonl": "gte.data.readers:read_jsonl",
    "csv": "gte.data.readers:read_csv",
    "tsv": "gte.data.readers:read_tsv",
    "parquet": "gte.data.readers:read_parquet",
    "anchordr": "gte.data.formats.anchors:read_anchors",
    "arxiv": "gte.data.formats.preprints:read_arxiv",
    "biorxiv_api": "gte.data.formats.preprints:read_api_page",
    "ccnet": "gte.data.formats.pages:read_ccnet",
    "clueweb22": "gte.data.formats.pages:read_clueweb22",
    "codesearchnet": "gte.data.formats.codesearchnet:read_codesearchnet",
    "fever": "gte.data.formats.fever:read_fever",
    "hotpotqa": "gte.data.formats.hotpotqa:read_hotpotqa",
    "json": "gte.data.formats.arrays:read_json",
    "medi": "gte.data.formats.medi:read_medi",
    "nli": "gte.data.formats.nli:read_nli",
    "passages": "gte.data.formats.passages:read_passages",
    "pubmed": "gte.data.formats.pubmed:read_pubmed",
    "pushshift_comments": "gte.data.formats.pushshift:read_comments",
    "pushshift_posts": "gte.data.formats.pushshift:read_posts",
    "squad": "gte.data.formats.squad:read_squad",
    "python": "gte.data.formats.literals:read_literals",
    "scored": "gte.data.formats.scored:read_scored",
    "stackexchange_answers": "gte.data.formats.stackexchange:read_answers",
    "stackexchange_questions": "gte.data.formats.stackexchange:read_questions",
    "warc": "gte.data.formats.warc:read_warc",
}
# the formats whose readers yield Keyed rows, and what makes the records of one key's: join(rows, fields, **options)
JOINS = {
    "anchordr": "gte.data.formats.anchors:join_anchors",
    "biorxiv_api": "gte.data.formats.preprints:join_versions",
    "fever": "gte.data.formats.fever:join_fever",
    "nli": "gte.data.formats.nli:join_nli",
    "pushshift_comments": "gte.data.formats.pushshift:join_comments",
    "stackexchange_answers": "gte.data.formats.stackexchange:join_answers",
}


def reader(name: str) -> Reader:
    """The reader of a raw format. Raises UserError for a format that has none, or whose parser is not installed."""
    if name not in READERS:
        raise UserError(f"no reader for the format '{name}'; prepare reads: {', '.join(sorted(READERS))}")
    return load(name, READERS[name])


def join(name: str) -> Join | None:
    """The join of a format whose rows are Keyed, None for one that yields records at once."""
    return load(name, JOINS[name]) if name in JOINS else None


def load(name: str, function: str) -> Callable:
    """The function of a format by its module and name. Raises UserError where a package it needs is not installed."""
    module, _, function = function.partition(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the format '{name}' needs the package {error.name}: pip install -r requirements.txt"
        ) from error


def read_jsonl(path: Path | zipfile.Path, fields: Fields, *, max_line: int = MAX_LINE) -> Iterator[Record]:
    """One JSON value a line, in any of the shapes of `Fields`; blank lines are no rows."""
    return paired(json_values(lines(path, max_line)), fields)


def read_objects(path: Path | zipfile.Path, fields: Fields, change: Callable[[dict], dict]) -> Iterator[Record]:
    """The records of JSON objects, one a line, after a change to each; it raises Unfit for a row that gives none."""
    return changed(json_values(lines(path, MAX_LINE)), fields, change)


def changed(rows: Iterator[Row | Rejected], fields: Fields, change: Callable[[dict], dict]) -> Iterator[Record]:
    """The records of rows that are objects, after a change to each, as in `read_objects`."""
    return paired(rows, fields, lambda value, fields: split_row(change(value), fields))


def read_keyed(
    path: Path | zipfile.Path, take: Callable[[int, dict], Iterator[Keyed]], max_line: int
) -> Iterator[Keyed | Rejected]:
    """What `take` yields of (row, object), one a line; a rejection where it raises Unfit."""
    for item in json_values(lines(path, max_line)):
        if isinstance(item, Rejected):
            yield item
            continue
        row, value = item
        try:
            if not isinstance(value, dict):
                raise Unfit("unknown shape of row")
            yield from take(row, value)
        except Unfit as unfit:
            yield Rejected(str(unfit), row)


def read_csv(
    path: Path | zipfile.Path,
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
    seen: set[int] = set()
    check = partial(require_columns, path, fields)
    for row in table_rows(path, header=header, delimiter=delimiter, quoting=quoting, max_line=max_line, check=check):
        if isinstance(row, Rejected):
            yield row
        else:
            yield from records(row[1], fields, row[0], seen)


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
    for row, lines_read, cells in rows:
        yield from rejected
        broken = bool(rejected) and lines_read > 1  # the row may have lost a line of its own
        rejected.clear()
        if isinstance(cells, Rejected | Taken):
            yield cells
        elif broken:
            yield Rejected("row with a rejected line", row)
        elif header and columns is None:
            columns = [cell.strip() for cell in cells]
            check(columns)
        elif not cells:
            continue
        elif columns is None:
            yield row, cells
        elif len(cells) != len(columns):
            yield Rejected("too few columns" if len(cells) < len(columns) else "too many columns", row)
        else:
            yield row, dict(zip(columns, cells, strict=True))
    yield from rejected


def read_tsv(
    path: Path | zipfile.Path,
    fields: Fields,
    *,
    header: bool = False,
    delimiter: str = "\t",
    quoting: str = "none",
    max_line: int = MAX_LINE,
) -> Iterator[Record]:
    """Tab-separated values: by default without a header and without quoting."""
    return read_csv(path, fields, header=header, delimiter=delimiter, quoting=quoting, max_line=max_line)


def read_parquet(path: Path | zipfile.Path, fields: Fields) -> Iterator[Record]:
    """Rows of a parquet file. Raises UserError where a column is missing.

    A row group that is damaged part-way costs its own rows from there on, each of them a rejection.
    """
    return paired(parquet_rows(path, fields), fields)


def parquet_rows(path: Path | zipfile.Path, fields: Fields | None = None) -> Iterator[Row | Rejected]:
    """(position, row) of a parquet file, with the columns of `fields` or, without it, all; damage as `read_parquet`."""
    row = 0
    try:
        with path.open("rb") as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            if fields is not None:
                require_columns(path, fields, file.schema_arrow.names)
            for group in range(file.num_row_groups):
                end = row + file.metadata.row_group(group).num_rows
                for value in group_rows(file, group, (fields and fields.names) or None):
                    row += 1
                    yield Rejected("invalid UTF-8", row) if value is None else (row, value)
                for lost in range(row + 1, min(end, row + GROUP_ROWS) + 1):  # a damaged footer may say anything
                    yield Rejected("damaged row group", lost)
                row = max(row, end)
    except (pa.ArrowException, *DAMAGE) as error:
        if getattr(error, "errno", None):
            raise
        yield Rejected("damaged file", row)


def group_rows(file: pq.ParquetFile, group: int, names: list[str] | None) -> Iterator[dict | None]:
    """The rows of a row group as dicts up to where it is damaged; None for one whose text is not UTF-8."""
    try:
        for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=names):
            yield from decoded_rows(batch)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise


def paired(rows: Iterator[Row | Rejected], fields: Fields, split: Callable | None = None) -> Iterator[Record]:
    """The records of rows; `split` as in `records`."""
    seen: set[int] = set()
    for row in rows:
        if isinstance(row, Rejected):
            yield row
        else:
            yield from records(row[1], fields, row[0], seen, split)


def json_values(items: Iterator[Line | Rejected]) -> Iterator[Row | Rejected]:
    """The values of texts that are one JSON value each; blank ones are no rows."""
    for item in items:
        if isinstance(item, Rejected):
            yield item
        elif not item[1].isspace():
            try:
                yield item[0], json.loads(item[1].decode())
            except UnicodeDecodeError:
                yield Rejected("invalid UTF-8", item[0])
            except (ValueError, RecursionError):
                yield Rejected("invalid JSON", item[0])


def require_columns(path: Path | zipfile.Path, fields: Fields, columns: list[str]) -> None:
    """Raises UserError where a named field is no column of the file, or two of them."""
    for name in fields.names:
        if columns.count(name) != 1:
            many = "several columns" if name in columns else "no column"
            known = ", ".join(" ".join(column.split()) for column in columns)
            raise UserError(f"{path} has {many} '{name}'; it has: {known}")


def decoded_rows(batch: pa.RecordBatch) -> list[dict | None]:
    """The rows of a batch as dicts; None for one whose text is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        half = batch.num_rows // 2
        return decoded_rows(batch.slice(0, half)) + decoded_rows(batch.slice(half))


def open_raw(path: Path | zipfile.Path) -> io.BufferedIOBase:
    """The bytes of a file or a zip's member, decompressed where its name ends in .gz or .zst.

    Raises Unreadable, at once or in reading, where an archive is cut, damaged or a bomb, and UserError for content of
    another kind than the name says, with the way out.
    """
    try:
        stream = path.open("rb", **({"buffering": 2**20} if isinstance(path, Path) else {}))
        head = stream.peek(16)
    except (RuntimeError, NotImplementedError) as error:  # of zips: encrypted, or packed in a way not known
        raise UserError(f"{path} cannot be unpacked: {error}") from error
    except DAMAGE as error:
        raise unreadable(error) from error
    named = KINDS.get(Path(path.name).suffix)
    held = next((kind for start, kind in MAGIC.items() if head.startswith(start)), None)
    if head and held != named:
        stream.close()
        raise UserError(f"{path} {other_kind(path.name, named, held)}")
    if named is None and isinstance(path, Path):
        return stream
    size = path.stat().st_size if isinstance(path, Path) else path.root.getinfo(path.at).compress_size
    return io.BufferedReader(Unpacked(stream, named, max(BOMB_BYTES, BOMB_RATIO * size)), 2**18)


def other_kind(name: str, named: str | None, held: str | None) -> str:
    """What is wrong with a file whose name and content say different kinds, and the way out."""
    if held == "UTF-16":
        return "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"
    if held in KINDS.values():
        suffix = next(suffix for suffix, kind in KINDS.items() if kind == held)
        return f"is a {held} archive; name it {name.removesuffix('.gz').removesuffix('.zst')}{suffix}"
    if held:
        return f"is a {held} file, which is not read here; unpack it, or convert it to .gz or .zst"
    return f"is no {named} archive; name it {Path(name).stem} if it is plain text, otherwise get it again"


def unreadable(error: Exception) -> Exception:
    """What to raise for one of DAMAGE: an error with a number is the disk's fault, not the archive's."""
    return error if getattr(error, "errno", None) else Unreadable("damaged archive")


class Unpacked(io.RawIOBase):
    """The content of a gzip or zstd archive, or of a plain member of a zip, of `limit` bytes at most."""

    def __init__(self, stream: io.BufferedIOBase, kind: str | None, limit: int):
        self.stream, self.limit = stream, limit
        self.chunks = {"gzip": gzip_chunks, "zstd": zstd_chunks, None: plain_chunks}[kind](stream)
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            self.rest = self.rest or memoryview(next(self.chunks, b""))
        except DAMAGE as error:
            raise unreadable(error) from error
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        self.limit -= len(part)
        if self.limit < 0:
            raise Unreadable("archive bomb")
        return len(part)

    def close(self) -> None:
        self.stream.close()
        super().close()


def plain_chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """A stream in pieces."""
    while chunk := stream.read1(2**16):
        yield chunk


def gzip_chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """The content of all members of a gzip archive. Raises one of DAMAGE where it is none, or cut."""
    if not stream.peek(1):
        raise EOFError
    yield from plain_chunks(gzip.GzipFile(fileobj=stream))


def zstd_chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """The content of all frames of a zstd archive. Raises one of DAMAGE where it is none, or cut.

    Windows of up to 2 GiB are read, as Reddit's dumps have. 4 KiB at a time: they unpack to 128 MiB at the worst.
    """
    new = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
    frame = new()
    while packed := stream.read1(2**12):
        while packed:
            frame = frame or new()
            if chunk := frame.decompress(packed):
                yield chunk
            packed, frame = frame.unused_data, None if frame.eof else frame
    if frame:
        raise EOFError


def lines(path: Path | zipfile.Path, max_line: int) -> Iterator[Line | Rejected]:
    """(number, line) of a text file, line ends kept; a rejection for an over-long line and for a damaged archive."""
    number = 0
    try:
        with open_raw(path) as stream:
            while line := stream.readline(max_line + 1):
                number += 1
                if len(line) > max_line:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(max_line)
                    yield Rejected(f"line over {max_line:,} bytes", number)
                elif number > 1 or (line := line.removeprefix(BOM)):
                    yield number, line
    except Unreadable as fault:
        yield Rejected(str(fault), number)


def texts(items: Iterator[Line | Rejected], rejected: list[Rejected]) -> Iterator[str]:
    """The lines as text, rejections put aside. What is no UTF-8 becomes half surrogates, which `clean` refuses."""
    for item in items:
        if isinstance(item, Rejected):
            rejected.append(item)
            yield "\n" if item.reason.startswith("line") else ""  # keeps the count of lines right
        else:
            yield item[1].decode(errors="surrogateescape")


def split_lines(
    text: Iterator[str], delimiter: str, take: Take | None = None
) -> Iterator[tuple[int, int, list[str] | Taken]]:
    """(row, lines of the row, cells) of lines split at every delimiter; none for a blank line."""
    number = width = 0
    while True:
        if take and width and (taken := take(width)).lines:
            number += taken.lines
            yield number, taken.lines, taken
            continue
        line = next(text, None)
        if line is None:
            return
        number, line = number + 1, line.rstrip("\r\n")
        cells = line.split(delimiter) if line else []
        width = width or len(cells)
        yield number, 1, cells


def quoted_rows(
    text: Iterator[str], delimiter: str, max_cell: int, take: Take | None = None
) -> Iterator[tuple[int, int, list[str] | Rejected | Taken]]:
    """(row, lines of the row, cells) by RFC-4180; a rejection in place of cells that csv cannot read.

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
            yield source.number, taken.lines, taken
            continue
        try:
            cells = next(rows)
            if source.swallows():
                raise Runaway
        except StopIteration:
            return
        except (csv.Error, Runaway):
            if len(source.taken) == 1:
                yield source.number, 1, Rejected("malformed row", source.number)
            else:
                first = source.rewind()
                yield first, 1, Rejected("quote that is not closed", first)
            continue
        if source.number <= source.doubted and source.stray_quote():
            yield source.number, 1, Rejected("malformed row", source.number)
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
