"""Archives: what stands before damage comes out whole, whichever library unpacks it."""

import gzip
import zipfile
from pathlib import Path

import pytest

from gte.data.raw_lines import Unreadable, open_raw

LINES = b"".join(b"line %d of the file\n" % number for number in range(200_000))
WHOLE = gzip.compress(LINES)
MIDDLE = len(WHOLE) // 2
DAMAGED = {
    "cut in the middle": WHOLE[:MIDDLE],
    "cut within the last bytes": WHOLE[:-4],
    "a wrong checksum": WHOLE[:-8] + bytes(4) + WHOLE[-4:],
    "a wrong length": WHOLE[:-4] + bytes(4),
    "words behind its end": WHOLE + b"words",
    "a second member cut in its header": WHOLE + WHOLE[:5],
    "a second member cut": WHOLE + WHOLE[:MIDDLE],
}


def unpacked(path: Path | zipfile.Path) -> tuple[bytes, bool]:
    """What can be read of a file, and whether that is all."""
    chunks = []
    try:
        with open_raw(path) as stream:
            while chunk := stream.read1(2**18):
                chunks.append(chunk)
    except Unreadable:
        return b"".join(chunks), False
    return b"".join(chunks), True


def by_python(packed: Path) -> bytes:
    """What Python's own gzip gives of an archive up to its damage."""
    chunks = []
    with gzip.open(packed) as stream:
        try:
            while chunk := stream.read1(2**16):
                chunks.append(chunk)
        except (OSError, EOFError):
            return b"".join(chunks)
    raise AssertionError("not damaged")


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("zipped", [False, True])
def test_of_a_damaged_gzip_archive_all_comes_out_that_python_gives_of_it(tmp_path, damage, zipped):
    path = tmp_path / "a.gz"
    path.write_bytes(DAMAGED[damage])
    expected = by_python(path)
    assert len(expected) > 0.45 * len(LINES)
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(path, "a.gz")
        path = zipfile.Path(tmp_path / "a.zip", "a.gz")
    assert unpacked(path) == (expected, False)


@pytest.mark.parametrize("packed", [WHOLE, WHOLE + bytes(1024), gzip.compress(LINES[:99]) + gzip.compress(LINES[99:])])
def test_whole_archives_of_several_members_or_with_padding_come_out_whole(tmp_path, packed):
    path = tmp_path / "a.gz"
    path.write_bytes(packed)
    assert unpacked(path) == (LINES, True)
