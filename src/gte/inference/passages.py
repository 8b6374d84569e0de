"""Passages of a folder's text files: pieces short enough for a model to read, with the line they begin on."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from gte.data.cleaning import encodable
from gte.errors import UserError
from gte.files import json_object

INSTALLED = {"node_modules", "__pycache__", "venv", "site-packages"}
LARGEST = 2**22  # bytes; what is larger is data
SHORTEST = 120  # characters; a shorter piece goes with the next one


class Passage(NamedTuple):
    """A piece of a text file.

    Args:
        file: relative to the folder.
        line: the line on which it begins, from 1.
        text: the piece.
    """

    file: str
    line: int
    text: str


def read_folder(folder: Path, longest: int, include: list[str] | None = None) -> tuple[list[Passage], Counter]:
    """Read the passages of all text files below a folder, whatever their suffix.

    Hidden files and what tools install are no concern of a search.

    Args:
        folder: to read.
        longest: characters of a passage, at most.
        include: patterns of file names, such as *.md; None is all.
    Returns: the passages, and the number of files that are no text or whose name is none, by reason.
    Raises: UserError where no text is found.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "notes.md").write_text("# Notes")
    ...     read_folder(Path(folder), longest=1000)
    ([Passage(file='notes.md', line=1, text='# Notes')], Counter())
    """
    require_folder(folder)
    passages: list[Passage] = []
    left_out: Counter[str] = Counter()
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in INSTALLED)
        for name in sorted(names):
            if name.startswith(".") or (include and not any(fnmatch(name, pattern) for pattern in include)):
                continue
            path = Path(root, name)
            file = path.relative_to(folder).as_posix()
            text = read_text(path) if encodable(file) else ValueError("a name that is no UTF-8")
            if isinstance(text, ValueError):
                left_out[str(text)] += 1
                continue
            pieces = json_rows(text) if name.endswith(".jsonl") else split(text, longest)
            passages += [Passage(file, *piece) for piece in pieces]
    if not passages:
        like = f" like {', '.join(include)}" if include else ""
        raise UserError(f"folder={folder} holds no text file{like}")
    return passages, left_out


def require_folder(folder: Path) -> None:
    """Raise UserError where the folder to search is not there, or no index can be named after it."""
    if not encodable(str(folder.resolve())):
        raise UserError(f"the name of folder={str(folder.resolve())!r} is no UTF-8; rename the folder")
    if not folder.is_dir():
        raise UserError(f"folder={folder} is no folder; name one with texts to search")


def read_text(path: Path) -> str | ValueError:
    """A file's text, or why it has none."""
    try:
        if not path.is_file():
            return ValueError("no plain file")
        if path.stat().st_size > LARGEST:
            return ValueError(f"over {LARGEST >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return ValueError("no UTF-8 text")
    except OSError:
        return ValueError("unreadable")
    return ValueError("no UTF-8 text") if "\0" in text else text


def split(text: str, longest: int) -> Iterator[tuple[int, str]]:
    """Split a text into pieces of bounded length, at the beginnings of paragraphs where there are some.

    A piece begins at an unindented line after a blank one (a paragraph, a heading, a top-level definition), unless what
    stands before it is short; a longer one is cut between lines, a longer line between words.

    Args:
        text: of a file.
        longest: characters of a piece, at most.
    Returns: an iterator of (line from 1, piece).

    >>> list(split("a first line\\nand a second", longest=14))
    [(1, 'a first line'), (2, 'and a second')]
    """
    first, piece, size, after_blank = 1, [], 0, False
    for number, whole in enumerate(text.split("\n"), 1):
        for line in cut(whole.rstrip(), longest):
            begins = after_blank and not line[:1].isspace() and size >= SHORTEST
            if piece and (begins or size + len(line) > longest):
                yield first, "\n".join(piece).rstrip()
                piece, size = [], 0
            after_blank = not line
            if line or piece:
                first = first if piece else number
                piece.append(line)
                size += len(line) + 1
    if piece:
        yield first, "\n".join(piece).rstrip()


def cut(line: str, longest: int) -> list[str]:
    """Cut a line between words into pieces of bounded length, a longer word where it must be.

    In time linear in the line, which may be a file of 4 MB: a piece is looked for once, within its own bounds.

    >>> cut("  one two three", longest=9)
    ['  one two', 'three']
    """
    if len(line) <= longest:
        return [line]
    first, *others = re.findall(rf".{{1,{longest}}}(?!\S)|.{{1,{longest}}}", line, re.DOTALL)
    pieces = [first.rstrip(), *map(str.strip, others)]  # the indentation says what the line belongs to
    return [piece for piece in pieces if piece]


def json_rows(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each row: its texts, one below the other; the line itself where it is no JSON object."""
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = "\n".join(part for part in json_object(line).values() if isinstance(part, str))
        except ValueError:
            row = line
        if row.strip():
            yield number, row.strip().encode(errors="replace").decode()  # JSON can spell half a surrogate pair
