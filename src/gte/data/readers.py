"""Readers: one generator a raw format, streaming. Each yields a Record for every row, good or bad.

A path is a file's or, inside of a zip, a `zipfile.Path`: `open_raw` and `lines` open both. A row number is the line on
which the row ends (text formats) or its position (arrays, parquet), from 1. A file that is damaged part-way gives its
good rows and one rejection that says so, at the last row read.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.raw_lines import DAMAGE, MAX_LINE, Line, lines
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Keyed, Record, Rejected, records, split_row
from gte.data.tables import Row, table_rows
from gte.errors import UserError

GROUP_ROWS = 2**20  # of a parquet file's row group, at most, as pyarrow writes them
Reader = Callable[..., Iterator[Record | Keyed]]
Join = Callable[..., Iterator[tuple[str, Record]]]
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
    """Find the reader of a raw format.

    Args:
        name: a key of READERS.
    Returns: a function of (path, fields, **options) that yields a record for every row.
    Raises: UserError for a format that has none, or whose parser is not installed.

    >>> reader("jsonl").__name__
    'read_jsonl'
    """
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
    """Read one JSON value a line, in any of the shapes of `Fields`; blank lines are no rows.

    Args:
        path: a file, also .gz or .zst, or a zip's member.
        fields: the fields that hold the texts.
        max_line: bytes of a line; a longer one is a rejection.
    Returns: an iterator of records, a rejection for every row that gives no pair.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "pairs.jsonl"
    ...     _ = file.write_text('{"query": "a", "pos": "b"}\\n["only one"]\\n')
    ...     list(read_jsonl(file, Fields()))
    [Pair(query='a', document='b', row=1, answers=(), way=None, dropped=()), Rejected(reason='too few columns', row=2)]
    """
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
    """Yield the results of `take` of (row, object), one a line; a rejection where it raises Unfit."""
    for item in json_values(lines(path, max_line)):
        if isinstance(item, Rejected):
            yield item
            continue
        row, value = item
        try:
            if not isinstance(value, dict):
                raise Unfit(Reason.UNKNOWN_SHAPE)
            yield from take(row, value)
        except Unfit as unfit:
            yield Rejected(unfit.reason, row)


def read_csv(
    path: Path | zipfile.Path,
    fields: Fields,
    *,
    header: bool = True,
    delimiter: str = ",",
    quoting: str = "minimal",
    max_line: int = MAX_LINE,
) -> Iterator[Record]:
    """Read comma-separated rows: RFC 4180, which may run over several lines, or plainly split lines.

    Args:
        path: a file, also .gz or .zst, or a zip's member.
        fields: names of columns with a header, positions without one.
        header: whether the first row names the columns.
        delimiter: one character.
        quoting: minimal (RFC 4180) or none (lines are split at each delimiter).
        max_line: bytes of a row; a longer one is a rejection.
    Returns: an iterator of records, a rejection for every row that gives no pair.
    Raises: UserError where the header lacks a field.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "faq.csv"
    ...     _ = file.write_text('q,a\\nHow long?,"Two, or three days"\\n')
    ...     list(read_csv(file, Fields(query="q", document="a")))
    [Pair(query='How long?', document='Two, or three days', row=2, answers=(), way=None, dropped=())]
    """
    seen: set[int] = set()
    check = partial(require_columns, path, fields)
    for row in table_rows(path, header=header, delimiter=delimiter, quoting=quoting, max_line=max_line, check=check):
        if isinstance(row, Rejected):
            yield row
        else:
            yield from records(row[1], fields, row[0], seen)


def read_tsv(
    path: Path | zipfile.Path,
    fields: Fields,
    *,
    header: bool = False,
    delimiter: str = "\t",
    quoting: str = "none",
    max_line: int = MAX_LINE,
) -> Iterator[Record]:
    """Read tab-separated values, by default without a header and without quoting.

    Args and errors as in `read_csv`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "faq.tsv"
    ...     _ = file.write_text("How long?\\tTwo days\\n")
    ...     list(read_tsv(file, Fields(query=0, document=1)))
    [Pair(query='How long?', document='Two days', row=1, answers=(), way=None, dropped=())]
    """
    return read_csv(path, fields, header=header, delimiter=delimiter, quoting=quoting, max_line=max_line)


def read_parquet(path: Path | zipfile.Path, fields: Fields) -> Iterator[Record]:
    """Read the rows of a parquet file; a row group that is damaged part-way costs its own rows from there on, each a
    rejection.

    Args:
        path: a file, or a zip's member.
        fields: names of columns.
    Returns: an iterator of records.
    Raises: UserError where a column is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"query": ["a"], "pos": ["b"]}), f"{folder}/pairs.parquet")
    ...     list(read_parquet(Path(folder) / "pairs.parquet", Fields()))
    [Pair(query='a', document='b', row=1, answers=(), way=None, dropped=())]
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
                    yield Rejected(Reason.INVALID_UTF8, row) if value is None else (row, value)
                for lost in range(row + 1, min(end, row + GROUP_ROWS) + 1):  # a damaged footer may say anything
                    yield Rejected(Reason.DAMAGED_ROW_GROUP, lost)
                row = max(row, end)
    except (pa.ArrowException, *DAMAGE) as error:
        if getattr(error, "errno", None):
            raise
        yield Rejected(Reason.DAMAGED_FILE, row)


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
                yield Rejected(Reason.INVALID_UTF8, item[0])
            except (ValueError, RecursionError):
                yield Rejected(Reason.INVALID_JSON, item[0])


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
