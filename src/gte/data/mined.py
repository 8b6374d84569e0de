"""The negatives that `mine` found for a user's pairs, read beside them."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.cleaning import without_own
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.reasons import Reason
from gte.data.records import Pair, Record, Rejected, Triple
from gte.errors import UserError
from gte.files import read_json

INDEX = ".mined.json"  # hidden: the folder may be one of pairs
BEYOND = "without mined negatives: beyond the rows= of mine.py"  # a pair's way


def with_mined(found: Iterator[Record], file: Path, raw: Path | zipfile.Path) -> Iterator[Record]:
    """Put the negatives that `mine` found for the records of a file beside their own.

    Args:
        found: the records, in the order in which they were mined.
        file: the mined negatives, a jsonl.gz; of the first pairs alone where no more were asked for: the others are
            counted by their way, BEYOND.
        raw: the file of the records.
    Returns: an iterator of the records.
    Raises: UserError where these were mined for other rows, and for a file that is damaged or shorter than it was
        written.
    """
    again = f"mine them again: python src/mine.py in={raw}, or leave them out: data.mined=null"
    rows, facts, mined = mined_rows(file, again), mined_facts(file), 0
    for record in found:
        if isinstance(record, Rejected):
            yield record
            continue
        row = next(rows, None)
        if row is None:
            if "limit" in facts and (facts["limit"] is None or mined < facts["limit"]):
                raise UserError(
                    f"{file} has the negatives of other rows than {raw}: of its first {mined:,} pairs, which were all "
                    f"when they were mined, and row {record.row} is another; {again}"
                )
            yield record._replace(way=BEYOND)
            continue
        mined += 1
        if (row["query"], row["pos"]) != record[:2]:
            raise UserError(f"{file} has the negatives of other rows than {raw}, from row {record.row} on; {again}")
        own = record.negatives if isinstance(record, Triple) else []
        others = without_own(row["neg"], record[:2])
        texts = list(dict.fromkeys([*own, *others]))
        dropped = record.dropped + (Reason.OWN_TEXT,) * (len(row["neg"]) - len(others))
        kind = Triple(*record[:2], texts) if texts else Pair(*record[:2])
        yield kind._replace(row=record.row, answers=record.answers, way=record.way, dropped=dropped)
    if next(rows, None) is not None:
        raise UserError(f"{file} has the negatives of more rows than {raw} has; {again}")


def mined_rows(file: Path, again: str) -> Iterator[dict]:
    """The {"query", "pos", "neg"} rows of a file of mined negatives; `again` ends the line of the UserErrors."""
    number = 0
    for item in lines(file, MAX_LINE):
        if isinstance(item, Rejected):
            raise UserError(f"{file} cannot be read after line {number}: {item.reason}; {again}")
        number, line = item
        try:
            row = json.loads(line)
            yield {key: row[key] for key in ("query", "pos", "neg")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} has no mined negatives on line {number}; {again}") from error
    facts = mined_facts(file)
    if facts.get("rows", number) != number:
        raise UserError(f"{file} has {number:,} rows, {facts['rows']:,} were mined; {again}")


def mined_facts(file: Path) -> dict:
    """Read what `mine` noted of a file of mined negatives: whose ("file"), what ranked ("by"), how many "rows" it
    has, and the "limit" that was asked for, None where there was none; empty where it noted nothing."""
    index = file.parent / INDEX
    return read_json(index).get(file.name.removesuffix(".jsonl.gz"), {}) if index.exists() else {}
