"""Files written completely or not at all, and JSON read in one way."""

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from gte.errors import UserError

if TYPE_CHECKING:
    from upath import UPath

HELD_OUT = {"test", "validation", "valid", "val", "dev", "eval"}
NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}  # of filesystems that cannot flush a directory


def stamp(file: Path) -> tuple[int, int, int] | None:
    """Tell a file from one that has replaced it, without reading it; None where there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a folder of data holds none: the hub client's `.cache`, a file named .x, icons of Macs.

    >>> is_hidden(Path(".cache/huggingface/download/corpus.jsonl.gz.metadata")), is_hidden(Path("fiqa/corpus.jsonl.gz"))
    (True, False)
    """
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.parts)


def is_held_out(name: str) -> bool:
    """Whether a file's name says that it is for evaluation.

    >>> is_held_out("test-00000-of-00001"), is_held_out("faq_dev"), is_held_out("train_test_questions")
    (True, True, False)
    """
    words = re.findall("[a-z]+", name.lower())
    return bool(words) and not HELD_OUT.isdisjoint((words[0], words[-1]))


def read_json(file: Path, kind: type = dict):
    """The JSON object (dict) or array (list) of a file. Raises UserError where it holds none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}; get it again") from error
    if not isinstance(value, kind):
        raise UserError(f"{file} must hold a JSON {'object' if kind is dict else 'array'}; get it again")
    return value


def json_object(line: str | bytes) -> dict:
    """The JSON object of a line. Raises ValueError, which says in a few words why there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"invalid JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def write_json(file: Path, content: dict | list, indent: int | None = 2, ascii_only: bool = True) -> None:
    """Write JSON; the file is complete or not there, whoever else writes the same. Makes its folder."""
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, shared=True) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """A name beside `target` for a file or folder, which takes the name `target` when all of it is on the disk.

    After an error nothing of it is left, and what `target` was before stays.

    Args:
        target: the file or folder to be; its parent must exist.
        shared: whether others may write the same target at the same time; each then writes under a name of its own.
    """
    own = f".{os.getpid()}-{threading.get_native_id()}" if shared else ""
    partial = target.with_name(f".{target.name}{own}.partial")
    if partial.is_dir():  # a killed process's
        remove(partial)
    try:
        yield partial
        put(partial, target)
    except BaseException:
        remove(partial)
        raise


def put(new: Path, target: Path) -> None:
    """Give a file or folder its name, replacing what had it, so that a power cut leaves the old or the new.

    What is in it is flushed to the disk, then it is renamed, then the folder that holds the name is flushed: a
    filesystem may write a name before the content, and the rename is lost with a folder that was not flushed (POSIX,
    rename and fsync). A folder that is replaced is moved aside first and removed after.
    """
    flush(new)
    if not new.is_dir():
        os.replace(new, target)
        flush_folder(target.parent)
        return
    old = target.parent / f".{target.name}.old"
    remove(old)
    if target.exists():
        target.replace(old)
    new.replace(target)
    flush_folder(target.parent)
    remove(old)


def flush(path: Path) -> None:
    """Has the disk take a file, or a folder with all that is in it."""
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if not entry.is_symlink():
                flush(entry)
        flush_folder(path)
        return
    if path.is_file():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Has the disk take the names in a folder, where its filesystem can be asked."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_FLUSH:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise
    finally:
        os.close(handle)


def remove(path: "Path | UPath") -> None:
    """Removes a file or folder, if it is there; also at an address."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
