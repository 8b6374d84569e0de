"""AnchorDR's extract of ClueWeb22: pages and the anchors that link to them."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gte.data.cleaning import clean
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import read_keyed
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Keyed, KeyedRow, Record, Rejected, records, text_hash

PAGE = -1  # order of a page among the anchors that link to it
FUNCTIONAL = frozenset([
    "about", "about us", "back", "click here", "comments", "contact", "contact us", "continue reading", "download",
    "edit", "here", "home", "homepage", "learn more", "link", "log in", "login", "more", "more info", "next",
    "permalink", "previous", "privacy policy", "read more", "register", "reply", "see more", "share", "sign in",
    "sign up", "source", "terms of use", "this", "top", "view", "view all", "website",
])  # fmt: skip


def read_anchors(
    path: Path, fields: Fields, *, language: str | None = None, max_anchors: int = 5
) -> Iterator[Keyed | Rejected]:
    """Pages (web_corpus.tsv) and anchors (anchor.tsv) by the hash of the page's URL; both are JSON lines.

    Left out: anchors without a text, of a page's header or footer, from the same site, of a few words that say what
    to do and not what the page is (FUNCTIONAL), and, where `language` is configured, from or to a page of another one.
    """

    def take(row: int, value: dict) -> Iterator[Keyed | Rejected]:
        if "anchors" not in value:
            page, text = (clean(value.get(name), name) for name in ("UrlHash", "Primary"))
            title = clean(value["Title"], "Title") if value.get("Title") else ""
            yield Keyed(page, PAGE, [title, text.removeprefix(title).strip()], row)
            return
        page, anchors = clean(value.get("urlhash"), "urlhash"), value["anchors"]
        if not isinstance(anchors, list):
            raise Unfit(Reason.WRONG_TYPE.of("anchors"))
        for anchor in anchors:
            try:
                text = anchor_text(value, anchor, language)
                yield Keyed(page, text_hash(text) >> 1, [text], row)
            except Unfit as unfit:
                yield Rejected(unfit.reason, row)

    return read_keyed(path, take, MAX_LINE)


def anchor_text(page: dict, anchor: object, language: str | None) -> str:
    """The text of one [url, hash, text, header or footer, language]. Raises Unfit where it is skipped."""
    if not (isinstance(anchor, list) and len(anchor) == 5 and all(isinstance(part, str) for part in anchor)):
        raise Unfit(Reason.WRONG_TYPE.of("anchor"))
    url, _, text, frame, spoken = anchor
    text = text.strip()
    if not text:
        raise Unfit(Reason.EMPTY_ANCHOR)
    if frame not in ("", "0"):
        raise Unfit(Reason.ANCHOR_AT_THE_EDGE)
    if language is not None and not spoken == page.get("language") == language:
        raise Unfit(Reason.ANCHOR_IN_ANOTHER_LANGUAGE)
    if site(url) == site(clean(page.get("url"), "url")):
        raise Unfit(Reason.ANCHOR_FROM_ITS_SITE)
    if text.lower().rstrip(".!:>» ") in FUNCTIONAL:
        raise Unfit(Reason.FUNCTIONAL_ANCHOR)
    return clean(text, "anchor")


def site(url: str) -> str:
    """The host of a URL without www. Raises Unfit where it is none."""
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:
        raise Unfit(Reason.MALFORMED_URL) from None


def join_anchors(
    rows: Iterator[KeyedRow], fields: Fields, *, language: str | None = None, max_anchors: int = 5
) -> Iterator[tuple[str, Record]]:
    """Each anchor with its page as a row of anchor, title, text and page (title and text), where the anchor stood.

    A page has the pairs of max_anchors different texts, those of the lowest hash.
    """
    page, texts = None, 0
    before = None
    for row in rows:
        if row.order == PAGE:
            if page is not None:
                yield row.file, Rejected(Reason.DUPLICATE_ID, row.row)
            page = page or row
            continue
        texts += row.values != before
        before = row.values
        if page is None:
            yield row.file, Rejected(Reason.NO_PAGE, row.row)
        elif texts > max_anchors:
            yield row.file, Rejected(Reason.MANY_ANCHORS.of(max_anchors), row.row)
        else:
            title, text = page.values
            value = {"anchor": row.values[0], "title": title, "text": text, "page": f"{title}\n{text}"}
            for record in records(value, fields, row.row):
                yield row.file, record
