"""A user's own csv and tsv files: what separates their cells, and whether their first line names the columns."""

import csv
import re
from itertools import islice
from pathlib import Path

from gte.data.columns import (
    IDENTITY,
    INSTRUCTIONS,
    KNOWN,
    NEGATIVE,
    SAMPLE,
    SCORES,
    Wanted,
    choose_columns,
    flat,
    normal,
)
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.records import Rejected
from gte.data.sources import Source
from gte.data.tables import table_rows
from gte.errors import UserError

DELIMITERS = ",\t;|"
LIKELY_NAME = re.compile(r"[^\W\d][\w.-]*( [\w.-]+){0,2}")  # a column's name: up to three words, no sentence's mark


def infer_table(path: Path, source: Source, wanted: Wanted) -> dict:
    """Fields and options of a csv or tsv file."""
    first = [
        item[1].decode(errors="replace") for item in islice(lines(path, MAX_LINE), 50) if isinstance(item[1], bytes)
    ]
    usual = "\t" if source.reader == "tsv" else ","
    delimiter = wanted.separator() or find_delimiter([line for line in first if line.strip()], usual)
    quoting = "none" if source.reader == "tsv" and delimiter == usual else "minimal"
    options = {} if delimiter == usual else {"delimiter": delimiter}
    if source.reader == "tsv" and options:
        options["quoting"] = quoting
    sample = table_rows(path, header=False, delimiter=delimiter, quoting=quoting)
    rows = [row[1] for row in islice(sample, SAMPLE) if not isinstance(row, Rejected)]
    if not rows or len(rows[0]) < 2:
        raise UserError(
            f"{path} has one column; a query and a document are needed; what separates its columns? "
            f"'{wanted.prefix}delimiter=\";\"'"
        )
    header = wanted.header
    if header is None:
        stated = [name for name in flat(wanted.of(source.name).values()) if not isinstance(name, dict)]
        header = any(isinstance(name, str) for name in stated) or (not stated and find_header(rows[0], rows[1:]))
    columns = [cell.strip() for cell in rows[0]] if header else list(range(len(rows[0])))
    as_dicts = [dict(zip(columns, row, strict=False)) for row in rows[header:]]
    try:
        chosen = choose_columns(path, source.name, columns, as_dicts, wanted)
    except UserError as error:
        if wanted.header is not None:
            raise
        other = "is a row" if header else "names them"
        raise UserError(f"{error}; {wanted.prefix}header={str(not header).lower()} if its first line {other}") from None
    if not header and wanted.header is None and could_be_names(rows[0]):
        chosen["columns"]["note"] = f"its first line is taken as a pair; {wanted.prefix}header=true if it is names"
    if "keep" in chosen:
        chosen["keep"] = {name: as_texts(values) for name, values in chosen["keep"].items()}
    return {**chosen, "options": {"header": bool(header), **options}}


def as_texts(values: object) -> list[str]:
    """The value or values that a cell must hold, as a table spells them."""
    return [str(value) for value in (values if isinstance(values, list) else [values])]


def find_header(first: list[str], others: list[list[str]]) -> bool:
    """Whether the first row of a table names its columns.

    It does where a name is known, or where all of its cells could be names and no other row's cells could.
    """
    names = [normal(cell) for cell in first]
    if any(map(known_name, names)):
        return could_be_names([cell for cell in first if not known_name(normal(cell))])
    if len(set(names)) != len(names):
        return False
    return bool(others) and could_be_names(first) and sum(map(could_be_names, others)) * 10 < len(others)


def could_be_names(cells: list[str]) -> bool:
    """Whether all cells of a row could be names of columns."""
    return all(LIKELY_NAME.fullmatch(cell.strip()) for cell in cells)


def known_name(name: str) -> bool:
    """Whether a column's name belongs to a known layout."""
    alone = name in KNOWN or name in SCORES or name in INSTRUCTIONS or NEGATIVE.fullmatch(name)
    return bool(name) and bool(alone or IDENTITY.fullmatch(name))


def find_delimiter(lines: list[str], usual: str) -> str:
    """The character that splits the first lines of a table alike; the usual one where several do, or none."""
    best, most = usual, 0.0
    csv.field_size_limit(max(csv.field_size_limit(), *map(len, lines), 1))  # a cell may be a file of code
    for delimiter in [usual, *DELIMITERS.replace(usual, "")]:
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:  # a carriage return within a line
            continue
        if not widths or widths[0] < 2:
            continue
        alike = sum(width == widths[0] for width in widths) / len(widths)
        if alike > most + 0.2:  # texts hold commas, too
            best, most = delimiter, alike
    return best
