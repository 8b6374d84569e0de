"""Stack Exchange dumps: Posts.xml, a <row> a line with its texts as attributes, bodies in HTML.

Every line is parsed by itself: a faulty one costs no other, and no entity declared elsewhere reaches it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lxml import etree

from gte.data.cleaning import clean, whole_number
from gte.data.formats.elements import parse_element
from gte.data.formats.html import plain_text
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.reasons import ENDS, Reason, Unfit
from gte.data.records import Fields, Keyed, KeyedRow, Record, Rejected, records
from gte.errors import UserError

QUESTION, ANSWER = "1", "2"  # PostTypeId; further ones are wiki pages of tags and the like
FIRST = -(2**62)  # order of a question among its answers, which stand by falling score
FRAME = re.compile(rb"<\?xml[^>]*\?>|<posts>|")  # lines around the rows


def read_questions(path: Path, fields: Fields, *, min_score: int | None = None) -> Iterator[Record]:
    """Questions as rows of title, body and title_body. min_score: skips those below."""
    for item in posts(path):
        if isinstance(item, Rejected):
            yield item
            continue
        row, post = item
        try:
            if post.get("PostTypeId") != QUESTION:
                raise Unfit(Reason.OTHER_POST)
            check_score(whole_number(post.get("Score"), "score"), min_score)
            texts = question(post.get("Title"), post.get("Body"))
        except Unfit as unfit:
            yield Rejected(unfit.reason, row)
        else:
            yield from records(texts, fields, row)


def read_answers(
    path: Path, fields: Fields, *, min_score: int | None = None, prefer: str = "score"
) -> Iterator[Keyed | Rejected]:
    """Questions and answers by the question's id; `join_answers` says what min_score and prefer do."""
    if prefer not in ("score", "accepted"):
        raise UserError(f"the option prefer of stackexchange_answers is '{prefer}'; known: score, accepted")
    for item in posts(path):
        if isinstance(item, Rejected):
            yield item
            continue
        row, post = item
        kind, body = post.get("PostTypeId"), post.get("Body") or ""
        try:
            identity = clean(post.get("Id"), "id")
            if kind == QUESTION:
                values = [post.get("Title") or "", body, post.get("AcceptedAnswerId") or ""]
                yield Keyed(f"{path} {identity}", FIRST, values, row)
            elif kind == ANSWER:
                points = whole_number(post.get("Score"), "score")
                yield Keyed(f"{path} {clean(post.get('ParentId'), 'ParentId')}", -points, [body, identity], row)
            else:
                raise Unfit(Reason.OTHER_KIND)
        except Unfit as unfit:
            yield Rejected(unfit.reason, row)


def join_answers(
    rows: Iterator[KeyedRow], fields: Fields, *, min_score: int | None = None, prefer: str = "score"
) -> Iterator[tuple[str, Record]]:
    """A question with one answer as a row of title, body, title_body and answer, where the question stood.

    The answer is that of the highest score, the first of equals, or with prefer=accepted the accepted one where there
    is one. min_score: skips questions of which the chosen answer scores below.
    """
    rows = list(rows)
    questions, answers = ([row for row in rows if (row.order == FIRST) is first] for first in (True, False))
    for row in questions[1:]:
        yield row.file, Rejected(Reason.DUPLICATE_ID, row.row)
    if not questions:
        for row in answers:
            yield row.file, Rejected(Reason.NO_QUESTION, row.row)
        return
    asked, (title, body, accepted) = questions[0], questions[0].values
    chosen = next((row for row in answers if prefer == "accepted" and row.values[1] == accepted), None)
    chosen = chosen or (answers[0] if answers else None)
    try:
        if chosen is None:
            raise Unfit(Reason.UNANSWERED)
        check_score(-chosen.order, min_score)
        value = {**question(title, body), "answer": plain_text(chosen.values[0])}
    except Unfit as unfit:
        chosen = None
        yield asked.file, Rejected(unfit.reason, asked.row)
    else:
        for record in records(value, fields, asked.row):
            yield asked.file, record
    for row in answers:
        if row is not chosen:
            yield row.file, Rejected(Reason.ANSWER_NOT_CHOSEN, row.row)


def question(title: str | None, body: str | None) -> dict:
    """A question's texts by name. Raises Unfit as `plain_text`."""
    text = plain_text(body or "")
    return {"title": title, "body": text, "title_body": f"{title or ''}\n{text}"}


def check_score(points: int, least: int | None) -> None:
    """Raises Unfit for a score that its source skips."""
    if least is not None and points < least:
        raise Unfit(Reason.LOW_SCORE.of(least))


def posts(path: Path) -> Iterator[tuple[int, etree._Element] | Rejected]:
    """(number, element) of every <row>; a rejection for any other line but those around the rows."""
    number, closed = 0, False
    for item in lines(path, MAX_LINE):
        if isinstance(item, Rejected):
            yield item
            number, closed = item.row, item.reason in ENDS
            continue
        number, line = item[0], item[1].strip()
        if line == b"</posts>":
            closed = True
        elif line.startswith(b"<row"):
            try:
                yield number, parse_element(line)  # a dict of many attributes would take the square of their number
            except Unfit as unfit:
                yield Rejected(unfit.reason, number)
        elif not FRAME.fullmatch(line):
            yield Rejected(Reason.MALFORMED_XML, number)
    if not closed:
        yield Rejected(Reason.TRUNCATED_FILE, number)
