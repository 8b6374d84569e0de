"""PubMed XML (.xml, .xml.gz): MEDLINE's baseline files, and what its efetch returns.

Not its update files: of an article that one revises or deletes, what stands in another file would stay.
The articles are cut out of the file and each is parsed by itself: a faulty one costs no other, memory is that of one,
and what a document type declares (entities that swell a million times, files to fetch) reaches none.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lxml import etree

from gte.data.formats.elements import parse_element
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Record, Rejected, records

TAG = re.compile(rb"<PubmedArticle[\s>]|</PubmedArticle\s*>|</PubmedArticleSet\s*>")
BRACKET = re.compile(r"[\[\]]")
NO_TITLE = ("not available", "in process citation", "title missing", "no title available")


def read_pubmed(path: Path, fields: Fields) -> Iterator[Record]:
    """Articles as rows of title and abstract; row is the position in the file, from 1.

    Title: without the brackets of a translated one. Abstract: its parts a line each, 'LABEL: text' where labelled.
    """
    for item in articles(path):
        if isinstance(item, Rejected):
            yield item
            continue
        row, xml = item
        try:
            value = texts(parse_element(xml))
        except Unfit as unfit:
            yield Rejected(unfit.reason, row)
        else:
            yield from records(value, fields, row)


def articles(path: Path) -> Iterator[tuple[int, bytes] | Rejected]:
    """(row, XML) of every article; a rejection for one that is cut, over-long or holds a line that is."""
    row, closed = 0, False
    held, size, fault = None, 0, ""
    for item in lines(path, MAX_LINE):
        if isinstance(item, Rejected):
            closed = item.reason is Reason.DAMAGED_ARCHIVE
            if held is None or closed:
                yield Rejected(item.reason, row)
                held = None
            fault = item.reason
            continue
        line, start = item[1], 0
        for tag in TAG.finditer(line):
            if tag[0].startswith(b"</PubmedArticleSet"):
                closed = True
            elif tag[0].startswith(b"</"):
                if held is None:
                    yield Rejected(Reason.MALFORMED_XML, row)
                    continue
                xml = b"".join([*held, line[start : tag.end()]])
                yield Rejected(fault, row) if fault else (row, xml)
                held = None
            else:
                if held is not None:
                    yield Rejected(fault or Reason.TRUNCATED_RECORD, row)
                row, start = row + 1, tag.start()
                held, size, fault = [], 0, ""
        if held is not None and not fault:
            held.append(line[start:])
            size += len(held[-1])
            if size > MAX_LINE:
                held, fault = [], Reason.LONG_RECORD.of(MAX_LINE)
    if held is not None:
        yield Rejected(fault or Reason.TRUNCATED_RECORD, row)
    elif not closed or not row:
        yield Rejected(Reason.TRUNCATED_FILE if row else Reason.NO_ARTICLE, row)


def texts(article: etree._Element) -> dict:
    """Title and abstract of an article. Raises Unfit where it has none."""
    title = without_brackets(text_of(article.find(".//ArticleTitle")))
    if not title or title.rstrip(".").lower() in NO_TITLE:
        raise Unfit(Reason.NO_TITLE)
    parts = []
    for part in article.iterfind(".//Article/Abstract/AbstractText"):
        label, text = part.get("Label"), text_of(part)
        if text:
            parts.append(f"{label}: {text}" if label else text)
    if not parts:
        raise Unfit(Reason.NO_ABSTRACT)
    return {"title": title, "abstract": "\n".join(parts)}


def without_brackets(title: str) -> str:
    """A title without the brackets of a translated one: the first of it, and the last where that closes the first."""
    inner, depth = title.removesuffix("."), 0
    if not inner.startswith("["):  # as most
        return title
    for bracket in BRACKET.finditer(inner):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return inner[1:-1].strip() if bracket.end() == len(inner) else title
    return title


def text_of(element: etree._Element | None) -> str:
    """The text of an element and of those in it, white space folded."""
    return "" if element is None else " ".join("".join(element.itertext()).split())
