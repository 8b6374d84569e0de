"""MEDI: texts of 330 tasks, each with an instruction before it."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import json_rows
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import changed
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Record


def read_medi(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """Rows of query, pos and neg, each [instruction, text] or a list of such; instructions are dropped (Appendix A)."""
    return changed(json_rows(path, max_row), fields, drop_instructions)


def drop_instructions(value: dict) -> dict:
    """The row with a text as its query, and lists of texts as pos and neg."""
    queries = texts(value.get("query"), "query")
    return {**value, "query": queries[0] if queries else None, **{n: texts(value.get(n), n) for n in ("pos", "neg")}}


def texts(value: object, name: str) -> list:
    """The texts of [instruction, text, ...] or of a list of these; none where there is nothing."""
    if not value:
        return []
    several = isinstance(value, list) and isinstance(value[0], list)
    instructed = value if several else [value]
    if not all(isinstance(part, list) and len(part) > 1 for part in instructed):
        raise Unfit(Reason.WRONG_TYPE.of(name))
    return [part[1] for part in instructed]
