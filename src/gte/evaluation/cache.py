"""Embeddings by text, in a folder: an interrupted run resumes, and tasks that share texts embed them once.

Shapes: N texts, D width.
"""

import errno
import fcntl
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gte.data.page_sums import row_sums
from gte.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def text_keys(texts: Sequence[str], prompt: str = "") -> np.ndarray:
    """Hash texts behind a prompt to 64 bits; of 10M, two share a hash with probability 3e-6.

    Args:
        texts: N texts.
        prompt: the words before them.
    Returns: uint64 [N].

    >>> a, b, c = text_keys(["a", "b", "a"]).tolist()
    >>> a == c != b
    True
    """
    key = hashlib.blake2b(prompt.encode(), digest_size=16).digest() if prompt else b""
    hashes = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key) for text in texts)
    digests = (each.digest() for each in hashes)
    return np.frombuffer(b"".join(digests), "<u8")


class VectorCache:
    """float32 vectors by key in files that only grow: `keys.u64`, `vectors.f32` and the vectors' checksums `sums.u64`.

    The n-th row of each belongs together; a vector that is not as it was written is not used. Several processes may
    write to one folder; each sees what was there when it opened it and what it wrote itself. In
    memory: 16 bytes a vector.

    Args:
        width: D of the vectors.
        folder: of the files; None is a temporary one that goes with the object.
        limit_bytes: of the files; vectors beyond are not kept, `full` says so, and `full_line` to the user.

    >>> cache = VectorCache(width=2)
    >>> keys = text_keys(["a", "b"])
    >>> cache.add(keys, np.eye(2, dtype=np.float32))
    >>> cache.read(cache.find(keys[1:])).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, width: int, folder: str | Path | None = None, limit_bytes: int = 2**30):
        self.width, self.limit = width, limit_bytes // (4 * width + 16)
        self.limit_bytes = limit_bytes
        self.temporary = tempfile.TemporaryDirectory(prefix="gte-embeddings-") if folder is None else None
        self.folder = Path(self.temporary.name if folder is None else folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.full = self.disk_full = False
        with self.open_files() as (keys, *_):
            keys.seek(0)
            found = np.frombuffer(keys.read(), "<u8")
        self.keys, self.rows = np.empty(0, np.uint64), np.empty(0, np.int64)
        self.index(found, first_row=0)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def full_line(self) -> str:
        """A line that says that the cache is full, and the way out."""
        if self.disk_full:
            return f"{self.folder}: no space left on device: embeddings from here on are not kept; make room"
        size = f"{self.limit_bytes / 1e9:g} GB, {self.limit:,} embeddings"
        if self.temporary is not None:
            return f"the temporary cache of embeddings is full ({size}): texts of several tasks are embedded again"
        return f"{self.folder} is full ({size}): embeddings from here on are not kept; raise cache_gb=, or empty it"

    def find(self, keys_N: np.ndarray) -> np.ndarray:
        """Row [N] of each key, -1 where there is none."""
        if not len(self):
            return np.full(len(keys_N), -1)
        at = np.searchsorted(self.keys, keys_N).clip(max=len(self) - 1)
        return np.where(self.keys[at] == keys_N, self.rows[at], -1)

    def read(self, rows_N: np.ndarray) -> np.ndarray:
        """The vectors [N, D] of these rows. UserError where one of them is not as it was written."""
        if not len(rows_N):
            return np.empty((0, self.width), np.float32)
        shape = (int(rows_N.max()) + 1, self.width)  # what lies behind may be half a row that is being written
        x_ND = np.memmap(self.folder / "vectors.f32", "<f4", "r", shape=shape)[rows_N]
        if (row_sums(x_ND) != np.memmap(self.folder / "sums.u64", "<u8", "r", shape=shape[:1])[rows_N]).any():
            raise UserError(
                f"{self.folder / 'vectors.f32'} is damaged: an embedding is not as it was written; remove {self.folder}"
            )
        return x_ND

    def add(self, keys_N: np.ndarray, vectors_ND: np.ndarray) -> None:
        """Keeps new vectors up to the limit, and none once the disk is full."""
        if self.disk_full:
            return
        try:
            self.append(keys_N, vectors_ND)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.full = self.disk_full = True

    def append(self, keys_N: np.ndarray, vectors_ND: np.ndarray) -> None:
        """The same, where the disk has room."""
        with self.open_files() as (keys, vectors, sums):
            stored = keys.tell() // 8
            room = max(self.limit - stored, 0)
            self.full |= len(keys_N) > room
            kept_ND = np.ascontiguousarray(vectors_ND[:room], "<f4")
            vectors.write(kept_ND.tobytes())
            sums.write(row_sums(kept_ND).tobytes())
            keys.write(np.ascontiguousarray(keys_N[:room], "<u8").tobytes())
        self.index(keys_N[:room], stored)

    def index(self, keys_N: np.ndarray, first_row: int) -> None:
        """Note the rows of new keys, from `first_row` on."""
        order = np.argsort(keys_N, kind="stable")
        at = np.searchsorted(self.keys, keys_N[order], side="right")  # a merge: sorting all anew would take n log n
        self.keys = np.insert(self.keys, at, keys_N[order])
        self.rows = np.insert(self.rows, at, first_row + order)

    @contextmanager
    def open_files(self) -> Iterator[tuple[BinaryIO, BinaryIO, BinaryIO]]:
        """The files at their end, for this process alone; what a killed process wrote of only some of them is cut."""
        widths = {"keys.u64": 8, "vectors.f32": 4 * self.width, "sums.u64": 8}
        with ExitStack() as stack:
            files = [stack.enter_context((self.folder / name).open("ab+")) for name in widths]
            fcntl.flock(files[0], fcntl.LOCK_EX)  # until it is closed, after the others
            sizes = [file.seek(0, 2) // width for file, width in zip(files, widths.values(), strict=True)]
            if sizes[2] == 0 and min(sizes[:2]):  # kept before there were checksums
                shape = (min(sizes[:2]), self.width)
                files[2].write(row_sums(np.memmap(files[1], "<f4", "r", shape=shape)).tobytes())
                sizes[2] = shape[0]
            for file, width in zip(files, widths.values(), strict=True):
                file.truncate(min(sizes) * width)
                file.seek(0, 2)
            yield tuple(files)
