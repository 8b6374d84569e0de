"""A prompt before prepared texts: its token ids in front of theirs, as if the tokenizer had read both as one string.

Where a tokenizer joins the last of the prompt to the first of a text (byte-level BPE puts the blank between two words
before the second), the text is spelt from its ids and read again behind the prompt. What is right is found out on texts
of the source before the first step.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from gte.data.collate import Texts, frame
from gte.data.shards import spans
from gte.errors import UserError
from gte.models.pretrained import Settings
from gte.prompts import KINDS, NAMES, check_prompts, prompt_of, with_prompts

TRIED = 200  # texts of a source that are tried behind its prompt
WRONG = 0.01  # of them may get other ids than the tokenizer gives
SPARE = 32  # ids beyond a text's end that are read again with it: a cut may change the ids just before it


@dataclass(frozen=True)
class Prompt:
    """ids: of the words. skip: how many tokens of a text in its frame of special ones are not pooled. reader: what
    reads words and text as one, None where ids are joined."""

    words: str
    ids: list[int]
    skip: int = 0
    reader: Tokenizer | None = None

    def before(self, texts: Texts, longest: int) -> Texts:
        """The texts with the prompt in front; from `longest` ids on they are of no use."""
        flat, lengths = texts
        if self.reader is None:
            return frame(flat, lengths, 2**62, self.ids, [])
        kept = np.minimum(lengths, longest + SPARE)
        flat = flat[spans(lengths.cumsum() - lengths, kept)]
        texts = (self.reader.decode(ids, skip_special_tokens=False) for ids in split((flat, kept)))
        return flatten(read(self.reader, (self.words + text for text in texts)), flat.dtype)


def read(reader: Tokenizer, texts: Iterator[str] | list[str]) -> list[list[int]]:
    """Ids without special tokens; one by one, since a forked process has no threads for a batch."""
    return [reader.encode(text, add_special_tokens=False).ids for text in texts]


def split(texts: Texts) -> list[list[int]]:
    """The ids of each text."""
    flat, lengths = texts
    return [part.tolist() for part in np.split(flat, lengths.cumsum())[:-1]]


def flatten(lists: Sequence[Sequence[int]], dtype=np.int64) -> Texts:
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return np.fromiter(chain.from_iterable(lists), dtype, lengths.sum()), lengths


def words_by_source(given: dict | None, sources: list[str], known: Sequence[str], settings: Settings) -> dict:
    """source -> {kind: words} by `data.prompts`: {query: words, document: words}, or such a dict by source, or both.

    None stands for the model's own, also by source, as `trained_with` names them, {} for none; a source's own
    dict stands for all of the common one. Raises UserError for a kind, or a source, that is not there.
    """
    if given is None:
        given = {kind: prompt_of(settings, kind) for kind in KINDS}
        for source in sources:
            own = {
                kind: settings.prompts[f"{source}-{kind}"] for kind in KINDS if f"{source}-{kind}" in settings.prompts
            }
            given = given | {source: own} if own else given
    common, special = {}, {}
    for key, value in given.items():
        if isinstance(value, str) and key in KINDS:
            common[key] = value
        elif isinstance(value, dict) and key in known:
            if wrong := [kind for kind, words in value.items() if kind not in KINDS or not isinstance(words, str)]:
                raise UserError(f"data.prompts.{key}.{wrong[0]}={value[wrong[0]]}: give words as query or document")
            special[key] = value
        elif isinstance(value, dict):
            raise UserError(f"data.prompts names the source '{key}'; the prepared sources are {', '.join(known)}")
        else:
            raise UserError(
                f"data.prompts.{key}={value}: give words as query or document, data.prompts={{query: 'query: ', "
                f"document: 'passage: '}}, or such a pair by source, data.prompts={{{sources[0]}: {{query: ...}}}}"
            )
    chosen = {source: special.get(source, common) for source in sources}
    return {source: {kind: words for kind, words in each.items() if words} for source, each in chosen.items()}


def words_to_rank(given: dict | None, sources: list[str], settings: Settings, key: str = "prompts") -> dict:
    """source -> {kind: words} for texts that are ranked: `given` are words by kind, such dicts by source, or both.

    None stands for the model's own: those that it was trained with on that source, else those for all texts. A source's
    own dict stands for all of the common one. Raises UserError for a kind or a source that is not there.
    """
    if given is not None and not isinstance(given, dict):
        check_prompts(given, key=key)
    own = {str(name): words for name, words in (given or {}).items() if isinstance(words, dict)}
    common = None if given is None else {name: words for name, words in given.items() if str(name) not in own}
    check_prompts(common, known=(), key=key)
    for name, words in own.items():
        check_prompts(words, known=(), key=f"{key}.{name}")
        if name not in sources:
            raise UserError(f"{key} names the source '{name}'; the sources are {', '.join(sources) or 'not named'}")
    shared = with_prompts(settings, common, key)
    found = {}
    for source in sources:
        by_name = {kind: settings.prompts.get(f"{source}-{kind}", "") for kind in KINDS}
        if given is None and any(by_name.values()):
            found[source] = by_name
        else:
            chosen = with_prompts(settings, own[source], key) if source in own else shared
            found[source] = {kind: prompt_of(chosen, kind) for kind in KINDS}
    return found


def sources_of(settings: Settings) -> list[str]:
    """The sources that a model names prompts of, as `trained_with` does."""
    ends = tuple(f"-{kind}" for kind in KINDS)
    return list(dict.fromkeys(name.rpartition("-")[0] for name in settings.prompts if name.endswith(ends)))


def trained_with(settings: Settings, by_source: dict[str, dict[str, str]]) -> Settings:
    """The settings of a model that was trained so: `query` and `document` as all sources have them, and where sources
    differ each one's as `<source>-query`; the model's other prompts stay."""
    ours = {name for names in NAMES.values() for name in names} | {f"{s}-{kind}" for s in by_source for kind in KINDS}
    prompts = {name: words for name, words in settings.prompts.items() if name not in ours}
    for kind in KINDS:
        words = {source: each.get(kind, "") for source, each in by_source.items()}
        shared = len(set(words.values())) == 1
        named = {kind: next(iter(words.values()))} if shared else {f"{source}-{kind}": w for source, w in words.items()}
        prompts |= {name: words for name, words in named.items() if words}
    default = settings.default_prompt if settings.default_prompt in prompts else None
    return replace(settings, prompts=prompts, default_prompt=default)


def fit_prompt(
    words: str, reader: Tokenizer, texts: list[str], skip: int, longest: int, max_tokens: int, key: str
) -> tuple[Prompt, int]:
    """The prompt that gives `texts` the ids which `reader` gives the strings, and how many of them it does not.

    longest: ids that a text may have; max_tokens: of the prepared texts. Raises UserError, with `key`, where more than
    WRONG of them get other ids.
    """
    alone, whole = read(reader, texts), read(reader, [words + text for text in texts])
    heads = [tuple(w[: len(w) - len(a)]) for a, w in zip(alone, whole, strict=True) if w[len(w) - len(a) :] == a]
    ids = list(Counter(heads).most_common(1)[0][0]) if heads else read(reader, [words])[0]
    flat = flatten([a[:max_tokens] for a in alone])
    compared = min(longest, max_tokens)
    best, fewest = None, [*range(len(texts)), -1]
    for prompt in (Prompt(words, ids, skip), Prompt(words, ids, skip, reader)):
        found = split(prompt.before(flat, longest))
        wrong = [row for row, ids in enumerate(found) if ids[:compared] != whole[row][:compared]]
        if len(wrong) < len(fewest):
            best, fewest = prompt, wrong
    if len(fewest) > WRONG * len(texts):
        raise UserError(
            f"{key}='{words}': the tokenizer reads it together with the text behind it, {len(fewest)} of {len(texts)} "
            f"texts of the source, {texts[fewest[0]][:40]!r} the first; end the prompt with a blank"
        )
    return best, len(fewest)


def some_texts(folder: Path, table, kind: str, reader: Tokenizer) -> list[str]:
    """TRIED of a source's queries or documents; where its pairs were not kept, spelt from their ids."""
    pairs = folder / "pairs" / f"{table.name}.parquet"
    if pairs.exists():
        rows = next(pq.ParquetFile(pairs, page_checksum_verification=True).iter_batches(TRIED, columns=[kind]), None)
        texts = [] if rows is None else rows.column(0).to_pylist()
    else:
        ids = split(table.gather(kind, np.arange(min(TRIED, len(table)))))
        texts = [reader.decode(each, skip_special_tokens=False) for each in ids]
    return [text for text in texts if text]
