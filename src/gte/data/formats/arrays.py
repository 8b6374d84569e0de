"""JSON files whose rows are the items of one array, however large; or lines, as many such files are kept too."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.readers import BOM, MAX_LINE, Line, Row, Unreadable, json_values, lines, open_raw, paired
from gte.data.records import Fields, Record, Rejected

MARK = re.compile(rb'[]["{},]')  # outside of a string
STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # the rest of a string, up to its quote or a cut escape


def read_json(path: Path | zipfile.Path, fields: Fields, *, max_row: int = MAX_LINE) -> Iterator[Record]:
    """The items of a JSON array, or JSON lines, in any of the shapes of `Fields`."""
    return paired(json_rows(path, max_row), fields)


def json_rows(path: Path | zipfile.Path, max_row: int) -> Iterator[Row | Rejected]:
    """(position, value) of the items of a JSON array, or (line, value) of a file of JSON lines."""
    return json_values(items(path, max_row) if starts_array(path) else lines(path, max_row))


def starts_array(path: Path | zipfile.Path) -> bool:
    """Whether a file's first character is a bracket; False where it cannot be read, which `lines` will say."""
    try:
        with open_raw(path) as stream:
            return stream.peek(2**12)[: 2**12].removeprefix(BOM).lstrip().startswith(b"[")
    except Unreadable:
        return False


def items(path: Path | zipfile.Path, max_item: int) -> Iterator[Line | Rejected]:
    """(position, text) of the items of a JSON array, told apart by brackets and quotes alone.

    So a malformed item costs no other, unless it leaves a bracket or a quote open. At most max_item bytes are held.
    """
    number, depth, inside, escaped, item, size = 1, 0, False, False, bytearray(), 0
    try:
        with open_raw(path) as stream:
            while chunk := stream.read1(2**16):
                start, at, escaped = 0, int(escaped), False
                while at < len(chunk):
                    if inside:
                        at = STRING.match(chunk, at).end()
                        inside, escaped = chunk[at : at + 1] != b'"', chunk[at : at + 1] == b"\\"
                        at += 1
                        continue
                    found = MARK.search(chunk, at)
                    if not found:
                        break
                    mark, at = found.group(), found.end()
                    if mark == b'"':
                        inside = True
                    elif mark in b"[{":
                        depth += 1
                        start = at if depth == 1 else start
                    elif mark in b"]}" and depth > 1:
                        depth -= 1
                    elif mark in b",]" and depth == 1:
                        size += found.start() - start
                        if size > max_item:
                            yield Rejected(f"item over {max_item:,} bytes", number)
                        elif mark == b"," or (item + chunk[start : found.start()]).strip():
                            yield number, bytes(item + chunk[start : found.start()])
                        number, start, item, size = number + 1, at, bytearray(), 0
                        if mark == b"]":
                            rest = chunk[at:] or stream.read1(2**16)
                            while rest and rest.isspace():
                                rest = stream.read1(2**16)
                            if rest:
                                yield Rejected("text after the array", number)
                            return
                size += len(chunk) - start
                if size <= max_item:
                    item += chunk[start:]
                else:
                    item.clear()
    except Unreadable as fault:
        yield Rejected(str(fault), number - 1)
    else:
        yield Rejected("array without an end", number)
