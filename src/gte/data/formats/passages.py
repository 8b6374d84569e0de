"""Questions with passages: DPR's and HLP's JSON array or lines, and Tevatron's lines."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import json_rows
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import changed
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Record, pick


def read_passages(
    path: Path | zipfile.Path, fields: Fields, *, positives: int | None = None, max_row: int = MAX_LINE
) -> Iterator[Record]:
    """Rows whose document and negatives are lists of passages (title, text), each spelt out as "title: text".

    positives: how many positive passages of a question give a pair, the first ones; all of them by default. A question
    without any is skipped.
    """

    def spell_out(value: dict) -> dict:
        passages = {name: texts(value.get(name), name) for name in (fields.document, fields.negatives) if name}
        if value.get(fields.document) == []:
            raise Unfit(Reason.NO_POSITIVE)
        return {**value, **passages, fields.document: passages[fields.document][:positives]}

    return changed(json_rows(path, max_row), fields, spell_out)


def texts(passages: object, name: str) -> list:
    """The texts of a list of passages; null and one without a text have none. Raises Unfit where it is no such list."""
    if not isinstance(passages, list | None) or not all(isinstance(passage, dict | None) for passage in passages or []):
        raise Unfit(Reason.WRONG_TYPE.of(name))
    return [pick(one, ["title", "text"]) if one and one.get("text") else "" for one in passages or []]
