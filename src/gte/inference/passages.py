"""Passages of a folder's text files: pieces short enough for a model to read, with the line they begin on."""

import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from gte.errors import UserError

INSTALLED = {"node_modules", "__pycache__", "venv", "site-packages"}
LARGEST = 2**22  # bytes; what is larger is data
SHORTEST = 120  # characters; a shorter piece goes with the next one


class Passage(NamedTuple):
    """`file` is relative to the folder; `line` counts from 1."""

    file: str
    line: int
    text: str


def read_folder(folder: Path, longest: int, include: list[str] | None = None) -> tuple[list[Passage], Counter]:
    """The passages of all files below it that are text, whatever their suffix; how many files are none, by reason.

    Hidden files and what tools install are no concern of a search. `include`: patterns of names, such as *.md.
    Raises UserError where no text is found.
    """
    if not folder.is_dir():
        raise UserError(f"folder={folder} is no folder; name one with texts to search")
    passages: list[Passage] = []
    left_out: Counter[str] = Counter()
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in INSTALLED)
        for name in sorted(names):
            if name.startswith(".") or (include and not any(fnmatch(name, pattern) for pattern in include)):
                continue
            path = Path(root, name)
            text = read_text(path)
            if isinstance(text, ValueError):
                left_out[str(text)] += 1
                continue
            pieces = json_rows(text) if name.endswith(".jsonl") else split(text, longest)
            passages += [Passage(path.relative_to(folder).as_posix(), *piece) for piece in pieces]
    if not passages:
        like = f" like {', '.join(include)}" if include else ""
        raise UserError(f"folder={folder} holds no text file{like}")
    return passages, left_out


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
    """Line and text of pieces of at most `longest` characters.

    A piece begins at an unindented line after a blank one (a paragraph, a heading, a top-level definition), unless what
    stands before it is short; a longer one is cut between lines, a longer line between words.
    """
    first, piece, size, after_blank = 1, [], 0, False
    for number, whole in enumerate(text.split("\n"), 1):
        for line in [whole.rstrip()] if len(whole) <= longest else textwrap.wrap(whole, longest):
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


def json_rows(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each row: its texts, one below the other; the line itself where it is no JSON object."""
    for number, line in enumerate(text.split("\n"), 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        row = "\n".join(part for part in value.values() if isinstance(part, str)) if isinstance(value, dict) else line
        if row.strip():
            yield number, row.strip().encode(errors="replace").decode()  # JSON can spell half a surrogate pair
