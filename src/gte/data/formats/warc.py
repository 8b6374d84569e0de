"""WARC files: Common Crawl's WARC and WET, CC-News, ClueWeb09 and ClueWeb12.

We cut the records out ourselves and give FastWARC one at a time. Their lengths cannot be trusted (ClueWeb09 gives
wrong ones), and FastWARC 2.0.1 believes them: it loses the record after one whose length is too great, and passes over
what is no WARC at all, in both cases without a word.

Nor can their HTTP headers: CC-NEWS before May 2019 and Common Crawl before August 2018 keep a page as it was decoded
under the encodings that it was sent with. FastWARC raises there, so a body that is not as declared is taken as it is.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from gte.data.formats.charset import page_text
from gte.data.formats.html import parse_html, plain_text
from gte.data.formats.pages import check_page
from gte.data.raw_lines import Unreadable, open_raw
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Record, Rejected, records

MAX_RECORD = 16 * 2**20  # bytes; Common Crawl cuts pages at 1 MiB, from 2025 on at 5
VERSION = re.compile(rb"WARC/\d\.\d+\r?\n")
CUT_VERSION = re.compile(rb"W|WA|WAR|WARC|WARC/\d?\.?\d*\r?")  # where the file ends in one
NEXT_RECORD = re.compile(rb"\n(?=WARC/\d\.\d+\r?\n)")
BLANKS = re.compile(rb"(?:[ \t\r\f\v]*+\n)*+")
LENGTH = re.compile(rb"^Content-Length:[ \t]*(?:(\d{1,18})(?!\d))?[^\n]*\n", re.IGNORECASE | re.MULTILINE)
HTML = ("text/html", "application/xhtml+xml")
X_GZIP = re.compile(rb"^(Content-Encoding:[ \t]*)x-(?=gzip[ \t]*\r?$)", re.IGNORECASE | re.MULTILINE)
HEAD_END = re.compile(rb"\r?\n\r?\n")
# not decoded: begins with the size of a chunk, or has bytes that no text has; packed data has them one in ten
ENCODED = re.compile(rb"\A[0-9a-f]{1,8}[ \t]*(?:;[^\n]*)?\r?\n|[\x00-\x08\x0e-\x1a\x1c-\x1f]", re.IGNORECASE)
AS_STATED, AS_STORED = "body encoded as its headers state", "body stored decoded, against its headers"


def read_warc(path: Path, fields: Fields, *, main_content: bool = True) -> Iterator[Record]:
    """Pages (responses in HTML, WET's conversions) as rows of title, text, url and language; row counts all records.

    Title and text: the <title> and the visible text of HTML, of WET the first line and those below it. main_content:
    takes menus, headers and footers out of HTML. language: the first that WET names ('eng'), of HTML None.
    """
    for item in cut_records(path):
        if isinstance(item, Rejected):
            yield item
            continue
        row, head, block = item
        try:
            value, way = page(head, block, main_content)
        except Unfit as unfit:
            yield Rejected(unfit.reason, row)
        else:
            if value is not None:
                found = records(value, fields, row)
                yield from (one if way is None or isinstance(one, Rejected) else one._replace(way=way) for one in found)


def page(head: bytes, block: bytes, main_content: bool) -> tuple[dict | None, str | None]:
    """The page of a record, None where its kind holds none, and how its body was read, None where no encoding is
    declared. Raises Unfit for a page that gives no row."""
    record = parsed(head, block)
    way = None
    url, language = (record.headers.get(name) for name in ("WARC-Target-URI", "WARC-Identified-Content-Language"))
    if record.record_type == WarcRecordType.conversion:
        title, text = wet_texts(record.reader.read())
    elif record.record_type == WarcRecordType.response:
        html, charset, way = html_body(record, head, block)
        title, text = html_texts(html, charset, main_content)
    else:
        return None, None
    check_page(title, text)
    return {"title": title, "text": text, "url": url, "language": language and language.split(",")[0]}, way


def parsed(head: bytes, block: bytes) -> WarcRecord:
    """FastWARC's record of header lines and a block. Raises Unfit where it makes none of them."""
    whole = b"WARC/1.0\r\n%bContent-Length: %d\r\n\r\n%b" % (LENGTH.sub(b"", head), len(block), block)
    record = next(ArchiveIterator(io.BytesIO(whole), parse_http=False, quirks_mode=True, stream_detect=False), None)
    if record is None:
        raise Unfit(Reason.MALFORMED_RECORD)
    return record


def wet_texts(data: bytes) -> tuple[str, str]:
    """First line, and those below it. Raises Unfit for what is no UTF-8."""
    try:
        title, _, text = data.decode().strip().partition("\n")
    except UnicodeDecodeError:
        raise Unfit(Reason.INVALID_UTF8) from None
    return title, text


def html_body(record: WarcRecord, head: bytes, block: bytes) -> tuple[bytes, str | None, str | None]:
    """The decoded body of a response, its character set if declared, and how it was read, None where no encoding is
    declared. Raises Unfit for an error page, for what is no HTML, and for a body neither as declared nor a text."""
    try:
        record.parse_http(quirks_mode=True)
    except OSError:
        raise Unfit(Reason.MALFORMED_HTTP) from None
    if record.http_headers is None:
        raise Unfit(Reason.NO_HTML)
    if record.http_headers.status_code not in (200, None):
        raise Unfit(Reason.OTHER_STATUS)
    kind = record.headers.get("WARC-Identified-Payload-Type") or record.http_content_type or HTML[0]
    if kind.lower() not in HTML:
        raise Unfit(Reason.NO_HTML)
    stated = {name.lower() for name, _ in record.http_headers} & {"content-encoding", "transfer-encoding"}
    if not stated:
        return within_limit(record.reader.read(MAX_RECORD + 1)), record.http_charset, None
    end = HEAD_END.search(block)
    if end:
        block = X_GZIP.sub(rb"\1", block[: end.end()]) + block[end.end() :]  # RFC 9110: the same as gzip
    # one of two encodings may be undone, and the other one not
    for undo in ("all", "content", "transfer", "none") if len(stated) == 2 else ("all", "none"):
        again = parsed(head, block)
        try:
            again.parse_http(auto_decode=undo, quirks_mode=True)
            html = again.reader.read(MAX_RECORD + 1)
        except OSError:
            continue
        if undo == "all":
            return within_limit(html), record.http_charset, AS_STATED
        if not ENCODED.search(html, 0, 2**10):
            return within_limit(html), record.http_charset, AS_STORED
    raise Unfit(Reason.MALFORMED_HTTP)


def within_limit(html: bytes) -> bytes:
    """A body. Raises Unfit for one that is too great to be a page."""
    if len(html) > MAX_RECORD:
        raise Unfit(Reason.LONG_RECORD.of(MAX_RECORD))
    return html


def html_texts(html: bytes, charset: str | None, main_content: bool) -> tuple[str, str]:
    """Title and visible text of a page; charset: as its HTTP headers have it, if they do."""
    tree = parse_html(page_text(html, charset))
    return " ".join((tree.title or "").split()), plain_text(tree, main_content=main_content)


def cut_records(path: Path) -> Iterator[tuple[int, bytes, bytes] | Rejected]:
    """(row, header lines, block) of every record of a WARC file; a rejection for one that is cut, over-long or none.

    The declared length holds where the next record follows at its end. Where not, the block ends where the next record
    begins: at the first line that is a WARC version.
    """
    row = 0
    try:
        with open_raw(path) as stream:
            tape = Tape(stream)
            while line := tape.line_after_blanks():
                row += 1
                found: tuple | str = cut_record(tape) if VERSION.fullmatch(line) else Reason.NO_WARC_RECORD
                if not isinstance(found, str):
                    yield row, *found
                elif not tape.fault:
                    tape.skip_to_record()
                    yield Rejected(found, row)
            if tape.fault:
                yield Rejected(tape.fault, row)
    except Unreadable as fault:
        yield Rejected(fault.reason, row)


def cut_record(tape: "Tape") -> tuple[bytes, bytes] | str:
    """(header lines, block) of the record whose version line was read last, or why there is none."""
    head = b""
    while not (line := tape.line()).isspace():
        head += line
        if not line or len(head) > MAX_RECORD:
            return Reason.TRUNCATED_RECORD
    stated = LENGTH.search(head)
    length = int(stated[1] or 0) if stated else 0  # without one, up to the next record
    if length > MAX_RECORD:
        return Reason.LONG_RECORD.of(MAX_RECORD)
    if tape.record_follows(length):
        return head, tape.read(length)
    held = 0
    while not (size := tape.until_record()):
        if held > MAX_RECORD:
            return Reason.LONG_RECORD.of(MAX_RECORD)
        before, held = held, tape.hold(2 * held + 1)
        if held == before:  # the file's end, which too great a length goes beyond
            block = tape.read(held)
            return (head, block) if held > length else Reason.TRUNCATED_RECORD
    return (head, tape.read(size)) if size <= MAX_RECORD else Reason.LONG_RECORD.of(MAX_RECORD)


class Tape:
    """A stream of which the next stretch is held, so that looking ahead reads nothing twice.

    It ends where it cannot be read on: then `fault`, at that end, says why.
    """

    def __init__(self, stream: io.BufferedIOBase):
        self.stream, self.data, self.at, self.broken = stream, bytearray(), 0, ""

    @property
    def fault(self) -> str:
        return self.broken if self.at == len(self.data) else ""

    def hold(self, size: int) -> int:
        """Reads until so many bytes are held; returns how many are, fewer at the end."""
        if len(self.data) - self.at < size:
            del self.data[: self.at]
            self.at = 0
        try:
            while len(self.data) - self.at < size and (chunk := self.stream.read1(2**18)):
                self.data += chunk
        except Unreadable as fault:
            self.broken = fault.reason
        return len(self.data) - self.at

    def read(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        self.hold(size)
        data = bytes(self.data[self.at : self.at + size])
        self.at += len(data)
        return data

    def line(self) -> bytes:
        """The next line, of a longer one the next MAX_RECORD bytes; b'' at the end."""
        held = self.hold(1)
        while not (end := self.data.find(b"\n", self.at) + 1) and held < MAX_RECORD:
            before, held = held, self.hold(2 * held)
            if held == before:
                break
        return self.read(min(end - self.at if end else held, MAX_RECORD))

    def line_after_blanks(self) -> bytes:
        """The next line that is not blank; b'' at the end."""
        while (line := self.line()).isspace():
            pass
        return line

    def record_follows(self, length: int) -> bool:
        """Whether, after so many bytes and MAX_RECORD of blank lines at most, a record begins or the file ends."""
        ahead = 2**10
        while (held := self.hold(length + ahead)) >= length:
            place = BLANKS.match(self.data, self.at + length).end()
            if held < length + ahead:  # the end is held
                rest = self.data[place:]
                return bool(VERSION.match(rest) or CUT_VERSION.fullmatch(rest) or not rest.strip())
            if len(self.data) - place >= 2**5 or ahead > MAX_RECORD:
                return bool(VERSION.match(self.data, place))
            ahead *= 2
        return False

    def until_record(self) -> int:
        """Count the bytes up to the next record; 0 where none begins at a line of what is held."""
        following = NEXT_RECORD.search(self.data, self.at)
        return following.end() - self.at if following else 0

    def skip_to_record(self) -> None:
        """Passes over the lines before the next version of a WARC record."""
        while (line := self.line()) and not VERSION.fullmatch(line):
            pass
        self.at -= len(line)
