"""Texts from a file or a pipe, one after the other: what `embed` reads."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.cleaning import clean, encodable
from gte.data.own_files import split_name
from gte.data.own_tables import find_quoting
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.readers import decoded_rows, require_columns
from gte.data.reasons import Reason, Unfit, kind_of
from gte.data.records import Fields, Rejected
from gte.data.tables import table_rows
from gte.errors import UserError
from gte.files import json_object

STDIN = "-"


class Text(NamedTuple):
    """A row of the input of `embed`.

    Args:
        row: number of the line or row, from 1.
        id: of the row, its number where it has none.
        text: as it is in the row; white space alone is an empty one; None where the row has none.
        reason: of a row without a text.
    """

    row: int
    id: str
    text: str | None
    reason: str = ""


def read_texts(
    source: str, format: str | None = None, field: str = "text", id_field: str | None = None
) -> Iterator[Text]:
    """Read texts from a file or a pipe: txt (one a line), jsonl, csv, tsv (each also .gz or .zst) or parquet.

    White space around a text is kept, as by `Encoder.encode` and sentence-transformers: byte-level tokenizers read it.

    Args:
        source: a file, or "-" for stdin.
        format: None is that of the file's name, txt for stdin.
        field: key or column of the text.
        id_field: key or column of a row's id; None is the row's number.
    Returns: an iterator of texts.
    Raises: UserError for a missing file, format or column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "texts.jsonl").write_text('{"text": " one "}\\n{"txt": "two"}\\n')
    ...     list(read_texts(f"{folder}/texts.jsonl"))
    [Text(row=1, id='1', text=' one ', reason=''), Text(row=2, id='2', text=None, reason='missing text')]
    """
    format = check_source(source, format)
    return READERS[format](Path("/dev/stdin") if source == STDIN else Path(source), field, id_field)


def check_source(source: str, format: str | None) -> str:
    """The format of a file of texts, by its name where none is given. Raises UserError where it cannot be read."""
    format = format or ("txt" if source == STDIN else split_name(Path(source))[1])
    if source != STDIN and not Path(source).is_file():
        raise UserError(f"in={source}: there is no such file; name one, or - for standard input")
    if format not in READERS:
        known = ", ".join(READERS)
        raise UserError(f"in={source}: the format '{format}' is not one of {known}; name it: format=jsonl")
    if source == STDIN and format == "parquet":
        raise UserError("in=-: parquet is no stream; save it to a file first")
    return format


def as_text(row: int, value: dict, field: str, id_field: str | None) -> Text:
    """The text of a row that is an object."""
    id = row if id_field is None else value.get(id_field)
    if id is None:
        return Text(row, str(row), None, Reason.MISSING.of(id_field))
    if not encodable(str(id)):
        return Text(row, str(row), None, Reason.INVALID_UTF8)
    try:
        clean(value.get(field), "text")
    except Unfit as unfit:
        if kind_of(unfit.reason) is not Reason.EMPTY:
            return Text(row, str(id), None, unfit.reason)
    return Text(row, str(id), value[field])


def require_fields(path: Path, field: str, id_field: str | None, columns: list[str]) -> None:
    """UserError where the text or the id is no column of the file, with the setting that names another."""
    for key, name in (("field", field), ("id", id_field)):
        try:
            require_columns(path, Fields(name), columns)
        except UserError as error:
            raise UserError(f"{error}; name it by {key}=") from error


def text_lines(path: Path) -> Iterator[tuple[int, str | Rejected]]:
    """Numbered lines as text."""
    for item in lines(path, MAX_LINE):
        if isinstance(item, Rejected):
            yield item.row, item
            continue
        try:
            yield item[0], item[1].decode()
        except UnicodeDecodeError:
            yield item[0], Rejected(Reason.INVALID_UTF8, item[0])


def read_txt(path: Path, field: str, id_field: str | None) -> Iterator[Text]:
    """Read one text a line; the line number is its id."""
    if id_field is not None:
        raise UserError(f"id={id_field}: a txt file has no ids; leave it out, the line number is the id")
    for row, line in text_lines(path):
        if isinstance(line, Rejected):
            yield Text(row, str(row), None, line.reason)
        else:
            yield Text(row, str(row), line.removesuffix("\n").removesuffix("\r"))


def read_jsonl(path: Path, field: str, id_field: str | None) -> Iterator[Text]:
    """Blank lines are no rows. The first object must have the fields; later ones that lack them have no text."""
    seen = False
    for row, line in text_lines(path):
        if isinstance(line, Rejected):
            yield Text(row, str(row), None, line.reason)
        elif not line.isspace():
            try:
                value = json_object(line)
            except ValueError:
                yield Text(row, str(row), None, Reason.NO_JSON_OBJECT)
                continue
            if not seen:
                require_fields(path, field, id_field, list(value))
            seen = True
            yield as_text(row, value, field, id_field)


def read_table(
    path: Path, field: str, id_field: str | None, delimiter: str = ",", quoting: str = "minimal"
) -> Iterator[Text]:
    """csv and tsv with a header."""
    check = partial(require_fields, path, field, id_field)
    for row in table_rows(path, header=True, delimiter=delimiter, quoting=quoting, check=check):
        if isinstance(row, Rejected):
            yield Text(row.row, str(row.row), None, row.reason)
        else:
            yield as_text(row[0], row[1], field, id_field)


def read_tsv(path: Path, field: str, id_field: str | None) -> Iterator[Text]:
    """A tsv file's quotes are found to be quoting or text, as for training pairs; those of a pipe are text."""
    quoting = find_quoting(path, "tsv")[0] if path.is_file() else "none"
    return read_table(path, field, id_field, "\t", quoting)


def read_parquet(path: Path, field: str, id_field: str | None) -> Iterator[Text]:
    """Read a column of a parquet file."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no parquet file: {str(error).splitlines()[0]}") from error
    require_fields(path, field, id_field, file.schema_arrow.names)
    row = 0
    try:
        for batch in file.iter_batches(batch_size=1024, columns=Fields(field, id_field).names):
            for value in decoded_rows(batch):
                row += 1
                unread = Text(row, str(row), None, Reason.INVALID_UTF8)
                yield unread if value is None else as_text(row, value, field, id_field)
    except (pa.ArrowException, OSError):
        yield Text(row + 1, str(row + 1), None, Reason.DAMAGED_FILE)


READERS = {
    "txt": read_txt,
    "jsonl": read_jsonl,
    "csv": read_table,
    "tsv": read_tsv,
    "parquet": read_parquet,
}
