"""Texts of evaluation sets among the training pairs: the same text, or a run of n words of it.

Words are those of `gte.data.compared`: punctuation, spacing, case, accents and Unicode form do not matter. The rule
that one shared run of 13 words is enough is that of Brown et al. (2020), Appendix C; Chowdhery et al. (2022), Section
8, ask for 70 % of an evaluation text's runs of 8 words. The GTE paper removes equal pairs only and names that a
limitation.

The index is that of the evaluation sets, some 14 bytes a word; the training pairs stream by it.
"""

import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gte.data.columnar.plain import lengths_of
from gte.data.compared import split_words
from gte.data.distinct import keep_negatives
from gte.data.reasons import Reason
from gte.data.records import text_hash
from gte.data.shards import spans
from gte.data.task_folder import JSONL, Folder, find_tasks
from gte.errors import UserError
from gte.files import is_hidden, json_object

if TYPE_CHECKING:
    import pyarrow as pa


FIELDS = {  # of the files of evaluation tasks: which of their texts are queries, which documents
    "queries": ("text", "query", "sentence1", "sentence2", "sent1", "sent2", "sentences", "docstring"),
    "documents": ("positive", "negative", "code", "human_summaries", "machine_summaries"),
}
CORPUS = {"queries": (), "documents": ("title", "text")}
QRELS = (".tsv", ".tsv.gz", *JSONL)
COMMON = 100  # evaluation texts: an n-gram that more of them share is a phrase of theirs, and tells none of them
MAX_WORDS = 2_000_000  # distinct words whose hashes are remembered, some 300 MB
ROWS = 2_048  # pairs looked at together
EXAMPLES = 3  # pairs shown of a source, an evaluation set and a reason
SHOWN = 200  # characters of an example's words
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: of the polynomial over the words' hashes


class Match(StrEnum):
    """The ways in which an evaluation text is found in a pair's."""

    EXACT = "exact"
    NGRAM = "ngram"


REASONS = {Match.EXACT: Reason.EVALUATION_TEXT, Match.NGRAM: Reason.EVALUATION_NGRAM}
NEGATIVES = "negatives"  # of other pairs, counted beside the pairs of each match


@dataclass(frozen=True)
class Decontamination:
    """The pairs that count as contaminated: a text of theirs equals an evaluation set's, or holds n-grams of one.

    Args:
        folder: of evaluation tasks, a folder a task. Their training splits are skipped: files of that name, and queries
            that no qrels file but that of a training split asks. The documents of a retrieval task are those of all
            its splits.
        texts: "queries", "documents" or both.
        ngram: words of an n-gram, None to compare entire texts only.
        overlap: share of an evaluation text's n-grams that must be there, from 0, which means a single one, to 1.
        min_words: an evaluation text of fewer words is in any corpus, and skipped.
    """

    folder: Path
    texts: tuple[str, ...] = ("queries", "documents")
    ngram: int | None = 13
    overlap: float = 0.0
    min_words: int = 4

    def check(self) -> None:
        """Raises UserError for a folder that is not there and values of no sense."""
        find_tasks(self.folder)
        if not self.texts or set(self.texts) - set(FIELDS):
            raise UserError(f"data.decontaminate.texts={list(self.texts)} must name queries, documents or both")
        if (self.ngram is not None and self.ngram < 2) or not 0 <= self.overlap <= 1 or self.min_words < 1:
            raise UserError(
                f"data.decontaminate: ngram={self.ngram} must be at least 2 or null, overlap={self.overlap} a share, "
                f"min_words={self.min_words} at least 1"
            )

    def files(self) -> dict[str, list[Path]]:
        """The files of every task but its training split."""
        found = {}
        for name, task in find_tasks(self.folder).items():
            paths = [path for path in task.rglob("*.jsonl*") if not is_hidden(path.relative_to(task))]
            found[name] = sorted(path for path in paths if not path.name.startswith("train"))
        return found

    def stamp(self) -> dict:
        """Everything that the result depends on."""
        files = [path for paths in self.files().values() for path in paths]
        files += [qrels for path in files if is_queries(path) for qrels in evaluation_qrels(path.parent)]
        stats = [(path, path.stat()) for path in dict.fromkeys(files)]
        files = [[path.relative_to(self.folder).as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        facts = {"texts": list(self.texts), "ngram": self.ngram, "overlap": self.overlap, "min_words": self.min_words}
        return {**facts, "files": files}


class EvaluationTexts:
    """The distinct texts of the evaluation sets, found again in any other text by hash.

    A text that is none of them is taken for one with a probability of 2^-64 for every pair of n-grams compared.
    """

    def __init__(self, settings: Decontamination):
        self.settings, self.hashes = settings, WordHashes()
        self.origins: list[tuple[str, str]] = []  # (set, file:row) of each distinct text of a set
        known: set[tuple[str, int]] = set()
        texts = []
        self.sets = dict.fromkeys(settings.files(), 0)
        self.short = dict.fromkeys(self.sets, 0)
        for name, place, text in evaluation_texts(settings):
            words = split_words(text)
            key = (name, whole_hash(words))
            if key in known:
                continue
            known.add(key)
            if len(words) < settings.min_words:
                self.short[name] += 1
            else:
                self.sets[name] += 1
                self.origins.append((name, place))
                texts.append(words)
        if not texts:
            raise UserError(
                f"{settings.folder} holds no text to look for; data.decontaminate.texts={list(settings.texts)}, "
                f"min_words={settings.min_words}"
            )
        wholes = np.array([whole_hash(words) for words in texts], np.uint64)
        self.whole = Postings(wholes, np.arange(len(texts), dtype=np.int32))
        if settings.ngram:
            grams, owners, _ = self.hashes.ngrams(texts, settings.ngram)
            grams, owners = distinct(grams, owners)
            self.grams = Postings(grams, owners.astype(np.int32), most=COMMON)
            self.sizes = np.bincount(self.grams.owners, minlength=len(texts))

    def find(self, texts: Sequence[str]) -> dict[int, dict[int, tuple[Match, str]]]:
        """{number of a contaminated text: {number of an evaluation text: (how, the words)}}."""
        found: dict[int, dict[int, tuple[Match, str]]] = defaultdict(dict)
        split = [split_words(text) for text in texts]
        if self.settings.ngram:
            grams, of_text, starts = self.hashes.ngrams(split, self.settings.ngram)
            places, owners = self.grams.find(grams)
            shared: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
            for place, owner in zip(places.tolist(), owners.tolist(), strict=True):
                shared[int(of_text[place]), owner].setdefault(int(grams[place]), int(starts[place]))
            for (text, owner), hits in shared.items():
                if len(hits) >= self.settings.overlap * self.sizes[owner]:
                    start = next(iter(hits.values()))
                    found[text][owner] = Match.NGRAM, " ".join(split[text][start : start + self.settings.ngram])
        places, owners = self.whole.find(np.array([whole_hash(words) for words in split], np.uint64))
        for text, owner in zip(places.tolist(), owners.tolist(), strict=True):
            found[text][owner] = Match.EXACT, " ".join(split[text])
        return found


def save_evaluation(evaluation: EvaluationTexts, path: Path) -> Path:
    """Writes the index for other processes to load; returns its path."""
    path.write_bytes(pickle.dumps(evaluation, protocol=5))
    return path


def load_evaluation(path: Path) -> EvaluationTexts:
    """The index that `save_evaluation` wrote, read once a process."""
    return read_evaluation(path, path.stat().st_mtime_ns)


@lru_cache(1)
def read_evaluation(path: Path, changed: int) -> EvaluationTexts:
    """The index in a file that was last changed then."""
    return pickle.loads(path.read_bytes())


class Contamination:
    """The contaminated pairs of a source and negatives of others: those to skip, and the report on them."""

    def __init__(self, evaluation: EvaluationTexts):
        self.evaluation = evaluation
        self.rejected: dict[str, int] = {}
        self.dropped: dict[str, int] = {}  # negatives
        self.examples: list[dict] = []  # as of every rejected row
        self.sets: dict[str, dict[str, int]] = {}
        self.shown: list[dict] = []

    def clean(self, table: "pa.Table"):
        """The rows of an Arrow table of pairs (query, document, file, row) without the contaminated ones.

        Of a table `with_negatives` the others lose those that are contaminated.
        """
        kept = np.ones(table.num_rows, bool)
        for begin in range(0, table.num_rows, ROWS):
            part = table.slice(begin, ROWS)
            texts = part.column("query").to_pylist() + part.column("document").to_pylist()
            rows: dict[int, dict[int, tuple[Match, str]]] = defaultdict(dict)
            for text, owners in self.evaluation.find(texts).items():
                for owner, (match, words) in owners.items():
                    if rows[text % part.num_rows].get(owner, (Match.NGRAM,))[0] is Match.NGRAM:
                        rows[text % part.num_rows][owner] = match, words
            for row in sorted(rows):
                kept[begin + row] = False
                self.count(rows[row], *(part.column(name)[row].as_py() for name in ("file", "row")))
        table = table if kept.all() else table.filter(kept)
        return self.clean_negatives(table) if "gathered" in table.column_names else table

    def clean_negatives(self, table: "pa.Table"):
        """The same rows without the contaminated negatives."""
        lists = table.column("negatives").combine_chunks()
        texts, owners = lists.flatten().dictionary_encode(), np.repeat(np.arange(len(lists)), lengths_of(lists))
        found: dict[int, dict[int, tuple[Match, str]]] = {}
        for begin in range(0, len(texts.dictionary), ROWS):
            part = self.evaluation.find(texts.dictionary.slice(begin, ROWS).to_pylist())
            found |= {begin + text: owners_of for text, owners_of in part.items()}
        numbers = texts.indices.to_numpy()
        bad = np.isin(numbers, list(found))
        for place in np.flatnonzero(bad).tolist():
            row = int(owners[place])
            file, number = (table.column(name)[row].as_py() for name in ("file", "row"))
            worst = self.show(found[int(numbers[place])], file, number, is_negative=True)
            self.dropped[worst] = self.dropped.get(worst, 0) + 1
        return keep_negatives(table, ~bad) if bad.any() else table

    def facts(self) -> dict:
        """Facts for the report: skipped pairs, those of each evaluation set by kind of match, and examples.

        Beside the pairs the negatives, of each set in one number.
        """
        pairs, negatives = sum(self.rejected.values()), sum(self.dropped.values())
        return {"pairs": pairs, "negatives": negatives, "sets": self.sets, "examples": self.shown}

    def found(self) -> dict:
        """The counts so far, as JSON values, for the `add` of another one."""
        counts = {"rejected": self.rejected, "dropped": self.dropped}
        return {**counts, "examples": self.examples, "sets": self.sets, "shown": self.shown}

    def add(self, found: dict) -> None:
        """Adds what was counted of later rows: the sum is what one would count of all."""
        for example in found["examples"]:
            if sum(one["reason"] == example["reason"] for one in self.examples) < EXAMPLES:
                self.examples.append(example)
        for kind, known in (("rejected", self.rejected), ("dropped", self.dropped)):
            for reason, count in found[kind].items():
                known[reason] = known.get(reason, 0) + count
        for shown in found["shown"]:
            if sum((one["set"], kind_of(one)) == (shown["set"], kind_of(shown)) for one in self.shown) < EXAMPLES:
                self.shown.append(shown)
        for name, counts in found["sets"].items():
            known = self.sets.setdefault(name, dict.fromkeys((*REASONS, NEGATIVES), 0))
            for kind, count in counts.items():
                known[kind] += count

    def count(self, owners: dict[int, tuple[Match, str]], file: str, row: int) -> None:
        """Counts a contaminated pair once, and once for every evaluation set that has a text of it."""
        worst = self.show(owners, file, row)
        if self.rejected.get(worst, 0) < EXAMPLES:
            self.examples.append({"reason": worst, "file": file, "row": row})
        self.rejected[worst] = self.rejected.get(worst, 0) + 1

    def show(self, owners: dict[int, tuple[Match, str]], file: str, row: int, is_negative: bool = False) -> Reason:
        """Counts a pair, or a negative, for every evaluation set that has a text of it; returns why it is skipped."""
        by_set: dict[str, tuple[Match, str, str]] = {}
        for owner, (match, words) in sorted(owners.items()):
            name, place = self.evaluation.origins[owner]
            if name not in by_set or (match is Match.EXACT and by_set[name][0] is Match.NGRAM):
                by_set[name] = match, words, place
        for name, (match, words, place) in by_set.items():
            counts = self.sets.setdefault(name, dict.fromkeys((*REASONS, NEGATIVES), 0))
            kind = NEGATIVES if is_negative else match
            if counts[kind] < EXAMPLES:
                shown = {"set": name, "match": match, "evaluation text": place, "words": words[:SHOWN]}
                self.shown.append({"file": file, "row": row, "negative": is_negative, **shown})
            counts[kind] += 1
        is_whole = any(match is Match.EXACT for match, _, _ in by_set.values())
        return REASONS[Match.EXACT if is_whole else Match.NGRAM]


def kind_of(shown: dict) -> str:
    """The count of its evaluation set that an example belongs to."""
    return NEGATIVES if shown["negative"] else shown["match"]


class Postings:
    """Sorted hashes with an owner each; those of more than `most` owners are skipped."""

    BITS = 24  # of a table that tells most hashes that are not there without a search

    def __init__(self, hashes: np.ndarray, owners: np.ndarray, most: int | None = None):
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.owners = hashes[order], owners[order]
        if most is not None:
            _, inverse, counts = np.unique(self.hashes, return_inverse=True, return_counts=True)
            rare = counts[inverse] <= most
            self.hashes, self.owners = self.hashes[rare], self.owners[rare]
        self.seen = np.zeros(1 << self.BITS, bool)
        self.seen[self.hashes >> np.uint64(64 - self.BITS)] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `hashes`, owner) for each owner of each hash that is known."""
        places = self.seen[hashes >> np.uint64(64 - self.BITS)].nonzero()[0]
        left = np.searchsorted(self.hashes, hashes[places], side="left")
        counts = np.searchsorted(self.hashes, hashes[places], side="right") - left
        return np.repeat(places, counts), self.owners[spans(left, counts)]


class WordHashes:
    """64-bit hashes of runs of words; those of the words themselves are remembered."""

    def __init__(self):
        self.known: dict[str, int] = {}

    def __getstate__(self) -> dict:
        return {"known": {}}

    def ngrams(self, texts: list[list[str]], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(hash, number of the text, first word in it) of every run of n words of every text."""
        words = [word for text in texts for word in text]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        if len(words) < n:
            return np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
        if len(self.known) > MAX_WORDS:
            self.known = {}  # another thread may still look up in the old one
        known = self.known
        for word in dict.fromkeys(words):
            if word not in known:
                known[word] = text_hash(word)
        flat = np.fromiter(map(known.__getitem__, words), np.uint64, len(words))
        hashes = np.zeros(len(flat) - n + 1, np.uint64)
        for k in range(n):
            hashes = hashes * BASE + flat[k : len(hashes) + k]  # modulo 2^64
        counts = np.maximum(lengths - n + 1, 0)
        starts = spans(np.zeros_like(counts), counts)
        return hashes[spans(lengths.cumsum() - lengths, counts)], np.repeat(np.arange(len(texts)), counts), starts


def distinct(hashes: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (hash, owner) pairs without repetitions."""
    order = np.lexsort((hashes, owners))
    hashes, owners = hashes[order], owners[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[first], owners[first]


def whole_hash(words: list[str]) -> int:
    """The hash of an entire text, by its words."""
    return text_hash(" ".join(words))


def evaluation_texts(settings: Decontamination) -> Iterator[tuple[str, str, str]]:
    """(task, file:row, text) of every text of the chosen kind. Raises UserError for a file that cannot be read."""
    for name, paths in settings.files().items():
        folder = Folder(settings.folder / name)
        for path in paths:
            roles = CORPUS if path.name.startswith("corpus.") else FIELDS
            fields = [field for role in settings.texts for field in roles[role]]
            asked = asked_queries(path.parent) if is_queries(path) else None
            for number, line in folder.lines(path):
                try:
                    row = json_object(line)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: expected a JSON object a line") from error
                if asked is not None and str(row.get("_id", row.get("id"))) not in asked:
                    continue
                values = [row[field] for field in fields if row.get(field)]
                for value in values:
                    for text in value if isinstance(value, list) else [value]:
                        if isinstance(text, str):
                            yield name, f"{path.relative_to(settings.folder).as_posix()}:{number}", text


def is_queries(path: Path) -> bool:
    """Whether a task's file holds the queries of a retrieval task, those of all its splits."""
    return path.name.startswith("queries.")


def evaluation_qrels(folder: Path) -> list[Path]:
    """The qrels files of a retrieval task but that of its training split; that as well where it is the only one, as of
    NanoBEIR."""
    found = sorted(path for suffix in QRELS for path in (folder / "qrels").glob(f"*{suffix}"))
    return [path for path in found if not path.name.startswith("train")] or found


def asked_queries(folder: Path) -> set[str] | None:
    """The ids of the queries that a retrieval task's evaluation splits ask; None where no qrels file says so."""
    files = evaluation_qrels(folder)
    return {query for path in files for _, query, _, _ in Folder(folder).qrels_rows(path)} if files else None
