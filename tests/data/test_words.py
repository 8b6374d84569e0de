"""Short words by sixteen bytes: numbers and WordPiece against dictionaries and loops over one word."""

import random

import numpy as np
import pytest

from gte.data import words
from gte.data.tokens import spell
from gte.data.words import LONGEST, Lists, Numbers, WordPiece, distinct, spelt


def some_words(seed: int, count: int, letters: str = "abc") -> list[bytes]:
    rng = random.Random(seed)
    made = {"".join(rng.choices(letters, k=rng.randrange(1, LONGEST + 1))) for _ in range(count)}
    return [word.encode() for word in sorted(made)]


def greedy(word: bytes, first: dict[bytes, int], joined: dict[bytes, int], unknown: int) -> list[int]:
    ids, begin = [], 0
    while begin < len(word):
        entries = joined if begin else first
        end = next((end for end in range(len(word), begin, -1) if word[begin:end] in entries), None)
        if end is None:
            return [unknown]
        ids.append(entries[word[begin:end]])
        begin = end
    return ids


@pytest.mark.parametrize("crowded", [False, True])
def test_words_keep_their_numbers_however_many_come_and_wherever_they_fall(monkeypatch, crowded):
    if crowded:  # all words begin at the same few slots
        monkeypatch.setattr(words, "mixed", lambda low, high: (low & np.uint64(3)) << np.uint64(62))
    numbers, known = Numbers(), {}
    for seed in range(4):
        new = [word for word in some_words(seed, 300 if crowded else 5_000) if word not in known]
        added = np.arange(len(known), len(known) + len(new))
        numbers.add(*spelt(new), added)
        known |= dict(zip(new, added.tolist(), strict=True))
        asked = list(known) + some_words(seed + 50, 100, "xyz")
        assert numbers.find(*spelt(asked)).tolist() == [known.get(word, -1) for word in asked]
    assert numbers.words == len(known) and 2 * len(known) <= len(numbers.number)


def test_all_words_at_once_are_cut_as_each_by_itself():
    rng = random.Random(3)
    entries = [*some_words(1, 60, "ab"), b"a", b"c" * LONGEST, b"d" * (LONGEST + 1)]
    first, joined = ({entry: rng.randrange(9_000) for entry in rng.sample(entries, 50)} for _ in range(2))
    first |= {b"a": 7, b"aab": -1}  # a number below 0: something begins like it
    asked = [*some_words(2, 4_000, "ab"), *some_words(4, 50, "abcd"), *entries[:-1]]
    ids, counts = WordPiece(first, joined, 9_999).ids(*spelt(asked))
    del first[b"aab"]
    expected = [greedy(word, first, joined, 9_999) for word in asked]
    assert [part.tolist() for part in np.split(ids, counts.cumsum()[:-1])] == expected
    assert sum(len(one) > 2 for one in expected) > 100 and [9_999] in expected and max(map(len, expected)) > 5


def test_pieces_are_spelt_without_their_blanks_up_to_sixteen_bytes():
    texts = [b"a", b"abcdefgh ", b"abcdefgh  \t\n", b"abcdefghi", b"x" * 16 + b" " * 9, b"x" * 17, b"y" * 40, b"end"]
    data = np.frombuffer(b"".join(texts), np.uint8)
    starts = np.cumsum([0, *map(len, texts)])[:-1]
    low, high, long = spell(starts, data, np.isin(data, list(b" \t\n\r")))
    assert long.tolist() == [len(text.rstrip()) > LONGEST for text in texts]
    short = [text.rstrip() for text in texts if len(text.rstrip()) <= LONGEST]
    for found, expected in zip((low, high), spelt(short), strict=True):
        assert found[~long].tolist() == expected.tolist()


def test_distinct_words_and_lists_of_ids_are_those_given():
    asked = [random.Random(0).choice(some_words(5, 90)) for _ in range(500)] + some_words(5, 90)
    found = distinct(*spelt(asked))
    assert sorted(zip(*(one.tolist() for one in found), strict=True)) == sorted(
        set(zip(*(one.tolist() for one in spelt(asked)), strict=True))
    )
    lists, rng, held = Lists(np.dtype(np.uint16)), random.Random(0), []
    for empty in (0, 1):
        new = [[rng.randrange(9) for _ in range(rng.randrange(1 - empty, 5))] for _ in range(2_000)]
        sizes = np.array(list(map(len, new)))
        assert lists.add(np.array(sum(new, [])), sizes).tolist() == list(range(len(held), len(held) + len(new)))
        held += new
        numbers = np.array([rng.randrange(len(held)) for _ in range(3_000)])
        flat, ends = lists.join(numbers)
        assert flat.tolist() == sum((held[number] for number in numbers), []) and ends[-1] == len(flat)
    assert lists.join(np.empty(0, np.int64))[0].tolist() == []
