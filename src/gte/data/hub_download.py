"""One file of a data set on the hub: its download, or a piece of it.

An answer without an error need not be the file: it may be a proxy's page, another range, another version. So bytes are
kept only where the answer's head says that they are those of the file, and a file is taken where its size fits and, as
far as the listing gives one, its checksum. A download resumes at the byte where it stopped, in this process or a later
one.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import httpx2
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from gte.data.hub_client import BadAnswer, HubError, patiently
from gte.files import put

FOLDER = ".hub"  # in the raw folder: what is pinned, and downloads until their pairs are written


@dataclass(frozen=True)
class HubFile:
    """One file of a data set.

    repo: owner/name. revision: the commit. path: in the repository. bytes: its size. checksum: ALGORITHM:HEX, sha256 of
    its bytes or sha1 of git's blob of them; None where the listing gives none.
    """

    repo: str
    revision: str
    path: str
    bytes: int
    checksum: str | None = None

    @property
    def name(self) -> str:
        """Name in the provenance."""
        return f"hub:{self.repo}@{self.revision[:12]}/{self.path}"

    @property
    def url(self) -> str:
        """The address that it is asked for at."""
        return hf_hub_url(self.repo, self.path, repo_type="dataset", revision=self.revision)

    def __str__(self) -> str:
        return f"{self.path} of {self.repo} at {self.revision[:12]}"

    def place(self, folder: Path) -> Path:
        """Where it is downloaded to, `folder` being the raw folder."""
        return folder / FOLDER / f"{self.repo.replace('/', '--')}@{self.revision[:12]}" / self.path

    def is_in(self, folder: Path) -> bool:
        """Whether it has been downloaded to there."""
        place = self.place(folder)
        return place.is_file() and place.stat().st_size == self.bytes

    def new_hash(self) -> "hashlib._Hash | None":
        """The hash that its bytes are to go through; None where there is no checksum to compare with."""
        if self.checksum is None:
            return None
        if self.checksum.startswith("sha1:"):
            return hashlib.sha1(b"blob %d\0" % self.bytes, usedforsecurity=False)
        return hashlib.sha256()

    def difference(self, seen: "hashlib._Hash | None") -> str | None:
        """Say how a hash of bytes differs from the checksum; None where it does not, or nothing is listed."""
        found = None if seen is None else f"{seen.name}:{seen.hexdigest()}"
        return None if found == self.checksum else f"its bytes have {found}, where the data set lists {self.checksum}"


class Part:
    """The bytes of a file that are here so far, in a file of their own, and the checksum of them.

    size: how many they are. etag: the version that the server says they are of, kept beside them where no checksum
    would tell versions apart.
    """

    def __init__(self, file: HubFile, path: Path) -> None:
        self.file, self.stream = file, path.open("a+b")
        self.etag, self.wrong = path.with_name(f"{path.name}.etag"), None
        self.size, self.hash = self.stream.seek(0, os.SEEK_END), file.new_hash()
        if self.size > file.bytes:
            self.drop()
        elif self.hash is not None:
            self.stream.seek(0)
            hashlib.file_digest(self.stream, lambda: self.hash)

    def close(self) -> None:
        self.stream.close()

    def drop(self) -> None:
        """Begin again."""
        self.stream.seek(0)
        self.stream.truncate()
        self.size, self.hash = 0, self.file.new_hash()

    def follow(self, etag: str) -> None:
        """Drop the bytes, with BadAnswer, where the answer that is to follow them is of another version."""
        if self.hash is not None:
            return
        if not self.size:
            self.etag.write_text(etag)
        elif etag and self.etag.exists() and self.etag.read_text() not in ("", etag):
            self.drop()
            raise BadAnswer(f"its ETag has become {etag}, so that it may be another version than before")

    def add(self, chunk: bytes) -> None:
        """Append bytes. Raises BadAnswer where they are too many, and drops all."""
        if self.size + len(chunk) > self.file.bytes:
            self.drop()
            raise BadAnswer(f"its answer goes on after the file's {self.file.bytes:,} bytes")
        self.stream.write(chunk)
        self.size += len(chunk)
        if self.hash is not None:
            self.hash.update(chunk)

    def check(self) -> None:
        """Drop bytes of a wrong checksum, with BadAnswer, or HubError where the same wrong ones came before."""
        line = self.file.difference(self.hash)
        if line is None:
            return
        self.drop()
        if line == self.wrong:
            raise HubError(f"the hub did not give {self.file} (twice {line})")
        self.wrong = line
        raise BadAnswer(line)


def download(file: HubFile, folder: Path) -> Path:
    """Copy a file into the raw folder, unless it is there.

    What was copied of it before, by whichever process, is not asked for again; processes that want the same file wait
    for each other.

    Raises HubError where the hub does not give it, OSError where the disk takes no more.
    """
    target = file.place(folder)
    if file.is_in(folder):
        return target
    path = target.with_name(f"{target.name}.part")
    with opened_lock(path.with_name(f"{path.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_in(folder):
            with closing(Part(file, path)) as part:
                patiently(lambda: complete(part), str(file), progress=lambda: part.size)
            put(path, target)
            part.etag.unlink(missing_ok=True)
    return target


def complete(part: Part) -> None:
    """Ask once for the bytes that are missing. Raises BadAnswer where they do not come, or are not the file's."""
    file = part.file
    if part.size < file.bytes:
        begun = part.size
        with answer(file, begun) as (response, first):
            part.follow(response.headers.get("ETag", ""))
            here = begun - first
            for chunk in response.iter_bytes():
                part.add(chunk[here:])
                here = max(0, here - len(chunk))
        reached = part.size
        if reached < file.bytes:
            if response.status_code == 200 and reached > begun:  # complete, by its own account
                part.drop()
            raise BadAnswer(f"its answer ended after {reached:,} of {file.bytes:,} bytes")
    part.check()


@contextmanager
def answer(file: HubFile, start: int, end: int | None = None) -> Iterator[tuple[httpx2.Response, int]]:
    """Ask for the bytes of a file from start to end.

    Yields the answer, whose body has not been read, and the number of its first byte: 0 where the server ignores
    ranges. Raises BadAnswer where its head says that it is something else.
    """
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a range of a compressed body is of no use
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", file.url, headers=headers, timeout=seconds) as response:
        hf_raise_for_status(response)
        yield response, first_byte(response, file, start)


def first_byte(response: httpx2.Response, file: HubFile, start: int) -> int:
    """The number of an answer's first byte in the file, start or 0. Raises BadAnswer where it is no part of it."""
    code, kind = response.status_code, response.headers.get("Content-Type", "of no type")
    is_plain = response.headers.get("Content-Encoding", "identity").lower() == "identity"
    if code == 206:
        told = response.headers.get("Content-Range", "none")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", told)
        if not (is_plain and found and int(found[1]) == start and found[2] in ("*", str(file.bytes))):
            raise BadAnswer(f"its answer, {kind}, has the range '{told}' in place of {start}- of {file.bytes} bytes")
        return start
    length = response.headers.get("Content-Length") if is_plain else None
    if code != 200 or length not in (None, str(file.bytes)):
        raise BadAnswer(f"its answer {code}, {kind}, has {length} bytes in place of the file's {file.bytes}")
    return 0


def opened_lock(path: Path) -> TextIO:
    """A new file in a folder that another source of the same data set may be removing, because it is empty."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w")
        except (FileNotFoundError, FileExistsError):
            continue


def remove(file: HubFile, folder: Path) -> None:
    """Remove a downloaded file, and what stands beside it on its account."""
    target = file.place(folder)
    for end in ("", ".part", ".part.etag", ".part.lock", ".lock", ".arrow", ".arrow.part"):
        target.with_name(f"{target.name}{end}").unlink(missing_ok=True)
    for parent in (target.parent, *target.parent.parents):
        if parent == folder / FOLDER:
            break
        try:
            parent.rmdir()
        except OSError:  # not empty, or another's
            break


def piece(file: HubFile, start: int, end: int, folder: Path) -> bytes:
    """The bytes of a file from start to end, from here where it has been downloaded. Raises HubError as `download`."""
    if start >= end:
        return b""
    if file.is_in(folder):
        with file.place(folder).open("rb") as stream:
            stream.seek(start)
            return stream.read(end - start)
    return patiently(lambda: asked_piece(file, start, end), str(file))


def asked_piece(file: HubFile, start: int, end: int) -> bytes:
    """Ask once for a piece. Of an answer that is the whole file no more is read than is needed, nor kept."""
    wanted, found = end - start, bytearray()
    with answer(file, start, end) as (response, first):
        before = start - first
        for chunk in response.iter_bytes():
            found += chunk[before:]
            before = max(0, before - len(chunk))
            if len(found) > wanted:
                break
    if len(found) < wanted or (end == file.bytes and len(found) > wanted):
        raise BadAnswer(f"its answer has {len(found):,} bytes or more in place of {wanted:,} from {start:,}")
    seen = file.new_hash() if wanted == file.bytes else None
    if seen is not None:
        seen.update(found)
        if line := file.difference(seen):
            raise BadAnswer(line)
    return bytes(found[:wanted])
