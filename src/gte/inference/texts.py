"""Texts from a file or a pipe, one after the other: what `embed` reads."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.readers import MAX_LINE, decoded_rows, lines, require_columns, table_rows
from gte.data.records import Fields, Rejected, Unfit, clean, encodable
from gte.data.sources import split_name
from gte.errors import UserError

STDIN = "-"


class Text(NamedTuple):
    """A row's text, or (None) the reason why it has none; an empty one is "". `row` counts lines or rows from 1."""

    row: int
    id: str
    text: str | None
    reason: str = ""


def read_texts(
    source: str, format: str | None = None, field: str = "text", id_field: str | None = None
) -> Iterator[Text]:
    """The texts of a txt (one a line), jsonl, csv, tsv (each also .gz or .zst) or parquet file, or of stdin ("-").

    `field` and `id_field` name the JSON key or column; without `id_field` a row's number is its id. White space around
    a text is dropped, as sentence-transformers does. Raises UserError for a missing file, format or column.
    """
    path = Path("/dev/stdin") if source == STDIN else Path(source)
    format = format or ("txt" if source == STDIN else split_name(path)[1])
    if source != STDIN and not path.is_file():
        raise UserError(f"in={source}: there is no such file; name one, or - for standard input")
    if format not in READERS:
        known = ", ".join(READERS)
        raise UserError(f"in={source}: the format '{format}' is not one of {known}; name it: format=jsonl")
    if source == STDIN and format == "parquet":
        raise UserError("in=-: parquet is no stream; save it to a file first")
    return READERS[format](path, field, id_field)


def as_text(row: int, value: dict, field: str, id_field: str | None) -> Text:
    """The text of a row that is an object."""
    id = row if id_field is None else value.get(id_field)
    if id is None:
        return Text(row, str(row), None, f"missing {id_field}")
    if not encodable(str(id)):
        return Text(row, str(row), None, "invalid UTF-8")
    try:
        return Text(row, str(id), clean(value.get(field), "text"))
    except Unfit as unfit:
        reason = str(unfit)
        return Text(row, str(id), "") if reason == "empty text" else Text(row, str(id), None, reason)


def text_lines(path: Path) -> Iterator[tuple[int, str | Rejected]]:
    """Numbered lines as text."""
    for item in lines(path, MAX_LINE):
        if isinstance(item, Rejected):
            yield item.row, item
            continue
        try:
            yield item[0], item[1].decode()
        except UnicodeDecodeError:
            yield item[0], Rejected("invalid UTF-8", item[0])


def read_txt(path: Path, field: str, id_field: str | None) -> Iterator[Text]:
    if id_field is not None:
        raise UserError(f"id={id_field}: a txt file has no ids; leave it out, the line number is the id")
    for row, line in text_lines(path):
        yield (
            Text(row, str(row), None, line.reason) if isinstance(line, Rejected) else Text(row, str(row), line.strip())
        )


def read_jsonl(path: Path, field: str, id_field: str | None) -> Iterator[Text]:
    """Blank lines are no rows. The first object must have the fields; later ones that lack them have no text."""
    seen = False
    for row, line in text_lines(path):
        if isinstance(line, Rejected):
            yield Text(row, str(row), None, line.reason)
        elif not line.isspace():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                yield Text(row, str(row), None, "no JSON object")
                continue
            if not seen:
                require_columns(path, Fields(field, id_field), list(value))
            seen = True
            yield as_text(row, value, field, id_field)


def read_table(
    path: Path, field: str, id_field: str | None, delimiter: str = ",", quoting: str = "minimal"
) -> Iterator[Text]:
    """csv and tsv with a header."""
    check = partial(require_columns, path, Fields(field, id_field))
    for row in table_rows(path, header=True, delimiter=delimiter, quoting=quoting, check=check):
        if isinstance(row, Rejected):
            yield Text(row.row, str(row.row), None, row.reason)
        else:
            yield as_text(row[0], row[1], field, id_field)


def read_parquet(path: Path, field: str, id_field: str | None) -> Iterator[Text]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no parquet file: {str(error).splitlines()[0]}") from error
    fields = Fields(field, id_field)
    require_columns(path, fields, file.schema_arrow.names)
    row = 0
    try:
        for batch in file.iter_batches(batch_size=1024, columns=fields.names):
            for value in decoded_rows(batch):
                row += 1
                unread = Text(row, str(row), None, "invalid UTF-8")
                yield unread if value is None else as_text(row, value, field, id_field)
    except (pa.ArrowException, OSError):
        yield Text(row + 1, str(row + 1), None, "damaged file")


READERS = {
    "txt": read_txt,
    "jsonl": read_jsonl,
    "csv": read_table,
    "tsv": partial(read_table, delimiter="\t", quoting="none"),
    "parquet": read_parquet,
}
