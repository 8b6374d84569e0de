"""Token ids of many texts at once: those of the tokenizer's own call, without what it makes around them.

transformers' call spends half of its time on a Python object a text and on lists that nobody reads. Shapes: N texts,
T tokens of all texts end to end.
"""

import os
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gte.errors import UserError

FEW_CORES = 4  # below, remembering words is faster than the Rust tokenizer on all cores; it works on one
MAX_WORDS = 200_000  # distinct words that are remembered, some 30 MB
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class FastIds:
    """A tokenizer's ids, special tokens included, each text cut at `max_length` on the tokenizer's side.

    Its Rust part does all of it in a copy, in parallel and without Python's lock. Tokenizers that work word by word go
    through `gte.data.tokens` where cores are few; those that have a Python method of their own are called as they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.facts = facts(tokenizer, max_length)
        self.rust = self.words = None
        if any(getattr(type(tokenizer), name) is not getattr(PreTrainedTokenizerFast, name) for name in METHODS):
            return
        self.rust = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.rust.no_padding()
        self.rust.enable_truncation(max_length, direction=tokenizer.truncation_side)
        self.rust.encode_special_tokens = tokenizer.split_special_tokens
        if cores() < FEW_CORES and tokenizer.truncation_side == "right" and not tokenizer.split_special_tokens:
            self.words = by_words(tokenizer, max_length)

    def serves(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> bool:
        """Whether this is made of that tokenizer as it is now."""
        return tokenizer is self.tokenizer and facts(tokenizer, max_length) == self.facts

    def __call__(self, texts: Sequence[str], first: int = 0, prompt: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [T] and lengths int64 [N] of prompt + text.

        TypeError names what is no str, UserError a str that is no text: half of a surrogate pair, which JSON can spell.
        `first` is the number of texts[0].
        """
        texts = list(texts)
        for number, text in enumerate(texts, first):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise TypeError(f"encode takes a list of texts, but number {number} is a {kind}: {text!r:.80}")
        if prompt:
            texts = [prompt + text for text in texts]
        try:
            return self.ids(texts)
        except TypeError as error:
            for number, text in enumerate(texts, first):
                if LONE_SURROGATE.search(text):
                    raise UserError(
                        f"text number {number} holds half of a surrogate pair, which is no character: {text!r:.80}"
                    ) from error
            raise

    def ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and lengths of strings."""
        if self.words is not None:
            return self.words(texts)
        if self.rust is not None:
            lists = [encoding.ids for encoding in self.rust.encode_batch_fast(texts)]
        else:
            lists = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"] if texts else []
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum())), lengths


METHODS = ("__call__", "_encode_plus", "set_truncation_and_padding")


def facts(tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple:
    """What the ids depend on besides the tokenizer's files."""
    return len(tokenizer), tokenizer.truncation_side, getattr(tokenizer, "split_special_tokens", None), max_length


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def by_words(tokenizer: PreTrainedTokenizerBase, max_length: int):
    """Texts -> (ids [T], lengths [N]) through `gte.data.tokens`; None where the tokenizer does not work by words."""
    from gte.data.collate import frame
    from gte.data.tokenizer import special_ids
    from gte.data.tokens import Tokens

    prefix, suffix = special_ids(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    tokens = Tokens(tokenizer, room, max_words=MAX_WORDS) if room > 0 else None
    if tokens is None or not tokens.by_words:
        return None

    def ids(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        lists = tokens.encode(texts)
        flat, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy()
        return frame(flat.astype(np.int32), np.diff(offsets).astype(np.int64), max_length, prefix, suffix)

    return ids
