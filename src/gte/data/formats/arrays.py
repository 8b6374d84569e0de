"""JSON files whose rows are the items of one array, however large; or lines, as many such files are kept too."""

import codecs
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gte.data.cleaning import encodable
from gte.data.raw_lines import MAX_LINE, Unreadable, lines, open_raw
from gte.data.readers import json_values, paired
from gte.data.reasons import Reason
from gte.data.records import Fields, Record, Rejected
from gte.data.tables import Row

DECODER = json.JSONDecoder()
BLANKS = re.compile(r"[ \t\r\n]*")
MARK = re.compile(r'[]["{},]')  # outside of a string
STRING = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)  # the rest of a string, up to its quote or a cut escape
BETWEEN = {"{": re.compile(r"\}\s*+,\s*+(?=\{)"), "[": re.compile(r"\]\s*+,\s*+(?=\[)")}  # two items alike
LISTS = re.compile(r'\[\s*"[^\n]*\]\s*\n\s*\[')  # lines of them
ANY = {"{": re.compile(r"(?=\{)"), "[": re.compile(r"(?=\[)")}
OPENED_BY = {dict: "{", list: "["}
LONGEST_BETWEEN = 1_000  # characters of it, blanks nearly all
UNFINISHED = re.compile(r"[\w.+\\-]{0,12}")  # of a number, a name or an escape, at the end of what is read
OPENS = re.compile(r"\[")
PIECE = 2**16  # bytes


def read_json(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """The items of a JSON array, or JSON lines, in any of the shapes of `Fields`."""
    return paired(json_rows(path, max_row), fields)


def json_rows(path: Path | zipfile.Path, max_row: int) -> Iterator[Row | Rejected]:
    """(position, value) of the items of a JSON array, or (line, value) of a file of JSON lines."""
    return array_rows(path, max_row) if starts_array(path) else json_values(lines(path, max_row))


def starts_array(path: Path | zipfile.Path) -> bool:
    """Whether a file's first character is a bracket, which its first line does not close as one of several lists; False
    where it cannot be read, which `lines` will say.
    """
    start = head(path).lstrip()
    return start.startswith("[") and not LISTS.match(start)


def head(path: Path | zipfile.Path) -> str:
    """The first characters of a file; none where it cannot be read, which `lines` will say."""
    try:
        with open_raw(path) as stream:
            return stream.peek(2**12)[: 2**12].decode(errors="replace").removeprefix("\ufeff")
    except Unreadable:
        return ""


def array_rows(path: Path | zipfile.Path, max_item: int) -> Iterator[Row | Rejected]:
    """(position, value) of the items of the array that a file is."""
    last = 0
    try:
        with open_raw(path) as stream:
            window = Window(stream, max_item)
            window.find(OPENS, 1)
            again = True
            while again:
                for row in window.items(last + 1):
                    last = row.row if isinstance(row, Rejected) else row[0]
                    yield row
                again = window.closed and bool(window.next_mark())
                if again:
                    last += 1
                    yield Rejected(Reason.TEXT_BEHIND_ARRAY, last)
                    again = window.skip_item("", brackets=False)
                    window.closed = True
            yield from window.cut(last)
    except Unreadable as fault:
        yield Rejected(fault.reason, last)


class Window:
    """The text of a stream, read on as it is needed: `text` from `at` on is what lies ahead.

    limit: characters of an item at most; little more is held. Bytes that are no UTF-8 become half surrogates. closed:
    whether the last array was read up to its bracket. fault: why the stream cannot be read on.
    """

    def __init__(self, stream: io.BufferedIOBase, limit: int):
        self.stream, self.limit = stream, limit
        self.text, self.at, self.ended, self.closed = "", 0, False, False
        self.fault: Reason | None = None
        self.last = None  # good item
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode

    def more(self) -> bool:
        """Reads as much again as lies ahead, and lets go of what lies behind; False where nothing is left."""
        held, pieces, size = self.text[self.at :], [], 0
        while not self.ended and size < max(PIECE, len(held)):
            try:
                data = self.stream.read1(PIECE)
            except Unreadable as fault:
                self.fault, data = fault.reason, b""
            self.ended = not data
            pieces.append(self.decode(data, final=self.ended))
            size += len(pieces[-1])
        if size:
            self.text, self.at = held + "".join(pieces), 0
        return size > 0

    def next_mark(self) -> str:
        """The next character that is no blank, to which it moves; "" at the end."""
        while True:
            self.at = BLANKS.match(self.text, self.at).end()
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def find(self, pattern: re.Pattern, longest: int) -> bool:
        """Moves behind the next match of a pattern, of so many characters at most; False where there is none."""
        while not (found := pattern.search(self.text, self.at)):
            self.at = max(self.at, len(self.text) - longest)
            if not self.more():
                return False
        self.at = found.end()
        return True

    def items(self, number: int = 1) -> Iterator[Row | Rejected]:
        """(position, value) of the items of the array whose bracket was read last, up to its other one.

        number: the first position.

        A malformed item costs itself, also one with a quote or a bracket too many or too few.
        """
        self.closed = False
        while (first := self.next_mark()) != "]":
            reason, value, end = self.value() if first else (Reason.UNENDED_ARRAY, None, 0)
            if reason is Reason.UNENDED_ARRAY:
                self.at = len(self.text)
                return
            if reason is None:
                self.last, self.at = value, end
                yield number, value
                number += 1
                continue
            yield Rejected(reason, number)
            number += 1
            if end and self.text[end] == first:  # only the comma is missing
                self.at = end
            elif not self.skip_item(first):
                return
        self.at, self.closed = self.at + 1, True

    def cut(self, last: int) -> Iterator[Rejected]:
        """The rejection of what is missing behind the item of that number, where anything is."""
        if self.fault:
            yield Rejected(self.fault, last)
        elif not self.closed:
            yield Rejected(Reason.UNENDED_ARRAY, last + 1)

    def value(self) -> tuple[str | None, object, int]:
        """(None, value, where the next item begins) of the item ahead; or (why it gives none, None, 0).

        Of an item behind which no comma stands, but another item, the third is where that one begins.
        """
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                end = BLANKS.match(self.text, end).end()
            except json.JSONDecodeError as error:
                if not error.msg.startswith("Unterminated") and not UNFINISHED.fullmatch(self.text, error.pos):
                    return Reason.INVALID_JSON, None, 0
            except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
                return Reason.INVALID_JSON, None, 0
            else:
                if end < len(self.text):  # a number may continue behind the buffer
                    return self.checked(value, end)
            if len(self.text) - self.at > self.limit:
                return Reason.LONG_ITEM.of(self.limit), None, 0
            if not self.more():
                return Reason.UNENDED_ARRAY, None, 0

    def checked(self, value: Callable, end: int) -> tuple[str | None, object, int]:
        """Call `value` on a value in front of the character at `end`."""
        item, mark = self.text[self.at : end], self.text[end]
        if len(item) > self.limit:
            return Reason.LONG_ITEM.of(self.limit), None, 0
        if mark not in ",]":
            return Reason.INVALID_JSON, None, end
        if not item.isascii() and not encodable(item):
            return Reason.INVALID_UTF8, None, 0
        return None, value, end + (mark == ",")

    def skip_item(self, first: str, brackets: bool = True) -> bool:
        """Moves behind the item ahead, which cannot be read and begins with `first`; False where no other follows.

        Another one begins where, behind a comma, a full value like the last good item stands; else where the brackets
        and quotes of the bad one end, if they do and `brackets` is set.
        """
        first, size = OPENED_BY.get(type(self.last), first), PIECE
        while True:
            while len(self.text) - self.at < size and self.more():
                pass
            stop = min(len(self.text), self.at + size)
            ends, is_last = self.end_by_brackets(first, stop) if brackets else (None, False)
            begins = self.next_alike(first, stop if ends is None else ends)
            if begins is not None:
                self.at = begins
                return True
            if ends is not None:
                self.at, self.closed = ends, is_last
                return not is_last
            if self.ended and stop == len(self.text):
                self.at, self.closed = stop, not self.fault and self.text.rstrip().endswith("]")
                return False
            if size < self.limit:
                size *= 2
            else:
                self.at, brackets = stop - LONGEST_BETWEEN, False  # what opened the item is not held any longer

    def end_by_brackets(self, first: str, stop: int) -> tuple[int | None, bool]:
        """Where the item ahead ends by its brackets and quotes: at the next one, or (True) behind the array's bracket.

        None where that is not before `stop`.
        """
        depth, at = 0, self.at
        while found := MARK.search(self.text, at, stop):
            mark, at = found.group(), found.end()
            if mark == '"':
                at = STRING.match(self.text, at).end() + 1
            elif mark in "[{":
                depth += 1
            elif mark in "]}" and depth:
                depth -= 1
            elif mark in ",]" and not depth:
                then = BLANKS.match(self.text, at).end()
                follows = self.text[then : then + 1]
                if mark == "," and follows and (first not in BETWEEN or follows == first):
                    return then, False
                if mark == "]" and (follows == "}" or (not follows and self.ended)):
                    return at, True
        return None, False

    def next_alike(self, first: str, stop: int) -> int | None:
        """Where, up to `stop`, a value begins that is like the last good item, or else like the one behind it."""
        begins = (BETWEEN if self.last is None else ANY).get(first)
        for found in begins.finditer(self.text, self.at + 1, stop) if begins else ():
            value, end = self.peek(found.end())
            if end is None:
                continue
            other = self.last
            if other is None and self.text[end] == ",":
                other, _ = self.peek(BLANKS.match(self.text, end + 1).end())
            if alike(value, other):
                return found.end()
        return None

    def peek(self, at: int) -> tuple[object, int | None]:
        """The value that begins there, and where the comma or bracket behind it stands; None, None where none does."""
        try:
            value, end = DECODER.raw_decode(self.text, at)
        except (ValueError, RecursionError):
            return None, None
        end = BLANKS.match(self.text, end).end()
        return (value, end) if self.text[end : end + 1] in (",", "]") else (None, None)


def alike(one: object, other: object) -> bool:
    """Whether two values may be rows of one file: objects of mostly the same keys, lists of the same types."""
    if isinstance(one, dict) and isinstance(other, dict):
        return 2 * len(one.keys() & other.keys()) > len(one.keys() | other.keys())
    return isinstance(one, list) and isinstance(other, list) and list(map(type, one)) == list(map(type, other))
