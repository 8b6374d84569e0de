"""Web pages as JSON lines: CCNet's of Common Crawl, and ClueWeb22's."""

from collections.abc import Iterator
from pathlib import Path

from gte.data.cleaning import clean
from gte.data.readers import read_objects
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Record


def read_ccnet(path: Path, fields: Fields) -> Iterator[Record]:
    """Pages (url, title, raw_content, language, bucket, ...); raw_content without the title that it begins with."""
    return read_objects(path, fields, without_title)


def without_title(page: dict) -> dict:
    """The page without the title as the first line of its text."""
    title, text = page.get("title"), page.get("raw_content")
    if isinstance(title, str) and isinstance(text, str):
        first, _, rest = text.lstrip().partition("\n")
        text = rest if first.strip() == title.strip() else text
        check_page(title, text)
    return {**page, "raw_content": text}


def read_clueweb22(path: Path, fields: Fields) -> Iterator[Record]:
    """Pages (URL, Language, Clean-Text, ...) with a title, the first line of Clean-Text, and a body, those below it."""
    return read_objects(path, fields, split_title)


def split_title(page: dict) -> dict:
    """The page with title and body."""
    title, _, body = clean(page.get("Clean-Text"), "Clean-Text").partition("\n")
    check_page(title, body)
    return {**page, "title": title, "body": body}


def check_page(title: str, text: str) -> None:
    """Raises Unfit for a page without a title or a text: the web has many, they are no fault of the file."""
    for part, role in ((title, "title"), (text, "text")):
        if not part.strip():
            raise Unfit(Reason.INCOMPLETE_PAGE.of(role))
