"""SQuAD as it is published, and what is made like it: articles of paragraphs, each with its questions."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.formats.arrays import Window, head
from gte.data.raw_lines import MAX_LINE, Unreadable, open_raw
from gte.data.readers import paired
from gte.data.reasons import Reason
from gte.data.records import Fields, Record, Rejected
from gte.data.tables import Row

VALUE = r'("[^"]*"|[\w.+-]+)'
NESTED = re.compile(
    rf'\s*\{{\s*("\w+"\s*:\s*{VALUE}\s*,\s*)*"data"\s*:\s*\[\s*\{{.*?(?<!\\)"paragraphs"\s*:\s*\[', re.DOTALL
)
PARAGRAPHS = re.compile(r'(?<!\\)"paragraphs"\s*:\s*\[')
LONGEST_NAME = 100  # characters of a match of it, and more


def is_squad(path: Path | zipfile.Path) -> bool:
    """Whether a .json file is {"data": [{"paragraphs": [...]}]}, told by its first 4 KiB."""
    return NESTED.match(head(path)) is not None


def read_squad(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """A record a question, whose document is its paragraph by the usual `fields`; rows are questions, from 1.

    A paragraph that cannot be read is one rejection.
    """
    return paired(question_rows(path, max_row), fields)


def question_rows(path: Path | zipfile.Path, max_paragraph: int) -> Iterator[Row | Rejected]:
    """(number, the question's own fields and its paragraph as `context`) of every question."""
    number = 0
    try:
        with open_raw(path) as stream:
            window = Window(stream, max_paragraph)
            window.last = {"context": "", "qas": []}
            while window.find(PARAGRAPHS, LONGEST_NAME):
                for item in window.items():
                    for row in [item] if isinstance(item, Rejected) else questions(item[1]):
                        number += 1
                        yield Rejected(row.reason, number) if isinstance(row, Rejected) else (number, row)
                if not window.closed:
                    break
            else:
                window.closed = window.text.rstrip().endswith("}")
            yield from window.cut(number)
    except Unreadable as fault:
        yield Rejected(fault.reason, number)


def questions(paragraph: object) -> Iterator[dict | Rejected]:
    """The questions of a paragraph as flat objects."""
    asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
    if not isinstance(asked, list):
        yield Rejected(Reason.UNKNOWN_SHAPE, 0)
        return
    for question in asked:
        if isinstance(question, dict):
            yield {**question, "context": paragraph.get("context")}
        else:
            yield Rejected(Reason.UNKNOWN_SHAPE, 0)
