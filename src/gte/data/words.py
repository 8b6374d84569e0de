"""Short words by the sixteen bytes that spell them: numbered by a hash table, cut by WordPiece, all of them at once.

A word is two unsigned 64-bit numbers, low and high: its first and its next eight bytes, zeros behind its end. No word
holds a byte of 0, so no two words are spelt alike. Shapes: W words, T ids.
"""

import numpy as np

from gte.data.shards import spans

LONGEST = 16  # bytes of a short word
KEEP = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # the first `size` bytes of eight
ODD_LOW, ODD_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # 2^64 / phi, and a prime of XXH64
LEAST_SLOTS = 2**12


class Numbers:
    """A number by word: open addressing (Knuth, Volume 3, Section 6.4), at most half full."""

    def __init__(self):
        self.words = 0
        self._empty(LEAST_SLOTS)

    def _empty(self, slots: int) -> None:
        self.low, self.high = np.zeros(slots, np.uint64), np.zeros(slots, np.uint64)
        self.number = np.full(slots, -1, np.int32)
        self.shift = np.uint64(64 - (slots.bit_length() - 1))

    def _slots(self, low_W: np.ndarray, high_W: np.ndarray) -> np.ndarray:
        return (mixed(low_W, high_W) >> self.shift).astype(np.int64)

    def find(self, low_W: np.ndarray, high_W: np.ndarray) -> np.ndarray:
        """The numbers of words, int32 [W]; -1 of one that has none."""
        slots_W = self._slots(low_W, high_W)
        numbers_W = self.number[slots_W]
        other = ((self.low[slots_W] != low_W) | (self.high[slots_W] != high_W)) & (numbers_W >= 0)
        missed = other.nonzero()[0]
        while len(missed):
            slots = slots_W[missed] = (slots_W[missed] + 1) & (len(self.number) - 1)
            numbers = numbers_W[missed] = self.number[slots]
            same = (self.low[slots] == low_W[missed]) & (self.high[slots] == high_W[missed])
            missed = missed[~same & (numbers >= 0)]
        return numbers_W

    def add(self, low_W: np.ndarray, high_W: np.ndarray, numbers_W: np.ndarray) -> None:
        """Number words, no two alike and none of them numbered before."""
        self.words += len(low_W)
        if 2 * self.words > len(self.number):
            held = (self.number >= 0).nonzero()[0]
            low_W, high_W = np.append(self.low[held], low_W), np.append(self.high[held], high_W)
            numbers_W = np.append(self.number[held], numbers_W)
            self._empty(1 << (4 * self.words - 1).bit_length())
        slots_W, left = self._slots(low_W, high_W), np.arange(len(low_W))
        while len(left):
            slots = slots_W[left]
            free = self.number[slots] < 0
            placed, at = left[free], slots[free]
            self.number[at] = placed  # of several words for a slot one gets it
            won = self.number[at] == placed
            placed, at = placed[won], at[won]
            self.low[at], self.high[at], self.number[at] = low_W[placed], high_W[placed], numbers_W[placed]
            settled = np.zeros(len(left), bool)
            settled[free.nonzero()[0][won]] = True
            left = left[~settled]
            slots_W[left] = (slots_W[left] + 1) & (len(self.number) - 1)


class WordPiece:
    """The ids of short words by longest entries first (Wu et al. 2016, Section 4.1), of many words at once.

    Args:
        first: ids by entries that begin a word.
        joined: ids by entries that continue one.
        unknown: the id of a word that cannot be put together from entries.
    """

    def __init__(self, first: dict[bytes, int], joined: dict[bytes, int], unknown: int):
        self.first, self.joined, self.unknown = number_entries(first), number_entries(joined), unknown

    def ids(self, low_W: np.ndarray, high_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids end to end int64 [T], how many each word has int64 [W])."""
        low_W, high_W, sizes_W = low_W.copy(), high_W.copy(), byte_counts(low_W, high_W)
        ids, counts_W = np.empty((len(low_W), LONGEST), np.int64), np.zeros(len(low_W), np.int64)
        left, entries = np.arange(len(low_W)), self.first
        while len(left):
            begun = []
            for size in range(int(sizes_W[left].max()), 0, -1):
                long = sizes_W[left] >= size
                these = left[long]
                low, high = low_W[these] & KEEP[min(size, 8)], high_W[these] & KEEP[max(size - 8, 0)]
                found = entries.find(low, high)
                fits = found >= 0
                these = these[fits]
                ids[these, counts_W[these]] = found[fits]
                counts_W[these] += 1
                low_W[these], high_W[these] = without(low_W[these], high_W[these], size)
                sizes_W[these] -= size
                begun.append(these)
                long[long] = fits
                left = left[~long]
                if not len(left):
                    break
            ids[left, 0], counts_W[left] = self.unknown, 1
            left = np.concatenate(begun)
            left, entries = left[sizes_W[left] > 0], self.joined
        return ids[np.arange(LONGEST) < counts_W[:, None]], counts_W


def mixed(low_W: np.ndarray, high_W: np.ndarray) -> np.ndarray:
    """64 bits of each word, the first of which spread it over a table."""
    return (low_W ^ (high_W * ODD_HIGH)) * ODD_LOW


def distinct(low_W: np.ndarray, high_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words without repetitions; of different words with equal bits, as happens once in 2^64 times, only one."""
    bits = mixed(low_W, high_W)
    order = bits.argsort()
    bits = bits[order]
    order = order[np.append(True, bits[1:] != bits[:-1])]
    return low_W[order], high_W[order]


def number_entries(entries: dict[bytes, int]) -> Numbers:
    """The ids of those entries that a short word may hold; a number below 0 is none."""
    short = {entry: number for entry, number in entries.items() if number >= 0 and 0 < len(entry) <= LONGEST}
    low, high = spelt(list(short))
    numbers = Numbers()
    numbers.add(low, high, np.fromiter(short.values(), np.int32, len(short)))
    return numbers


def spelt(words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Short words as the numbers that spell them."""
    both = np.frombuffer(b"".join(word.ljust(LONGEST, b"\0") for word in words), "<u8").reshape(-1, 2)
    return both[:, 0].astype(np.uint64), both[:, 1].astype(np.uint64)


def byte_counts(low_W: np.ndarray, high_W: np.ndarray) -> np.ndarray:
    """Count the bytes of each word, int64 [W]."""
    counts = (low_W > KEEP[:8, None]).sum(axis=0) + (high_W > KEEP[:8, None]).sum(axis=0)
    return counts.astype(np.int64)


def without(low_W: np.ndarray, high_W: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The words without their first bytes."""
    if size >= 8:
        return high_W >> np.uint64(8 * (size - 8)) if size < LONGEST else np.zeros_like(high_W), np.zeros_like(high_W)
    bits = np.uint64(8 * size)
    return (low_W >> bits) | (high_W << (np.uint64(64) - bits)), high_W >> bits


class Lists:
    """Lists of ids by number, from 0, end to end in one array that grows."""

    def __init__(self, dtype: np.dtype):
        self.values, self.starts, self.count = np.empty(2**10, dtype), np.zeros(2**10, np.int64), 0

    def add(self, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Add lists, given end to end with their sizes; returns their numbers."""
        before, self.count = self.count, self.count + len(sizes)
        start = self.starts[before]
        self.values = grown(self.values, start + len(ids))
        self.starts = grown(self.starts, self.count + 1)
        self.values[start : start + len(ids)] = ids
        self.starts[before + 1 : self.count + 1] = start + sizes.cumsum()
        return np.arange(before, self.count)

    def join(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the lists of these numbers end to end, where each of them ends)."""
        starts_N = self.starts[numbers]
        sizes_N = self.starts[numbers + 1] - starts_N
        ends_N = sizes_N.cumsum()
        flat = np.empty(int(ends_N[-1]) if len(ends_N) else 0, self.values.dtype)
        if sizes_N.all():
            flat[ends_N - sizes_N] = self.values[starts_N]
            more = (sizes_N > 1).nonzero()[0]  # most words are one token
            sizes, after = sizes_N[more] - 1, starts_N[more] + 1
            flat[spans(ends_N[more] - sizes, sizes)] = self.values[spans(after, sizes)]
        else:
            flat[:] = self.values[spans(starts_N, sizes_N)]
        return flat, ends_N


def grown(array: np.ndarray, least: int) -> np.ndarray:
    """The array, or a copy of twice the length and more where it has not so many places."""
    if least <= len(array):
        return array
    larger = np.empty(2 * least, array.dtype)
    larger[: len(array)] = array
    return larger
