"""Files on other machines: a checkpoint may be on any filesystem that fsspec knows, s3:// and gs:// among them."""

import atexit
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gte.errors import UserError, first_line

if TYPE_CHECKING:
    from upath import UPath

ADDRESS = re.compile(r"(?!(?:https?|ftp|file|local)://)[a-z][a-z0-9+.-]*://.")  # web pages are no filesystems


def is_address(path: "str | Path | UPath") -> bool:
    """Whether a path is an address like s3://bucket/folder."""
    return bool(ADDRESS.match(str(path)))


def place(path: "str | Path | UPath") -> "Path | UPath":
    """A pathlib.Path; for an address a upath.UPath, which has the same methods.

    Raises UserError where the packages for it are not installed.
    """
    if not is_address(path):
        return Path(path)
    try:
        from upath import UPath

        found = UPath(path)
        found.fs  # noqa: B018  looks for the package of this kind of filesystem
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{path}: {error}; pip install -r requirements-remote.txt, for other kinds see fsspec"
        ) from error
    return found


def local_copy(path: "str | Path | UPath") -> Path:
    """The path itself; of what an address names, a file or a directory, a copy that lives as long as this process."""
    return path if isinstance(path, Path) else fetch(path, stamp(path))


def look_anew(path: "str | Path | UPath") -> None:
    """Forget what was listed below an address: s3fs answers from its cache, which another writer does not change."""
    if not isinstance(path, Path):
        path.fs.invalidate_cache()


def stamp(address: "UPath") -> str:
    """Sizes, times and checksums of the files at an address, which another writer's would not share."""
    look_anew(address)
    try:
        found = address.fs.find(address.path, detail=True)
    except Exception as error:  # filesystems have kinds of their own
        raise UserError(f"cannot read {address}: {first_line(error)}") from error
    facts = ("size", "ETag", "LastModified", "mtime", "md5Hash", "created")
    return str([(name, [str(entry.get(fact)) for fact in facts]) for name, entry in sorted(found.items())])


@cache
def fetch(address: "UPath", stamp: str) -> Path:
    folder = tempfile.mkdtemp(prefix="gte-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder) / address.name
    try:
        address.fs.get(address.path, str(copy), recursive=address.is_dir())
    except Exception as error:  # filesystems have kinds of their own
        raise UserError(f"cannot read {address}: {first_line(error)}") from error
    return copy
