"""HotpotQA: questions over paragraphs of which two are needed for the answer."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import json_rows
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import changed, parquet_rows
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Record, Rejected
from gte.data.tables import Row


def read_hotpotqa(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """Rows with the paragraphs of their context ("title: sentences") in two lists, supporting and others.

    path: the JSON array of its makers, or a parquet file of the hub's copy, where context is a list of titles and one
    of sentences.
    """
    rows = copied_rows(path) if path.name.endswith(".parquet") else json_rows(path, max_row)
    return changed(rows, fields, divide_context)


def copied_rows(path: Path | zipfile.Path) -> Iterator[Row | Rejected]:
    """(position, row) of the hub's copy, spelt as in the JSON array."""
    for row in parquet_rows(path):
        yield row if isinstance(row, Rejected) else (row[0], spelt_as_lists(row[1]))


def spelt_as_lists(value: dict) -> dict:
    """A row whose columns hold the items of the lists of the JSON array, with these lists."""
    for name, parts in (("supporting_facts", ("title", "sent_id")), ("context", ("title", "sentences"))):
        if isinstance(held := value.get(name), dict):
            value[name] = list(zip(*(held.get(part) or [] for part in parts), strict=False))
    return value


def divide_context(value: dict) -> dict:
    """The row with the lists supporting and others; a paragraph without sentences is in neither."""
    try:
        wanted = {title for title, _ in value["supporting_facts"]}
        texts = [(title, "".join(sentences).strip()) for title, sentences in value["context"]]
        paragraphs = [(title, title + ": " + text) for title, text in texts if text]
    except (TypeError, ValueError, LookupError):
        raise Unfit(Reason.UNKNOWN_SHAPE) from None
    supporting = [text for title, text in paragraphs if title in wanted]
    if not supporting:
        raise Unfit(Reason.NO_CONTEXT)
    return {**value, "supporting": supporting, "others": [text for title, text in paragraphs if title not in wanted]}
