"""Rows of a user's file to look at: the first ones and some from everywhere, as files are sorted by label or origin."""

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gte.data.columns import SAMPLE
from gte.data.raw_lines import KINDS, MAX_LINE, Unreadable, lines, open_raw
from gte.data.readers import decoded_rows
from gte.data.records import Rejected
from gte.errors import UserError, first_line

PLACES, THERE = 32, 32  # places of a file, behind its first rows, and rows at each of them
THERE_UNPACKED = 4  # rows at each place of an archive, whose size is not known
APART, APART_MOST = 2**11, 2**15  # bytes between these places, the more the more lies before them
UNPACKED = 2**28  # bytes of an archive that are looked through, a second's work
ITEMS = 50_000  # of an array that are looked through
LONG = 2**20  # bytes of lines behind which no other line is read at a place


def later_lines(path: Path) -> Iterator[list[bytes]]:
    """Lines behind the first SAMPLE of a text file, place by place: of a plain file in as many seeks, up to its end.

    An archive is unpacked for them, up to UNPACKED bytes; an empty place says that there is more.
    """
    try:
        with open_raw(path) as stream:
            for _ in range(SAMPLE):
                stream.readline(MAX_LINE)
            if path.suffix in KINDS:
                held = 0
                while found := next_lines(stream, THERE_UNPACKED):
                    yield found if held < UNPACKED else []
                    if held >= UNPACKED:
                        return
                    held += sum(map(len, found)) + len(stream.read(apart(held))) + len(stream.readline(MAX_LINE))
                return
            start, size = stream.tell(), path.stat().st_size
            for place in range(PLACES):
                at = start + (size - start) * place // PLACES
                if at > stream.tell():
                    stream.seek(at)
                    stream.readline(MAX_LINE)  # the rest of one
                if found := next_lines(stream, THERE):
                    yield found
    except Unreadable:  # as reading will say
        return


def apart(held: int) -> int:
    """Bytes between places of an archive behind so many."""
    return min(APART_MOST, max(APART, held // 64))


def next_lines(stream: io.BufferedIOBase, count: int) -> list[bytes]:
    """The next lines of a stream, `count` at most."""
    found, held = [], 0
    while len(found) < count and held < LONG and (line := stream.readline(MAX_LINE)):
        found.append(line)
        held += len(line)
    return found


def json_sample(path: Path, format: str) -> tuple[list, list, str | None]:
    """The values of the first rows of a file, and of some of the others, only objects and lists.

    The third says, for the user, behind what part of the file no row was looked at; None where there is no such row.
    """
    from gte.data.formats.arrays import starts_array

    values = json_values(path, format)
    first = list(islice(values, SAMPLE))
    if format == "json" and starts_array(path):
        later = list(islice(values, 0, ITEMS, 16))
        unseen = f"{SAMPLE + ITEMS:,} items" if next(values, None) is not None else None
    else:
        places = list(later_lines(path)) if format != "squad" else []
        later = [json_value(line) for found in places for line in found]
        unseen = f"{UNPACKED // 2**20:,} MiB" if [] in places else None
    first, later = ([value for value in part if isinstance(value, dict | list)] for part in (first, later))
    return first, later, unseen


def json_values(path: Path, format: str) -> Iterator:
    """The values of a file's rows, None for one that is no JSON."""
    if format in ("json", "squad"):
        from gte.data.formats.arrays import json_rows
        from gte.data.formats.squad import question_rows

        read = {"json": json_rows, "squad": question_rows}[format]
        yield from (None if isinstance(row, Rejected) else row[1] for row in read(path, MAX_LINE))
        return
    yield from (None if isinstance(item, Rejected) else json_value(item[1]) for item in lines(path, MAX_LINE))


def json_value(line: bytes) -> object:
    """The value of a line, None for one that is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def parquet_sample(path: Path) -> tuple[list[str], list[dict]]:
    """The columns of a parquet file and its first rows. Raises UserError where it is none."""
    try:
        file = pq.ParquetFile(path)
        batch = next(file.iter_batches(batch_size=SAMPLE), None)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no parquet file: {first_line(error)}") from error
    rows = [] if batch is None else [row for row in decoded_rows(batch) if row is not None]
    return file.schema_arrow.names, rows


def parquet_values(path: Path, name: str) -> list:
    """The distinct values of a column of a parquet file, up to the rows where a third is found, or damage."""
    found: list = []
    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=[name]):
            found += [value for value in pc.unique(batch.column(0)).to_pylist() if value not in found]
            if len(found) > 2:
                break
    except (OSError, pa.ArrowException):  # nested types have no unique; damage is said by reading
        pass
    return found
