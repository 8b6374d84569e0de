"""WARC files: Common Crawl's WARC and WET, CC-News, ClueWeb09 and ClueWeb12.

We cut the records out ourselves and give FastWARC one at a time. Their lengths cannot be trusted (ClueWeb09 states
wrong ones), and FastWARC 2.0.1 believes them: it loses the record after one whose length is too great, and passes over
what is no WARC at all, in both cases without a word.
"""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from gte.data.formats.html import plain_text
from gte.data.formats.pages import check_page
from gte.data.readers import Unreadable, open_raw
from gte.data.records import FILTERED, Fields, Record, Rejected, Unfit, records

MAX_RECORD = 16 * 2**20  # bytes; Common Crawl cuts pages at 1 MiB, from 2025 on at 5
VERSION = re.compile(rb"WARC/\d\.\d+\r?\n")
CUT_VERSION = re.compile(rb"W|WA|WAR|WARC|WARC/\d?\.?\d*\r?")  # where the file ends in one
NEXT_RECORD = re.compile(rb"\n(?=WARC/\d\.\d+\r?\n)")
LENGTH = re.compile(rb"^Content-Length:[ \t]*(?:(\d{1,18})(?!\d))?[^\n]*\n", re.IGNORECASE | re.MULTILINE)
HTML = ("text/html", "application/xhtml+xml")


def read_warc(path: Path, fields: Fields, *, main_content: bool = True) -> Iterator[Record]:
    """Pages (responses in HTML, WET's conversions) as rows of title, text, url and language; row counts all records.

    Title and text: the <title> and the visible text of HTML, of WET the first line and those below it. main_content:
    takes menus, headers and footers out of HTML. language: the first that WET states ('eng'), of HTML None.
    """
    for item in cut_records(path):
        if isinstance(item, Rejected):
            yield item
            continue
        row, head, block = item
        try:
            value = page(head, block, main_content)
        except Unfit as unfit:
            yield Rejected(str(unfit), row)
        else:
            if value is not None:
                yield from records(value, fields, row)


def page(head: bytes, block: bytes, main_content: bool) -> dict | None:
    """The page of a record, None where its kind holds none. Raises Unfit for a page that gives no row."""
    whole = b"WARC/1.0\r\n%bContent-Length: %d\r\n\r\n%b" % (LENGTH.sub(b"", head), len(block), block)
    record = next(ArchiveIterator(io.BytesIO(whole), parse_http=False, quirks_mode=True, stream_detect=False), None)
    if record is None:
        raise Unfit("malformed record")
    url, language = (record.headers.get(name) for name in ("WARC-Target-URI", "WARC-Identified-Content-Language"))
    if record.record_type == WarcRecordType.conversion:
        title, text = wet_texts(record.reader.read())
    elif record.record_type == WarcRecordType.response:
        title, text = html_texts(record, main_content)
    else:
        return None
    check_page(title, text)
    return {"title": title, "text": text, "url": url, "language": language and language.split(",")[0]}


def wet_texts(data: bytes) -> tuple[str, str]:
    """First line, and those below it. Raises Unfit for what is no UTF-8."""
    try:
        title, _, text = data.decode().strip().partition("\n")
    except UnicodeDecodeError:
        raise Unfit("invalid UTF-8") from None
    return title, text


def html_texts(record: WarcRecord, main_content: bool) -> tuple[str, str]:
    """Title and visible text of a response. Raises Unfit for an error page and for what is no HTML."""
    try:
        record.parse_http(auto_decode="all", quirks_mode=True)
        html = record.reader.read(MAX_RECORD + 1)
    except OSError:
        raise Unfit("malformed HTTP") from None
    if len(html) > MAX_RECORD:
        raise Unfit(f"record over {MAX_RECORD:,} bytes")
    if record.http_headers is None:
        raise Unfit(FILTERED + "no HTML")
    if record.http_headers.status_code not in (200, None):
        raise Unfit(FILTERED + "HTTP status other than 200")
    kind = record.headers.get("WARC-Identified-Payload-Type") or record.http_content_type or HTML[0]
    if kind.lower() not in HTML:
        raise Unfit(FILTERED + "no HTML")
    try:
        text = bytes_to_str(html, record.http_charset or detect_encoding(html, from_html_meta=True))
    except LookupError:  # the server names a character set that nobody knows
        text = bytes_to_str(html, detect_encoding(html))
    tree = HTMLTree.parse(text)
    return " ".join((tree.title or "").split()), plain_text(tree, main_content=main_content)


def cut_records(path: Path) -> Iterator[tuple[int, bytes, bytes] | Rejected]:
    """(row, header lines, block) of every record of a WARC file; a rejection for one that is cut, over-long or none.

    The stated length holds where the next record follows at its end. Where not, the block ends where the next record
    begins: at the first line that is a WARC version.
    """
    row = 0
    try:
        with open_raw(path) as stream:
            tape = Tape(stream)
            while line := tape.line_after_blanks()[1]:
                row += 1
                found: tuple | str = cut_record(tape) if VERSION.fullmatch(line) else "no WARC record"
                if not isinstance(found, str):
                    yield row, *found
                elif not tape.fault:
                    tape.skip_to_record()
                    yield Rejected(found, row)
            if tape.fault:
                yield Rejected(tape.fault, row)
    except Unreadable as fault:
        yield Rejected(str(fault), row)


def cut_record(tape: "Tape") -> tuple[bytes, bytes] | str:
    """(header lines, block) of the record whose version line was read last, or why there is none."""
    head = b""
    while not (line := tape.line()).isspace():
        head += line
        if not line or len(head) > MAX_RECORD:
            return "truncated record"
    stated = LENGTH.search(head)
    length = int(stated[1] or 0) if stated else 0  # without one, up to the next record
    if length > MAX_RECORD:
        return f"record over {MAX_RECORD:,} bytes"
    block = tape.read(length)
    blanks, line = tape.line_after_blanks()
    if len(block) == length and (not line or VERSION.fullmatch(line) or CUT_VERSION.fullmatch(line)):
        tape.give_back(line)
        return head, block
    block += blanks + line
    if following := NEXT_RECORD.search(block):
        tape.give_back(block[following.end() :])
        return head, block[: following.end()]
    if not line:
        return "truncated record"
    longer = bytearray(block)
    while (line := tape.line()) and not VERSION.fullmatch(line):
        longer += line
        if len(longer) > MAX_RECORD:
            return f"record over {MAX_RECORD:,} bytes"
    tape.give_back(line)
    return head, bytes(longer)


class Tape:
    """A stream that takes back what was read too far. It ends where it cannot be read on; `fault` then says why."""

    def __init__(self, stream: io.BufferedIOBase):
        self.stream, self.back, self.fault = stream, io.BytesIO(), ""

    def from_stream(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except Unreadable as fault:
            self.fault = str(fault)
            return b""

    def give_back(self, data: bytes) -> None:
        self.back = io.BytesIO(data + self.back.read())

    def read(self, size: int) -> bytes:
        data = self.back.read(size)
        return data + self.from_stream(self.stream.read, size - len(data)) if len(data) < size else data

    def line(self) -> bytes:
        """The next line, of a longer one the next MAX_RECORD bytes; b'' at the end."""
        line = self.back.readline(MAX_RECORD)
        whole = line.endswith(b"\n") or len(line) == MAX_RECORD
        return line if whole else line + self.from_stream(self.stream.readline, MAX_RECORD - len(line))

    def line_after_blanks(self) -> tuple[bytes, bytes]:
        """The blank lines before the next other one, MAX_RECORD bytes at most, and that; it is b'' at the end."""
        blanks = bytearray()
        while (line := self.line()).isspace():
            blanks += line[: MAX_RECORD - len(blanks)]
        return bytes(blanks), line

    def skip_to_record(self) -> None:
        """Passes over the lines before the next version of a WARC record."""
        while (line := self.line()) and not VERSION.fullmatch(line):
            pass
        self.give_back(line)
