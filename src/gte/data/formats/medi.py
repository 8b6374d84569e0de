"""MEDI: texts of 330 tasks, each with an instruction before it."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import json_rows
from gte.data.readers import MAX_LINE, paired
from gte.data.records import Fields, Record, Unfit


def read_medi(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """Rows of query, pos and neg, each [instruction, text] or a list of such; the instructions are dropped."""
    return paired(json_rows(path, max_row), fields, split_instructed)


def split_instructed(value, fields: Fields) -> tuple:
    """(query, positives, negatives) without their instructions."""
    if not isinstance(value, dict):
        raise Unfit("unknown shape of row")
    queries, positives, negatives = (texts(value.get(name), role) for name, role in ROLES.items())
    return queries[0] if queries else None, positives, negatives


ROLES = {"query": "query", "pos": "document", "neg": "negatives"}


def texts(value, role: str) -> list:
    """The texts of [instruction, text, ...] or of a list of these; none where there is nothing."""
    instructed = value if value and isinstance(value, list) and isinstance(value[0], list) else [value] if value else []
    if not all(isinstance(part, list) and len(part) > 1 for part in instructed):
        raise Unfit(f"wrong type of {role}")
    return [part[1] for part in instructed]
