"""HotpotQA: questions over paragraphs of which two are needed for the answer."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import json_rows
from gte.data.readers import MAX_LINE, paired
from gte.data.records import Fields, Record, Unfit


def read_hotpotqa(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """A pair of the question with each supporting paragraph; the other paragraphs of the context are its negatives."""
    return paired(json_rows(path, max_row), fields, split_context)


def split_context(value, fields: Fields) -> tuple:
    """(question, supporting paragraphs, others), each "title: sentences"."""
    try:
        wanted = {title for title, _ in value["supporting_facts"]}
        paragraphs = [(title, f"{title}: {''.join(sentences).strip()}") for title, sentences in value["context"]]
        question = value["question"]
    except (TypeError, ValueError, LookupError):
        raise Unfit("unknown shape of row") from None
    positives = [text for title, text in paragraphs if title in wanted]
    if not positives:
        raise Unfit("supporting paragraphs not in the context")
    return question, positives, [text for title, text in paragraphs if title not in wanted]
