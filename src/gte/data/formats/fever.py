"""FEVER: claims, and the Wikipedia pages of June 2017 that support or refute them."""

import re
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.cleaning import clean
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import read_keyed
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Keyed, KeyedRow, Record, Rejected, records

PAGE, CLAIM = 0, 1  # order of the rows of a page
LONGEST_ID = 1_000  # Wikipedia's end at 255 bytes; the time of the normalization grows with the square of the length
BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", "-COLON-": ":"}


def read_fever(path: Path | zipfile.Path, fields: Fields, *, max_line: int = MAX_LINE) -> Iterator[Keyed | Rejected]:
    """Claims (train.jsonl) by each page of their evidence, and pages (wiki-pages/wiki-*.jsonl) by their id."""
    return read_keyed(path, take_claim_or_page, max_line)


def take_claim_or_page(row: int, value: dict) -> Iterator[Keyed]:
    """A claim by each of its pages, or a page by its id."""
    if "claim" in value:
        claim = clean(value["claim"], "query")
        for page in supporting_pages(value):
            yield Keyed(page, CLAIM, [claim], row)
        return
    if value.get("id") == value.get("text") == "":  # each file of pages begins with such a row
        raise Unfit(Reason.EMPTY_PAGE)
    if not isinstance(value.get("text"), str):
        raise Unfit(Reason.WRONG_TYPE.of("document"))
    yield Keyed(page_key(value.get("id")), PAGE, [value["text"]], row)


def supporting_pages(value: dict) -> list[str]:
    """The different pages of a claim's evidence. Raises Unfit for a claim that is not supported."""
    if value.get("label") in ("REFUTES", "NOT ENOUGH INFO"):
        raise Unfit(Reason.FIELD_IS.of("label", value["label"]))
    if value.get("label") != "SUPPORTS":
        raise Unfit(Reason.UNKNOWN_LABEL)
    try:
        pages = dict.fromkeys(page for evidence in value["evidence"] for _, _, page, _ in evidence)
    except (TypeError, ValueError, LookupError):
        raise Unfit(Reason.UNKNOWN_EVIDENCE) from None
    if not pages:
        raise Unfit(Reason.MISSING.of("document"))
    return [page_key(page) for page in pages]


def page_key(identity: object) -> str:
    """A page's id in one spelling of its accents: claims and pages differ in that."""
    identity = clean(identity, "id")
    if len(identity) > LONGEST_ID:
        raise Unfit(Reason.LONG_ID.of(LONGEST_ID))
    return unicodedata.normalize("NFC", identity)


def spelt(text: str) -> str:
    """A text of FEVER with its brackets and colons as they are written."""
    return re.sub("-(?:[LR][RSC]B|COLON)-", lambda code: BRACKETS[code.group()], text)


def join_fever(rows: Iterator[KeyedRow], fields: Fields) -> Iterator[tuple[str, Record]]:
    """Each claim with its page as a row of claim, title, text and page ("title: text"), where the claim stood."""
    page = None
    for row in rows:
        if row.order == PAGE:
            if page is not None:
                yield row.file, Rejected(Reason.DUPLICATE_ID, row.row)
            page = page or row
        elif page is None:
            yield row.file, Rejected(Reason.NO_PAGE, row.row)
        else:
            title, text = spelt(page.key).replace("_", " "), spelt(page.values[0]).strip()
            value = {"claim": row.values[0], "title": title, "text": text, "page": text and f"{title}: {text}"}
            for record in records(value, fields, row.row):
                yield row.file, record
