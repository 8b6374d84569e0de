"""Texts to token ids in large batches, exactly as the tokenizer's own Rust code gives them, at many times its speed.

A tokenizer in BERT's manner works word by word, and texts repeat their words: so the bytes of a batch are cut into
words by array operations, each is found in a hash table, and new ones are cut by WordPiece at once. Stretches
that cannot be cut into words beforehand (not ASCII, a control character, the spelling of a special token) are cut at
blanks only and go through the Rust tokenizer. Where nanotoken is installed (requirements-tokens.txt), it reads the
texts of such a tokenizer. Any other kind of tokenizer gets the texts uncut.

Shapes: N texts, B bytes of their UTF-8 end to end, P pieces (words), T tokens.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from gte.data.shards import spans
from gte.data.words import KEEP, LONGEST, Lists, Numbers, WordPiece, distinct

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BYTES_PER_TOKEN = 16  # of a text far longer than max_tokens, this much is tokenised at first
BLOCK_BYTES = 2**24  # of texts looked at together
COMPARED = 1_000  # texts that nanotoken and the Rust tokenizer both read, before the first is believed
MAX_WORDS = 2_000_000  # distinct words that are remembered
FEW_WORDS = 64  # new ones: cut one by one
BLANKS = b" \t\n\r"
LETTER, BLANK, MARK, ODD = range(4)  # kinds of bytes: BERT cuts around blanks and around each ASCII punctuation mark


def kinds() -> np.ndarray:
    """The kind of each byte, uint8 [256]. ODD: no ASCII, or a control character, which BERT's normalizer drops."""
    kind = np.full(256, ODD, np.uint8)
    kind[33:127] = MARK
    for first, last in ("09", "AZ", "az"):
        kind[ord(first) : ord(last) + 1] = LETTER
    kind[list(BLANKS)] = BLANK
    return kind


KINDS = kinds().tobytes()


class Tokens:
    """Tokenize texts without special tokens, cut to `max_tokens`, by words where the tokenizer works by words, which is
    faster.

    Args:
        tokenizer: of transformers, or the Rust tokenizer below one, which then neither pads nor cuts.
        max_tokens: ids that a text may have.
        max_words: distinct words to remember; None is a default.

    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokens = Tokens(train_tokenizer(["low lower"] * 9, vocab_size=32), max_tokens=2)
    >>> [len(ids) for ids in tokens.encode(["low low low", "lower", ""])]
    [2, 1, 0]
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase | Tokenizer", max_tokens: int, max_words: int | None = None):
        if not isinstance(tokenizer, Tokenizer):
            from gte.data.tokenizer import plain_reader  # late: worker processes need no transformers

            tokenizer = plain_reader(tokenizer)
        self.rust = tokenizer
        self.max_tokens, self.max_words = max_tokens, max_words or MAX_WORDS
        self.head = BYTES_PER_TOKEN * max_tokens
        self.id_type = id_type(self.rust.get_vocab(with_added_tokens=True))
        self.dtype = np.dtype(self.id_type.to_pandas_dtype())
        state = json.loads(self.rust.to_str())
        self.by_words = works_by_words(state)
        self.lowercase = self.by_words and state["normalizer"]["lowercase"]
        spelt = [re.escape(token["content"].encode()) for token in state["added_tokens"]]
        self.special = re.compile(b"|".join(spelt), re.IGNORECASE) if spelt else None
        if self.by_words:
            model = state["model"]
            entries = {entry.encode(): number for entry, number in model["vocab"].items()}
            joint = model["continuing_subword_prefix"].encode()
            self.first = with_beginnings(entries)
            self.joined = with_beginnings(
                {entry.removeprefix(joint): number for entry, number in entries.items() if entry.startswith(joint)}
            )
            self.compared = 0
            self.longest_word, self.unknown = model["max_input_chars_per_word"], model["vocab"][model["unk_token"]]
            self.pieces = WordPiece(self.first, self.joined, self.unknown)
        self.nanotoken = read_nanotoken(self.rust.to_str()) if self.by_words else None
        self._forget()

    def encode(self, texts: Sequence[str] | pa.Array) -> pa.ListArray:
        """list<uint16> or list<uint32>, a list a text. Raises TypeError for a str that holds half a surrogate pair."""
        if self.nanotoken is not None or not self.by_words:
            texts = texts.to_pylist() if isinstance(texts, pa.Array) else texts
            flat, lengths = self.nano_ids(texts) if self.nanotoken is not None else self.rust_ids(texts)
        else:
            data_B, edges = buffers(texts)
            heads_B, head_edges = self.heads(data_B, edges)
            flat, lengths = self.ids(heads_B, head_edges)
            cut = np.diff(head_edges) < np.diff(edges)
            if (cut & (lengths < self.max_tokens)).any():  # mostly blanks, or words of hundreds of letters
                flat, lengths = self.ids(data_B, edges)
        kept = np.minimum(lengths, self.max_tokens)
        if kept.sum() < len(flat):
            flat = flat[spans(lengths.cumsum() - lengths, kept)]
        offsets = np.concatenate([[0], kept.cumsum()]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, self.id_type))

    def heads(self, data_B: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts without what is far beyond max_tokens: bytes and edges. They end at a blank of the text."""
        long = (np.diff(edges) > self.head).nonzero()[0].tolist()
        ends, parts, done = edges[1:].copy(), [], 0
        for text in long:
            start, end = int(edges[text]), int(edges[text + 1])
            head = data_B[start : start + self.head].tobytes()
            last = max(head.rfind(blank) for blank in (b" ", b"\n", b"\t"))
            if last > 0:
                parts.append(data_B[done : start + last])
                ends[text], done = start + last, end
        if not parts:
            return data_B, edges
        lengths = ends - edges[:-1]
        return np.concatenate([*parts, data_B[done:]]), np.concatenate([[0], lengths.cumsum()])

    def ids(self, data_B: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(flat ids, lengths) of the uncut texts, by words."""
        if len(data_B) > BLOCK_BYTES and len(edges) > 2:
            middle = len(edges) // 2
            split = edges[middle]
            parts = self.ids(data_B[:split], edges[: middle + 1]), self.ids(data_B[split:], edges[middle:] - split)
            return tuple(map(np.concatenate, zip(*parts, strict=True)))
        if len(self._long) + self._short.words > self.max_words:
            self._forget()
        starts_P, bytes_B, blank_B, whole_P = self.cut(data_B, edges)
        if not len(starts_P):
            return np.empty(0, self.dtype), np.zeros(len(edges) - 1, np.int64)
        low_P, high_P, long_P = spell(starts_P, bytes_B, blank_B)
        long_P[whole_P] = True
        numbers_P = self._short_numbers(low_P, high_P, long_P)
        others = long_P.nonzero()[0]
        if len(others):
            offsets = np.append(starts_P, len(data_B)).astype(np.int32)
            layout = [None, pa.py_buffer(offsets), pa.py_buffer(bytes_B)]
            pieces = pa.Array.from_buffers(pa.binary(), len(starts_P), layout).take(pa.array(others))
            pieces = pieces.dictionary_encode()
            words = [word.rstrip(BLANKS) for word in pieces.dictionary.to_pylist()]
            numbers_P[others] = self._long_numbers(words)[pieces.indices.to_numpy()]
        flat, ends_P = self._lists.join(numbers_P)
        ends = np.concatenate([[0], ends_P])[np.searchsorted(starts_P, edges)]
        return flat, np.diff(ends)

    def cut(self, data_B: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pieces that the tokenizer treats independently of each other.

        A piece ends where the next begins; blanks at its end are none of it.

        Returns: starts int64 [P]; the bytes to read; the mask of blanks; the numbers of the pieces that are no word,
        but all between two blanks.
        """
        data = data_B.tobytes()
        kind_B = np.frombuffer(bytearray(data.translate(KINDS)), np.uint8)
        spelt = [match.span() for match in self.special.finditer(data)] if self.special else []
        for start, _ in spelt:
            kind_B[start] = ODD
        texts = edges[:-1][np.diff(edges) > 0]
        blank_B = kind_B == BLANK
        first_B = np.ones(len(data_B), bool)
        np.not_equal(kind_B[1:], kind_B[:-1], out=first_B[1:])
        first_B |= kind_B == MARK
        first_B[texts] = True
        first_B &= ~blank_B
        bytes_B = np.frombuffer(data.lower(), np.uint8) if self.lowercase else data_B
        odd, begins = (kind_B == ODD).nonzero()[0], np.empty(0, np.int64)
        if len(odd):
            run_B = ~blank_B  # begins a run without blanks
            run_B[1:] &= blank_B[:-1]
            run_B[texts] = ~blank_B[texts]
            runs = np.append(run_B.nonzero()[0], len(data_B))
            whole = np.unique(np.searchsorted(runs, odd, side="right") - 1)
            begins = runs[whole]
            first_B[spans(begins + 1, runs[whole + 1] - begins - 1)] = False
            if spelt and self.lowercase:  # Rust finds special tokens before it lowers letters
                bytes_B = bytes_B.copy()
                for run in np.searchsorted(runs, [start for start, _ in spelt], side="right") - 1:
                    bytes_B[runs[run] : runs[run + 1]] = data_B[runs[run] : runs[run + 1]]
        starts_P = first_B.nonzero()[0]
        return starts_P, bytes_B, blank_B, np.searchsorted(starts_P, begins)

    def nano_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(flat ids, lengths) of the texts by nanotoken, cut; by Rust and for good where the first of them differ."""
        try:
            flat, edges = self.nanotoken.encode_batch(
                texts, add_special_tokens=False, max_length=self.max_tokens, parallel=False
            )
        except UnicodeEncodeError as error:
            raise TypeError(f"half of a surrogate pair is no character: {error}") from error
        if not self.compared and len(texts):
            self.compared = min(len(texts), COMPARED)
            ids, lengths = self.rust_ids(texts[: self.compared])
            ids = ids[spans(lengths.cumsum() - lengths, np.minimum(lengths, self.max_tokens))]
            if not np.array_equal(ids, flat[: edges[self.compared]]):
                self.nanotoken = None
                return self.rust_ids(texts)
        return flat.astype(self.dtype), np.diff(edges)

    def rust_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(flat ids, lengths) of the uncut texts by the Rust tokenizer alone."""
        lists = [encoding.ids for encoding in self.rust.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.fromiter(chain.from_iterable(lists), self.dtype, lengths.sum()), lengths

    def wordpiece(self, word: bytes) -> list[int]:
        """The ids of a word of ASCII letters and digits: of the longest entry that begins it, and so on with the rest.

        (Wu et al. 2016, Section 4.1; a fifth of the time that Rust takes for a word at a time.)
        """
        if len(word) > self.longest_word:
            return [self.unknown]
        found, begin = [], 0
        while begin < len(word):
            entries, longest = self.joined if begin else self.first, None
            for end in range(begin + 1, len(word) + 1):
                number = entries.get(word[begin:end])
                if number is None:
                    break
                if number >= 0:
                    longest, after = number, end
            if longest is None:
                return [self.unknown]
            found.append(longest)
            begin = after
        return found

    def _short_numbers(self, low_P: np.ndarray, high_P: np.ndarray, long_P: np.ndarray) -> np.ndarray:
        """The number under which the ids of each short word are remembered; any of a piece that is none."""
        numbers_P = self._short.find(low_P, high_P)
        while len(new := ((numbers_P < 0) & ~long_P).nonzero()[0]):
            low_W, high_W = distinct(low_P[new], high_P[new])
            if len(low_W) < FEW_WORDS or self.longest_word < LONGEST:
                words = np.stack([low_W, high_W], axis=1).astype("<u8").view(f"S{LONGEST}").ravel().tolist()
                values, sizes = self._wordpieces(words)
            else:
                values, sizes = self.pieces.ids(low_W, high_W)
            self._short.add(low_W, high_W, self._lists.add(values, sizes))
            numbers_P[new] = self._short.find(low_P[new], high_P[new])
        return numbers_P

    def _long_numbers(self, words: list[bytes]) -> np.ndarray:
        """The number under which each word's ids are remembered."""
        new = [word for word in dict.fromkeys(words) if word not in self._long]
        if new:
            plain = [word for word in new if word.isalnum() and not (self.special and self.special.search(word))]
            new = list(set(new).difference(plain)) + plain
            others, sizes = self.rust_ids([word.decode() for word in new[: len(new) - len(plain)]])  # it may raise
            values, more = self._wordpieces(plain)
            numbers = self._lists.add(np.concatenate([others, values]), np.concatenate([sizes, more]))
            self._long.update(zip(new, numbers.tolist(), strict=True))
        return np.fromiter(map(self._long.__getitem__, words), np.int64, len(words))

    def _wordpieces(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids end to end, how many each word has) by `wordpiece`."""
        lists = list(map(self.wordpiece, words))
        return np.fromiter(chain.from_iterable(lists), self.dtype), np.fromiter(map(len, lists), np.int64, len(lists))

    def _forget(self) -> None:
        self._short, self._long, self._lists = Numbers(), {}, Lists(self.dtype)


def spell(starts_P: np.ndarray, bytes_B: np.ndarray, blank_B: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pieces as short words: low and high uint64 [P] as `gte.data.words` has them, and the mask of those too long."""
    padded = np.zeros(len(bytes_B) + 24, np.uint8)
    np.multiply(bytes_B, ~blank_B, out=padded[: len(bytes_B)])
    eight = np.ndarray(len(bytes_B) + 16, "<u8", padded, strides=(1,))  # the eight bytes from each place on
    sizes_P = np.diff(starts_P, append=len(bytes_B))
    low_P = eight[starts_P] & KEEP[np.minimum(sizes_P, 8)]
    high_P, long_P = np.zeros(len(starts_P), np.uint64), np.zeros(len(starts_P), bool)
    more = (sizes_P > 8).nonzero()[0]
    high_P[more] = eight[starts_P[more] + 8] & KEEP[np.minimum(sizes_P[more] - 8, 8)]
    more = (sizes_P > LONGEST).nonzero()[0]
    long_P[more] = padded[starts_P[more] + LONGEST] > 0
    return low_P, high_P, long_P


def read_nanotoken(rules: str):
    """nanotoken's reader of a tokenizer.json, some four times as fast; None where it is not installed or refuses it."""
    try:
        from nanotoken import WordPieceTokenizer
    except ImportError:
        return None
    try:
        return WordPieceTokenizer.from_json(rules)
    except ValueError:
        return None


def with_beginnings(entries: dict[bytes, int]) -> dict[bytes, int]:
    """The entries, and all that some entry begins with as -1: where a search for the longest may stop."""
    beginnings = {entry[:end] for entry in entries for end in range(1, len(entry))}
    return dict.fromkeys(beginnings, -1) | entries


def id_type(vocabulary: dict[str, int]) -> pa.DataType:
    """The narrowest type of shards that holds all ids of a vocabulary."""
    return pa.uint16() if max(vocabulary.values()) < 2**16 else pa.uint32()


def buffers(texts: Sequence[str] | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 of texts end to end, uint8 [B], and where each begins and the last ends, int64 [N + 1].

    Raises TypeError for a str that is no text.
    """
    if not isinstance(texts, pa.Array):
        try:
            texts = pa.array(texts, pa.large_string())
        except UnicodeEncodeError as error:
            raise TypeError(f"half of a surrogate pair is no character: {error}") from error
    _, edges, data = texts.buffers()
    wide = pa.types.is_large_string(texts.type)
    edges = np.frombuffer(edges, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if data is None or not len(texts):
        return np.empty(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    return np.frombuffer(data, np.uint8)[edges[0] : edges[-1]], (edges - edges[0]).astype(np.int64)


def works_by_words(state: dict) -> bool:
    """Whether a tokenizer.json describes one that cuts at blanks and around ASCII punctuation before all else."""
    normalizer, pre_tokenizer = state["normalizer"] or {}, state["pre_tokenizer"] or {}
    wide = ("normalized", "lstrip", "rstrip", "single_word")  # such an added token looks beyond its own letters
    return (
        state["model"]["type"] == "WordPiece"
        and normalizer.get("type") == "BertNormalizer"
        and normalizer["clean_text"]
        and pre_tokenizer.get("type") == "BertPreTokenizer"
        and not any(token[key] for token in state["added_tokens"] for key in wide)
        and not any(set(token["content"].encode()) & set(BLANKS) for token in state["added_tokens"])
    )
