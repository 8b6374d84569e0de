"""A user's own csv and tsv files: what separates their cells, and whether their first line names the columns."""

import csv
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gte.data.columns import (
    FIND_OUT,
    IDENTITY,
    INSTRUCTIONS,
    KNOWN,
    NEGATIVE,
    QUOTING,
    SAMPLE,
    SCORES,
    Wanted,
    choose_columns,
    flat,
    is_number,
    normal,
    score_columns,
)
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.records import Rejected
from gte.data.samples import later_lines
from gte.data.sources import Source
from gte.data.tables import table_rows
from gte.errors import UserError

DOUBT = 20  # times as many rows of one kind leave no doubt
DELIMITERS = ",\t;|"
LIKELY_NAME = re.compile(r"[^\W\d][\w.-]*( [\w.-]+){0,2}")  # a column's name: up to three words, no sentence's mark


def infer_table(path: Path, source: Source, wanted: Wanted) -> dict:
    """Fields and options of a csv or tsv file."""
    first = [
        item[1].decode(errors="replace") for item in islice(lines(path, MAX_LINE), 50) if isinstance(item[1], bytes)
    ]
    usual = "\t" if source.reader == "tsv" else ","
    delimiter = wanted.separator() or find_delimiter([line for line in first if line.strip()], usual)
    quoting, doubt = find_quoting(path, source.reader, delimiter, wanted)
    options = {} if delimiter == usual else {"delimiter": delimiter}
    if quoting != ("none" if source.reader == "tsv" else "minimal"):
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
    if not any("\n" in cell for row in rows for cell in row):  # or a line may be a part of a row
        as_dicts += later_scores(path, columns, delimiter, quoting)
    try:
        chosen = choose_columns(path, source.name, columns, as_dicts, wanted)
    except UserError as error:
        if wanted.header is not None:
            raise
        other = "is a row" if header else "names them"
        raise UserError(f"{error}; {wanted.prefix}header={str(not header).lower()} if its first line {other}") from None
    notes = [doubt] if doubt else []
    if not header and wanted.header is None:
        setting = f"{wanted.prefix}header"
        notes.append(f"its first line is taken as a pair; {setting}=true if it is names, {setting}=false if it is not")
    if notes:
        chosen["columns"]["notes"] = notes
    if "keep" in chosen:
        chosen["keep"] = {name: as_texts(values) for name, values in chosen["keep"].items()}
    return {**chosen, "options": {"header": bool(header), **options}}


def later_scores(path: Path, columns: list, delimiter: str, quoting: str) -> list[dict]:
    """The scores and labels of some rows behind the first ones, as rows with nothing else."""
    names = score_columns(columns)
    if not names:
        return []
    strict = {"strict": True} if quoting == "minimal" else {"quoting": csv.QUOTE_NONE}
    found = []
    for line in (line for place in later_lines(path) for line in place):
        try:
            cells = next(csv.reader([line.decode(errors="replace")], delimiter=delimiter, **strict), [])
        except csv.Error:
            continue
        if len(cells) == len(columns):
            found.append({name: cells[columns.index(name)] for name in names})
    return found


def find_quoting(path: Path, format: str, delimiter: str = "\t", wanted: Wanted = FIND_OUT) -> tuple[str, str | None]:
    """Find out whether the cells of a table are quoted as RFC 4180 has it, "minimal", or their quotes are text, "none".

    A csv file's are quoted. Between tabs quotes are text, as MS MARCO has it, unless more rows need their quotes, as
    pandas and Excel write them, than hold one that RFC 4180 does not allow there.

    Returns: the quoting, and a line for the user where rows of both kinds are there.
    """
    if wanted.quoting or format != "tsv" or delimiter != "\t":
        return wanted.quoting or "minimal", None
    first = [item[1] for item in islice(lines(path, MAX_LINE), SAMPLE) if isinstance(item[1], bytes)]
    seen = count_quotes([line.decode(errors="replace") for line in first], delimiter)
    needed, stray = seen.needed, seen.stray
    if seen.quoted and not stray:
        return "minimal", None
    if not needed and not stray:
        for found in later_lines(path):
            later = count_quotes([line.decode(errors="replace") for line in found], delimiter, seen.width)
            needed += later.needed
            stray += max(0, later.stray - 1)  # the place may begin within a cell
    quoting = "minimal" if needed > stray else "none"
    if DOUBT * min(needed, stray) < max(needed, stray, 1):
        return quoting, None
    other = QUOTING[quoting == "minimal"]
    return quoting, (
        f"{needed:,} of the rows looked at are quoted as RFC 4180 has it, {stray:,} hold quotes that are not; they are "
        f"read as {wanted.prefix}quoting={quoting}, {other} is the other way"
    )


class Quotes(NamedTuple):
    """The quotes in some lines of a table.

    width: cells of its first row. needed: rows with a cell that holds a quote, a delimiter or a line end and is quoted
    for it. stray: lines with a quote that RFC 4180 does not allow. quoted: whether nearly all rows have all of their
    texts in quotes.
    """

    width: int
    needed: int
    stray: int
    quoted: bool


def count_quotes(lines: list[str], delimiter: str, width: int = 0) -> Quotes:
    """Count the rows with RFC 4180's quotes, and the lines with other ones; `width` 0 is that of the first row."""
    mark = re.escape(delimiter)
    cell = rf'"(?:[^"]|"")*"|[^"{mark}\r\n]*'
    whole, each = re.compile(rf"(?:{cell})(?:{mark}(?:{cell}))*"), re.compile(rf"(?:^|{mark})({cell})")
    needed = stray = quoted = rows = place = 0
    while place < len(lines):
        end, quotes = place + 1, lines[place].count('"')
        while quotes % 2 and end < len(lines):
            quotes += lines[end].count('"')
            end += 1
        held = lines[place:end]
        text = "".join(held).rstrip("\r\n")
        cells = each.findall(text) if whole.fullmatch(text) else []
        width = width or len(cells) or text.count(delimiter) + 1
        as_lines = len(held) > 1 < width and all(line.count(delimiter) + 1 == width for line in held)
        rows += 1
        if len(cells) != width or as_lines:
            stray += '"' in lines[place]
            place += 1
            continue
        within = [one[1:-1] for one in cells if one.startswith('"')]
        needed += any('""' in one or delimiter in one or "\n" in one for one in within)
        quoted += bool(within) and all(one.startswith('"') or is_number(one or "0") for one in cells)
        place = end
    return Quotes(width, needed, stray, quoted * 10 > rows * 9)


def as_texts(values: object) -> list[str]:
    """The value or values that a cell must hold, as a table spells them."""
    return [str(value) for value in (values if isinstance(values, list) else [values]) if value is not None]


def find_header(first: list[str], others: list[list[str]]) -> bool:
    """Whether the first row of a table names its columns.

    It does where two names are of layouts, where one is known and the others could be names, or where all of its cells
    could be names and no other row's cells could. A column without a name, as of pandas' index, says nothing.
    """
    first = [cell for cell in first if cell.strip()]
    names = [normal(cell) for cell in first]
    if sum(name in KNOWN for name in names) > 1:
        return True
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
