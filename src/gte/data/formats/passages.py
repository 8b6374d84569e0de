"""Questions with passages: DPR's and HLP's JSON array or lines, and Tevatron's lines."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import json_rows
from gte.data.readers import MAX_LINE, paired
from gte.data.records import Fields, Record, Unfit, pick


def read_passages(
    path: Path | zipfile.Path, fields: Fields, *, positives: int | None = None, max_row: int = MAX_LINE
) -> Iterator[Record]:
    """A pair of the question with each of its first `positives` positive passages, all of them by default.

    fields: where question, positive and negative passages stand; a passage is an object of title and text.
    """

    def split(value, fields: Fields) -> tuple:
        if not isinstance(value, dict):
            raise Unfit("unknown shape of row")
        documents = texts(value.get(fields.document), "document")
        negatives = None if fields.negatives is None else texts(value.get(fields.negatives), "negatives")
        return value.get(fields.query), documents[:positives], negatives

    return paired(json_rows(path, max_row), fields, split)


def texts(passages, role: str) -> list:
    """A list of passages as "title: text" each. Raises Unfit where it is none."""
    if not isinstance(passages, list | None) or not all(isinstance(passage, dict) for passage in passages or []):
        raise Unfit(f"wrong type of {role}")
    return [passage.get("text") and pick(passage, ["title", "text"]) for passage in passages or []]
