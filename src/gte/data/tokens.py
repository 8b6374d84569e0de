"""Texts to token ids in large batches, exactly as the tokenizer's own Rust code gives them, at several times its speed.

A tokenizer in BERT's manner works word by word, and texts repeat their words: so each distinct word goes through the
Rust tokenizer once, and texts are put together from the results by array operations. Stretches that cannot be cut
into words beforehand (not ASCII, a control character, the spelling of a special token) are cut at blanks only. Any
other kind of tokenizer gets the whole texts.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from gte.data.shards import spans
from gte.data.tokenizer import plain_reader

CHARACTERS_PER_TOKEN = 16  # of a text far longer than max_tokens, this much is tokenised at first
MAX_WORDS = 2_000_000  # distinct words that are remembered, some 300 MB
ASCII_WORDS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")  # as BERT cuts: runs, and punctuation marks one by one
CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"  # ASCII that BERT's normalizer drops, joining what is around it
BLANKS = re.compile(r"[ \t\n\r]+")


class Tokens:
    """A tokenizer's ids of texts, without special tokens, cut to `max_tokens`."""

    def __init__(self, tokenizer, max_tokens: int, max_words: int | None = None):
        self.max_tokens, self.max_words = max_tokens, max_words or MAX_WORDS
        self.head = CHARACTERS_PER_TOKEN * max_tokens
        self.id_type = pa.uint16() if max(tokenizer.get_vocab().values()) < 2**16 else pa.uint32()
        self.rust = plain_reader(tokenizer)
        state = json.loads(self.rust.to_str())
        self.by_words = works_by_words(state)
        self.lowercase = self.by_words and state["normalizer"]["lowercase"]
        self.odd = re.compile("|".join([CONTROL, *(re.escape(token["content"]) for token in state["added_tokens"])]))
        self._forget()

    def encode(self, texts: Sequence[str]) -> pa.ListArray:
        """list<uint16> or list<uint32>, a list a text."""
        heads = [text if len(text) <= self.head else cut_at_blank(text, self.head) for text in texts]
        flat, lengths = self.ids(heads)
        cut = np.array([len(head) < len(text) for head, text in zip(heads, texts, strict=True)], bool)
        if (cut & (lengths < self.max_tokens)).any():  # mostly blanks, or words of hundreds of letters
            flat, lengths = self.ids(texts)
        kept = np.minimum(lengths, self.max_tokens)
        flat = flat[spans(lengths.cumsum() - lengths, kept)]
        offsets = np.concatenate([[0], kept.cumsum()]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, self.id_type))

    def ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(flat ids, lengths) of the whole texts."""
        if not self.by_words:
            return self.rust_ids(texts)
        pieces = [self.split(text) for text in texts]
        numbers = self._numbers([piece for text in pieces for piece in text])
        starts, sizes = self._starts[numbers], self._sizes[numbers]
        ends = np.concatenate([[0], sizes.cumsum()])[np.cumsum([0, *map(len, pieces)])]
        return self._values[spans(starts, sizes)], np.diff(ends)

    def rust_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(flat ids, lengths) of the whole texts by the Rust tokenizer alone."""
        lists = [encoding.ids for encoding in self.rust.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.fromiter(chain.from_iterable(lists), np.uint32, lengths.sum()), lengths

    def split(self, text: str) -> list[str]:
        """Pieces that the tokenizer treats independently of each other: words where possible."""
        if text.isascii() and not self.odd.search(text):
            return ASCII_WORDS.findall(text.lower() if self.lowercase else text)
        pieces = BLANKS.split(text)
        return [text] if len(pieces) == 1 else [word for piece in pieces for word in self.split(piece)]

    def _numbers(self, pieces: list[str]) -> np.ndarray:
        """The number under which each piece's ids are remembered."""
        if len(self._known) > self.max_words:
            self._forget()
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._known]
        if new:
            values, sizes = self.rust_ids(new)  # before a word is known: it may raise
            self._known.update(zip(new, range(len(self._known), len(self._known) + len(new)), strict=True))
            self._values, self._sizes = np.concatenate([self._values, values]), np.concatenate([self._sizes, sizes])
            self._starts = self._sizes.cumsum() - self._sizes
        return np.fromiter(map(self._known.__getitem__, pieces), np.int64, len(pieces))

    def _forget(self) -> None:
        self._known: dict[str, int] = {}
        self._values, self._sizes, self._starts = np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.int64)


def works_by_words(state: dict) -> bool:
    """Whether a tokenizer.json describes one that cuts at blanks and around ASCII punctuation before all else."""
    normalizer, pre_tokenizer = state["normalizer"] or {}, state["pre_tokenizer"] or {}
    wide = ("normalized", "lstrip", "rstrip", "single_word")  # such an added token looks beyond its own letters
    return (
        normalizer.get("type") == "BertNormalizer"
        and normalizer["clean_text"]
        and pre_tokenizer.get("type") == "BertPreTokenizer"
        and not any(token[key] for token in state["added_tokens"] for key in wide)
        and not any(BLANKS.search(token["content"]) for token in state["added_tokens"])
    )


def cut_at_blank(text: str, limit: int) -> str:
    """The text's beginning up to the last blank before `limit` characters; all of it where there is none."""
    end = max(text.rfind(blank, 0, limit) for blank in " \n\t")
    return text[:end] if end > 0 else text
