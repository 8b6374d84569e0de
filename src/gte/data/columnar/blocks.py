"""Whole lines of a raw file, some MiB at a time, and work on them by several threads."""

import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gte.data.raw_lines import BOM, Unreadable, open_raw
from gte.data.reasons import Reason
from gte.data.records import Rejected

BLOCK_BYTES = 2**21  # of lines that are parsed together
CHUNK_BYTES = 2**18  # as `readers.lines` reads: so a damaged archive gives the same lines
DEEP, LONG_NUMBER = 400, 4_300  # brackets and digits of a line that Python's parser may refuse, where Arrow's continues


def in_turn(jobs: Iterable[Callable[[], list]], threads: int) -> Iterator[list]:
    """The results of jobs in their order, worked on by some threads, so many in advance; by none where one is asked."""
    if threads < 2:
        for job in jobs:
            yield job()
        return
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Lines(NamedTuple):
    """Whole lines of a file: the number of the first one, the bytes, and how many were cut off before them (a BOM)."""

    number: int
    data: bytes
    cut: int = 0


def line_blocks(path: Path | zipfile.Path, max_line: int) -> Iterator[Lines | Rejected]:
    """The lines that `readers.lines` gives, some MiB at a time, and its rejections.

    A line of more than max_line bytes may be among those of a block, where it fits in there: that is for the caller.
    """
    number, over = 0, False  # lines so far; whether an over-long one has not ended yet
    held: list[bytes] = []
    size = 0

    def take(end: bool) -> Iterator[Lines | Rejected]:
        """The complete lines in the buffer; at the file's end all of it."""
        nonlocal number, over, held, size
        data = b"".join(held)
        if over and (end or b"\n" in data):
            data, over = data.partition(b"\n")[2], False
            yield Rejected(Reason.LONG_LINE.of(max_line), number)
        stop = len(data) if end else data.rfind(b"\n") + 1
        if not over and stop:
            cut = len(BOM) if number == 0 and data.startswith(BOM) else 0
            if stop > cut:
                yield Lines(number + 1, data[cut:stop] if cut or stop < len(data) else data, cut)
            # bytes.count takes 2.5 times as long, and Python's lock
            breaks = int(np.count_nonzero(np.frombuffer(data, np.uint8, stop) == ord("\n")))
            number += breaks + (end and not data.endswith(b"\n"))
        if not over and len(data) - stop > max_line:
            over, number = True, number + 1
        held = [] if over else [data[stop:]]
        size = sum(map(len, held))

    try:
        with open_raw(path) as stream:
            while chunk := stream.read1(CHUNK_BYTES):
                held.append(chunk)
                size += len(chunk)
                if size >= BLOCK_BYTES and (over or b"\n" in chunk or size > max_line):
                    yield from take(end=False)
        yield from take(end=True)
    except Unreadable as fault:
        yield from take(end=False)
        yield Rejected(fault.reason, number)


class Block:
    """Where the lines of a block begin and end.

    starts, ends: of the lines without their line ends, "\\n" or "\\r\\n". lengths: with them, as in the file. first,
    last: the first and the last byte of each; of an empty line some byte that is neither bracket.
    """

    def __init__(self, block: Lines):
        self.data, self.bytes = block.data, np.frombuffer(block.data, np.uint8)
        breaks = np.flatnonzero(self.bytes == ord("\n"))
        if not block.data.endswith(b"\n"):
            breaks = np.append(breaks, len(self.bytes))
        self.starts = np.append(0, breaks[:-1] + 1)
        self.stops = np.minimum(breaks + 1, len(self.bytes))
        self.lengths = self.stops - self.starts
        self.lengths[0] += block.cut
        self.ends = breaks - ((breaks > self.starts) & (self.bytes[breaks - 1] == ord("\r")))
        self.first = self.bytes[self.starts]
        self.last = np.where(self.ends > self.starts, self.bytes[self.ends - 1], 0)

    def line(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.stops[number]]

    def join(self, chosen: np.ndarray) -> bytes:
        """The chosen lines, in ascending order, as one text."""
        if len(chosen) == len(self.starts):
            return self.data
        breaks = np.flatnonzero(np.diff(chosen) != 1)
        begins, stops = self.starts[chosen[np.append(0, breaks + 1)]], self.stops[chosen[np.append(breaks, -1)]]
        return b"".join(self.data[begin:stop] for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True))

    def are_odd(self) -> np.ndarray:
        """The mask of JSON lines that Arrow may read and Python refuse: by depth, by a number's length or its name.

        None is where all values are texts.
        """
        odd = np.zeros(len(self.starts), bool)
        if self.data.count(b"[") + self.data.count(b"{") - len(odd) > DEEP:
            brackets = (self.bytes == ord("[")) | (self.bytes == ord("{"))
            odd = np.add.reduceat(brackets.astype(np.int32), self.starts) > DEEP
        for line in np.flatnonzero(self.lengths > LONG_NUMBER).tolist():
            odd[line] |= re.search(rb"[0-9]{%d}" % LONG_NUMBER, self.line(line)) is not None
        for name in (b"Inf", b"NaN"):  # Arrow knows Inf and -NaN as well
            place = self.data.find(name)
            while place >= 0:
                if self.data[max(0, place - 16) : place].rstrip()[-1:] in (b"", b":", b",", b"[", b"-"):
                    odd[np.searchsorted(self.starts, place, side="right") - 1] = True
                place = self.data.find(name, place + 1)
        return odd
