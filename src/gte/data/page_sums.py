"""Checksums of a file's pages of 4 KiB, each compared when something of the page is first read.

A batch takes rows from anywhere in a source, so what is checked together must be small: of a whole shard, which is one
record batch, the first step would read all. A page of memory is what the system reads in any case.
"""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from gte.errors import UserError

PAGE = 4096


def page_sums(path: Path) -> np.ndarray:
    """XXH3-64 of each page of a file, little-endian uint64 [pages]; the last page may be shorter."""
    view = memoryview(pa.memory_map(str(path)).read_buffer())
    sums = (xxh3_64_intdigest(view[at : at + PAGE]) for at in range(0, len(view), PAGE))
    return np.fromiter(sums, "<u8", -(-len(view) // PAGE))


def row_sums(values_NB: np.ndarray) -> np.ndarray:
    """XXH3-64 of each row of an array, uint64 [N]; of vectors that are kept, to be compared when they are read.

    >>> a, b, c = row_sums(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])).tolist()
    >>> a == c != b
    True
    """
    values_NB = np.ascontiguousarray(values_NB)
    return np.fromiter(map(xxh3_64_intdigest, values_NB), "<u8", len(values_NB))


def check_stretch(path: Path, sums: Path, begin: int, end: int, remake: str) -> None:
    """Reads the pages of a file on which its bytes from `begin` to `end` lie and compares them.

    sums: the file of `page_sums`. remake: what the user is told to do. Raises UserError where a page differs.
    """
    first, last = begin // PAGE, -(-end // PAGE)
    expected = np.fromfile(sums, "<u8", last - first, offset=first * 8).tolist()
    if len(expected) != last - first:
        raise UserError(f"{sums} does not belong to {path}; {remake}")
    with open(path, "rb") as file:
        file.seek(first * PAGE)
        for page, digest in enumerate(expected, first):
            if xxh3_64_intdigest(file.read(PAGE)) != digest:
                raise damaged(path, page, path.stat().st_size, remake)


def damaged(path: Path, page: int, size: int, remake: str) -> UserError:
    """The error that names a page by its bytes."""
    begin, end = page * PAGE, min(page * PAGE + PAGE, size)
    return UserError(f"{path} is damaged: bytes {begin:,} to {end:,} are not as they were written; {remake}")


class Pages:
    """The pages of a mapped shard that were compared with their checksums, a bit each.

    Args:
        content: the whole file, mapped.
        sums: the file of `page_sums`, mapped too. What is kept in memory is a bit a page: 6 MB for 200 GB of shards.
        digest: its SHA-256 as the manifest has it.
        path: the shard, for messages.
        remake: what the user is told to do.
    Raises: UserError where the checksums are not those that were written.
    """

    def __init__(self, content: pa.Buffer, sums: Path, digest: str, path: Path, remake: str):
        self.path, self.remake = path, remake
        self.view, self.base = memoryview(content), content.address
        self.sums = np.frombuffer(pa.memory_map(str(sums)).read_buffer(), "<u8")  # np.memmap would keep files open
        if hashlib.sha256(self.sums).hexdigest() != digest or len(self.sums) != -(-content.size // PAGE):
            raise UserError(f"{sums} is not the file that was written: its SHA-256 differs; {remake}")
        self.known = np.zeros(len(self.sums) // 8 + 1, np.uint8)

    def check(self, array: np.ndarray, begins_N: np.ndarray, lengths_N: np.ndarray | int) -> None:
        """Compares the pages on which stretches of an array lie, as far as that was not done.

        Args:
            array: one within the mapped file.
            begins_N, lengths_N: first element and number of elements of each stretch, which may be empty.
        Raises: UserError where a page is not as it was written.
        """
        lengths_N = np.broadcast_to(lengths_N, begins_N.shape)
        begins_N, lengths_N = begins_N[lengths_N > 0], lengths_N[lengths_N > 0]
        if not len(begins_N):  # of texts without tokens; an empty array may lie anywhere
            return
        start = array.__array_interface__["data"][0] - self.base
        first_N = start + begins_N * array.itemsize
        low_N, high_N = first_N // PAGE, (first_N + lengths_N * array.itemsize - 1) // PAGE
        self.check_pages(np.concatenate([low_N, high_N[high_N > low_N]]))
        for stretch in (high_N - low_N > 1).nonzero()[0].tolist():  # more than 2,048 ids
            self.check_pages(np.arange(low_N[stretch] + 1, high_N[stretch]))

    def check_head(self, batch: pa.RecordBatch) -> None:
        """Compares what stands before the first array of a batch: the schema, and where its arrays lie."""
        held = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None]
        first = min((buffer.address for buffer in held if buffer.size), default=self.base + len(self.view))
        self.check_pages(np.arange(-(-(first - self.base) // PAGE)))

    def check_pages(self, pages: np.ndarray) -> None:
        """Compares pages by their numbers, in any order."""
        new = pages[self.known[pages >> 3] >> (pages & 7) & 1 == 0]
        if not len(new):
            return
        new = np.unique(new)
        for page, expected in zip(new.tolist(), self.sums[new].tolist(), strict=True):
            if xxh3_64_intdigest(self.view[page * PAGE : page * PAGE + PAGE]) != expected:
                raise damaged(self.path, page, len(self.view), self.remake)
        np.bitwise_or.at(self.known, new >> 3, (1 << (new & 7)).astype(np.uint8))
