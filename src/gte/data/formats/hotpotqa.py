"""HotpotQA: questions over paragraphs of which two are needed for the answer."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import json_rows
from gte.data.readers import MAX_LINE, changed
from gte.data.records import Fields, Record, Unfit


def read_hotpotqa(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """Rows with the paragraphs of their context ("title: sentences") in two lists, supporting and others."""
    return changed(json_rows(path, max_row), fields, divide_context)


def divide_context(value: dict) -> dict:
    """The row with the lists supporting and others."""
    try:
        wanted = {title for title, _ in value["supporting_facts"]}
        paragraphs = [(title, title + ": " + "".join(sentences).strip()) for title, sentences in value["context"]]
    except (TypeError, ValueError, LookupError):
        raise Unfit("unknown shape of row") from None
    supporting = [text for title, text in paragraphs if title in wanted]
    if not supporting:
        raise Unfit("supporting paragraphs not in the context")
    return {**value, "supporting": supporting, "others": [text for title, text in paragraphs if title not in wanted]}
