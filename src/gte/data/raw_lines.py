"""The bytes and the lines of raw files: unpacked as they are read, damage and bombs noticed."""

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard
from isal import igzip, isal_zlib

from gte.data.reasons import Reason, kind_of
from gte.data.records import Rejected
from gte.errors import UserError

MAX_LINE = 16 * 2**20  # bytes; a longer line is rejected, and never held in memory as a whole
BOM = b"\xef\xbb\xbf"
KINDS = {".gz": "gzip", ".zst": "zstd"}  # what is unpacked, by a name's suffix
MAGIC = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh91AY&SY": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\3\4": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z", b"PAR1\x15": "parquet", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
    **{bytes([first]) + b"\x2a\x4d\x18": "zstd" for first in range(0x50, 0x60)},  # a frame to skip comes first
}  # fmt: skip
BOMB_BYTES, BOMB_RATIO = 2**30, 200  # text packs 3 to 20 times; more than both is no text
# what the unpackers raise for a bad archive; OSError without a number is one of these
DAMAGE = (
    EOFError, OSError, zlib.error, isal_zlib.error, lzma.LZMAError, zipfile.BadZipFile, zstandard.ZstdError,
)  # fmt: skip


class Unreadable(Exception):
    """A file cannot be read on; `reason` is that of the rejection that says so."""

    def __init__(self, reason: Reason):
        super().__init__(reason)
        self.reason = reason


Line = tuple[int, bytes]


def open_raw(path: Path | zipfile.Path) -> io.BufferedIOBase:
    """The bytes of a file or a zip's member, decompressed where its name ends in .gz or .zst.

    Raises Unreadable, at once or in reading, where an archive is cut, damaged or a bomb, and UserError for content of
    another kind than the name says, with the way out.
    """
    try:
        stream = path.open("rb", **({"buffering": 2**20} if isinstance(path, Path) else {}))
        head = stream.peek(16)
    except (RuntimeError, NotImplementedError) as error:  # of zips: encrypted, or packed in a way not known
        raise UserError(f"{path} cannot be unpacked: {error}") from error
    except DAMAGE as error:
        raise unreadable(error) from error
    named = KINDS.get(Path(path.name).suffix)
    held = next((kind for start, kind in MAGIC.items() if head.startswith(start)), None)
    if head and held != named:
        stream.close()
        raise UserError(f"{path} {other_kind(path.name, named, held)}")
    if named is None and isinstance(path, Path):
        return stream
    size = path.stat().st_size if isinstance(path, Path) else path.root.getinfo(path.at).compress_size
    return io.BufferedReader(Unpacked(stream, named, max(BOMB_BYTES, BOMB_RATIO * size)), 2**18)


def other_kind(name: str, named: str | None, held: str | None) -> str:
    """Line about a file whose name and content say different kinds, with the way out."""
    if held == "UTF-16":
        return "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"
    if held in KINDS.values():
        suffix = next(suffix for suffix, kind in KINDS.items() if kind == held)
        return f"is a {held} archive; name it {name.removesuffix('.gz').removesuffix('.zst')}{suffix}"
    if held:
        return f"is a {held} file, which is not read here; unpack it, or convert it to .gz or .zst"
    return f"is no {named} archive; name it {Path(name).stem} if it is plain text, otherwise get it again"


def unreadable(error: Exception) -> Exception:
    """Choose the error to raise for one of DAMAGE: an error with a number is the disk's fault, not the archive's."""
    return error if getattr(error, "errno", None) else Unreadable(Reason.DAMAGED_ARCHIVE)


class Unpacked(io.RawIOBase):
    """The content of a gzip or zstd archive, or of a plain member of a zip, of `limit` bytes at most."""

    def __init__(self, stream: io.BufferedIOBase, kind: str | None, limit: int):
        self.stream, self.limit = stream, limit
        self.chunks = {"gzip": gzip_chunks, "zstd": zstd_chunks, None: plain_chunks}[kind](stream)
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:
        try:
            self.rest = self.rest or memoryview(next(self.chunks, b""))
        except DAMAGE as error:
            raise unreadable(error) from error
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        self.limit -= len(part)
        if self.limit < 0:
            raise Unreadable(Reason.ARCHIVE_BOMB)
        return len(part)

    def close(self) -> None:
        self.stream.close()
        super().close()


def plain_chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """A stream in pieces."""
    while chunk := stream.read1(2**16):
        yield chunk


def gzip_chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """The content of all members of a gzip archive. Raises one of DAMAGE where it is none, or cut.

    ISA-L unpacks in two fifths of the time that Python takes, but of what stands before damage it gives less: from
    there on Python reads once more.
    """
    if not stream.peek(1):
        raise EOFError
    given = 0
    try:
        for chunk in plain_chunks(igzip.IGzipFile(fileobj=stream)):
            given += len(chunk)
            yield chunk
    except DAMAGE:
        stream.seek(0)
        whole = gzip.GzipFile(fileobj=stream)
        whole.seek(given)
        yield from plain_chunks(whole)


def zstd_chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """The content of all frames of a zstd archive. Raises one of DAMAGE where it is none, or cut.

    Windows of up to 2 GiB are read, as Reddit's dumps have. 4 KiB at a time: they unpack to 128 MiB at the worst.
    """
    new = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
    frame = new()
    while packed := stream.read1(2**12):
        while packed:
            frame = frame or new()
            if chunk := frame.decompress(packed):
                yield chunk
            packed, frame = frame.unused_data, None if frame.eof else frame
    if frame:
        raise EOFError


def lines(path: Path | zipfile.Path, max_line: int) -> Iterator[Line | Rejected]:
    """(number, line) of a text file, line ends kept; a rejection for an over-long line and for a damaged archive."""
    number = 0
    try:
        with open_raw(path) as stream:
            while line := stream.readline(max_line + 1):
                number += 1
                if len(line) > max_line:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(max_line)
                    yield Rejected(Reason.LONG_LINE.of(max_line), number)
                elif number > 1 or (line := line.removeprefix(BOM)):
                    yield number, line
    except Unreadable as fault:
        yield Rejected(fault.reason, number)


def texts(items: Iterator[Line | Rejected], rejected: list[Rejected]) -> Iterator[str]:
    """The lines as text, rejections put aside. What is no UTF-8 becomes half surrogates, which `clean` refuses."""
    for item in items:
        if isinstance(item, Rejected):
            rejected.append(item)
            yield "\n" if kind_of(item.reason) is Reason.LONG_LINE else ""  # keeps the count of lines right
        else:
            yield item[1].decode(errors="surrogateescape")
