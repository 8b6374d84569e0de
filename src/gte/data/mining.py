"""Hard negatives: what a search puts near a query that is not one of its documents."""

import gzip
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from gte.data.cleaning import normalize
from gte.data.columns import FIND_OUT, Wanted
from gte.data.groups import family_of, load_sources
from gte.data.locate import locate
from gte.data.mined import INDEX
from gte.data.mixture import mix, permute
from gte.data.own_files import infer_source, local_source, pair_files, require_scores, split_name
from gte.data.own_tables import find_quoting
from gte.data.preview import describe, preview
from gte.data.ranking import Ranker, Search, embed_behind, rank_bm25, rank_dense
from gte.data.records import Field, Pair, Rejected, Triple
from gte.data.sources import LOCAL, Source
from gte.errors import UserError
from gte.files import read_json, whole, write_json

TOKENS = re.compile(r"[^\W_]+|[^\w\s]|_")  # runs of letters and digits, and other marks one by one
REMEMBERED = 100_000  # documents whose tokens are kept while answers are looked for
DRAWN = 64  # random documents drawn at a time


@dataclass
class Mined:
    """`texts`: the negatives of each pair asked for; `random` of them were drawn at random to fill groups. `answered`:
    documents near a query, skipped because they hold an answer."""

    texts: list[list[str]] = field(default_factory=list)
    random: int = 0
    answered: int = 0

    def require_some(self) -> list[list[str]]:
        """`texts`; UserError where no pair has a negative."""
        if not any(self.texts):
            raise UserError(
                f"none of the {len(self.texts):,} pairs found a negative; nothing was written: a smaller margin=, "
                "relative_margin= or skip=, more documents (corpus=) or another checkpoint= may find some"
            )
        return self.texts


def mine(
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    corpus: Sequence[str] = (),
    answers: Sequence[Sequence[str]] = (),
    asked: Iterable[int] | None = None,
    rank: Ranker = rank_bm25,
    negatives: int = 15,
    skip: int = 0,
    depth: int = 100,
    draw: str = "random",
    margin: float | None = None,
    relative_margin: float | None = None,
    fill: bool = False,
    seed: int = 0,
) -> Mined:
    """Find up to `negatives` documents of other pairs or of the corpus for each pair, best first.

    Args:
        queries, documents: N texts each, pair by pair.
        corpus: further candidates.
        answers: N lists of answers; documents that hold one of the query's are skipped.
        asked: numbers of the pairs to mine for, None for all.
        rank: BM25, or an encoder's search.
        negatives: of a query, at most.
        skip, depth: they come from the query's ranks [skip, depth), where a rank counts only what may be a negative: no
            document of the same query text, none that equals such a document or the query itself up to case and white
            space, none above the margins.
        draw: "random" from these ranks, or "top", the best.
        margin, relative_margin: how far below the positive's score, see `Search`.
        fill: whether random documents, of which the same is true but for the margins, are added where some are missing.
        seed: of what is drawn; equal queries get equal negatives.
    Raises: UserError for settings that cannot be meant.
    """
    check_settings(negatives, skip, depth, draw, margin, relative_margin)
    pool = Pool(queries, documents, corpus, answers)
    asked = range(len(queries)) if asked is None else list(asked)
    wanted = sorted({pool.query_of[pair] for pair in asked})
    search = Search(
        positives=[sorted(pool.positives[query]) for query in wanted],
        excluded=[sorted(pool.excluded(query)) for query in wanted],
        depth=depth,
        margin=margin,
        relative_margin=relative_margin,
    )
    draws = np.random.default_rng(seed)
    result, found, random = Mined(), {}, {}
    for query, ranking in zip(wanted, rank([pool.queries[query] for query in wanted], pool.texts, search), strict=True):
        ranks = list(pool.without_answer(query, ranking[skip:]))
        result.answered += len(ranking[skip:]) - len(ranks)
        if draw == "random":
            ranks = [ranks[place] for place in sorted(draws.permutation(len(ranks))[:negatives])]
        found[query] = ranks[:negatives]
        missing = negatives - len(found[query]) if fill else 0
        random[query] = list(islice(pool.others(query, set(found[query]), seed), missing))
    for query in (pool.query_of[pair] for pair in asked):
        result.texts.append([pool.texts[number] for number in found[query] + random[query]])
        result.random += len(random[query])
    return result


def check_settings(
    negatives: int, skip: int, depth: int, draw: str, margin: float | None, relative_margin: float | None
) -> None:
    """Raises UserError for numbers that cannot be meant."""
    if negatives < 1 or skip < 0 or depth <= skip:
        raise UserError(
            f"negatives={negatives} must be at least 1, and skip={skip} to depth={depth} a range of ranks from 0 on"
        )
    if draw not in ("random", "top"):
        raise UserError(f"draw={draw} is unknown; choose random or top")
    if min(margin or 0, relative_margin or 0) < 0:
        raise UserError(f"margin={margin} and relative_margin={relative_margin} must not be negative")


@dataclass(frozen=True)
class Dense:
    """A ranking by an encoder. embed: (texts, prompt) -> unit vectors [n, D]. words: names of sources -> {source:
    {kind: words}}, the prompts before their queries and documents. device: where scores are computed."""

    embed: Callable
    words: Callable[[list[str]], dict[str, dict[str, str]]]
    device: str = "cpu"

    def ranker(self, inputs: Sequence["Input"], corpus: Sequence["Input"]) -> Ranker:
        """A ranker of the texts of these; a text that several hold is behind the prompt of the first.

        The corpus is behind that of all inputs, where they have one.
        """
        words = self.words([each.name for each in [*inputs, *corpus]])
        shared = {words[each.name]["document"] for each in inputs}
        query_words: dict[str, str] = {}
        document_words: dict[str, str] = {}
        for each in inputs:
            for pair in each.records:
                query_words.setdefault(pair.query, words[each.name]["query"])
                document_words.setdefault(pair.document, words[each.name]["document"])
        for each in corpus:
            own = next(iter(shared)) if len(shared) == 1 else words[each.name]["document"]
            for text in each.records:
                document_words.setdefault(text.document, own)

        def behind(words_of: dict[str, str], texts: Sequence[str]) -> np.ndarray:
            return embed_behind(self.embed, texts, [words_of[text] for text in texts])

        embed = {"embed": partial(behind, document_words), "embed_queries": partial(behind, query_words)}
        return partial(rank_dense, **embed, device=self.device)


class Pool:
    """The distinct texts of some pairs and a corpus by number, and which of them cannot be negatives of which query.

    Texts that differ only in case and white space are one text, spelt as it is first met.
    """

    def __init__(
        self, queries: Iterable[str], documents: Iterable[str], corpus: Iterable[str], answers: Iterable[Iterable[str]]
    ):
        self.texts, self.numbers, text_of = number_texts(chain(documents, corpus))
        self.queries, _, self.query_of = number_texts(queries)
        self.positives: list[set[int]] = [set() for _ in self.queries]
        for query, text in zip(self.query_of, text_of, strict=False):
            self.positives[query].add(text)
        self.answers: list[set[str]] = [set() for _ in self.queries]
        for query, given in zip(self.query_of, answers, strict=False):
            self.answers[query].update(answer for answer in map(tokens, given) if answer.strip())
        self.tokens = lru_cache(REMEMBERED)(lambda number: tokens(self.texts[number]))

    def excluded(self, query: int) -> set[int]:
        """The texts that are documents of the query, or the query itself."""
        own = self.numbers.get(normalize(self.queries[query]))
        return self.positives[query] if own is None else self.positives[query] | {own}

    def without_answer(self, query: int, numbers: Iterable[int]) -> Iterable[int]:
        """The texts that hold no answer to the query as a run of their tokens, in any case, as DPR has it."""
        answers = self.answers[query]
        return (n for n in numbers if not any(answer in self.tokens(n) for answer in answers)) if answers else numbers

    def others(self, query: int, taken: set[int], seed: int) -> Iterator[int]:
        """All texts that may be negatives of the query, but for those taken, in an order drawn by (seed, query)."""
        barred = self.excluded(query) | taken
        for start in range(0, len(self.texts), DRAWN):
            places = np.arange(start, min(start + DRAWN, len(self.texts)))
            drawn = permute(places, len(self.texts), mix(mix(seed, 1), query)).tolist()
            yield from self.without_answer(query, [number for number in drawn if number not in barred])


def number_texts(texts: Iterable[str]) -> tuple[list[str], dict[str, int], list[int]]:
    """The distinct texts in order of appearance, the number of each by its `normalize`, the number of every text."""
    distinct, numbers, number_of = [], {}, []
    for text in texts:
        number = numbers.setdefault(normalize(text), len(distinct))
        if number == len(distinct):
            distinct.append(text)
        number_of.append(number)
    return distinct, numbers, number_of


def tokens(text: str) -> str:
    """The text's tokens in lower case, each between single spaces: runs of them are substrings."""
    return f" {' '.join(TOKENS.findall(unicodedata.normalize('NFC', text).lower()))} "


@dataclass
class Input:
    """The records of a file or source, and the rows that gave none by their reason."""

    name: str
    records: list[Pair | Triple] = field(default_factory=list)
    rejected: Counter = field(default_factory=Counter)

    def describe(self) -> str:
        """One line that accounts for every row."""
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.most_common())
        count = self.rejected.total()
        line = f"{self.name}: read {len(self.records) + count:,}, kept {len(self.records):,}, rejected {count:,}"
        return f"{line} ({reasons})" if reasons else line


def mine_files(
    names: Sequence[str],
    folder: Path,
    *,
    corpus: Sequence[str] = (),
    corpus_field: Field = "text",
    answers: str | None = None,
    rows: int | None = None,
    raw: Path = Path("data/raw"),
    wanted: Wanted = FIND_OUT,
    by: str = "bm25",
    dense: Dense | None = None,
    **settings,
) -> Iterator[str]:
    """Mine files of pairs, or sources of conf/source: write folder/<name>.jsonl.gz of each; yield what was done.

    Args:
        names, folder: files, folders, which stand for their files of pairs, or sources; the folder to write to.
        corpus, corpus_field: files of further candidates; the column of their rows, or several to be joined.
        answers, rows: the column that holds an answer or a list of them; the first so many pairs of each.
        raw, wanted, settings: where sources have their folders; columns that the user names; those of `mine`.
        by, dense: the name of what ranks; the encoder, with its prompts by source, None for BM25.
    Each file appears when it is complete. Raises UserError: what cannot be read or overwritten, two inputs of one name,
    `answers` that no row has, no negative.
    """
    names, sources, notes = find_inputs(names, raw, wanted)
    yield from notes
    targets = [folder / f"{source.name}.jsonl.gz" for source, _ in sources]
    refuse_writing_over(names, targets, corpus)
    inputs = [read(replace(source, answers=answers or source.answers), where) for source, where in sources]
    candidates = [read_corpus(Path(path), corpus_field) for path in corpus]
    for each in [*inputs, *candidates]:
        yield each.describe()
        if not each.records:
            raise UserError(f"{each.name} has no row that can be used; nothing was written")
    for source, where in sources:
        if source.columns:
            yield "\n".join(describe(source.name, source.files, preview(source, locate(source, where))))
    pairs = [pair for each in inputs for pair in each.records]
    if answers and not any(pair.answers for pair in pairs):
        raise UserError(f"answers={answers}: no row has an answer there; name the column that holds them")
    if dense is not None:
        settings["rank"] = dense.ranker(inputs, candidates)
    starts = np.cumsum([0, *(len(each.records) for each in inputs)]).tolist()
    shares = [len(each.records[:rows]) for each in inputs]
    mined = mine(
        [pair.query for pair in pairs],
        [pair.document for pair in pairs],
        corpus=[text.document for each in candidates for text in each.records],
        answers=[pair.answers for pair in pairs],
        asked=[pair for start, share in zip(starts, shares, strict=False) for pair in range(start, start + share)],
        **settings,
    )
    left = iter(mined.require_some())
    for name, each, share, target in zip(names, inputs, shares, targets, strict=True):
        line = write_mined(target, each.records[:share], list(islice(left, share)))
        if Path(name).is_file():
            note_mined(folder, each.name, str(Path(name).resolve()), {"by": by, "rows": share, "limit": rows})
        yield line
    yield f"{mined.random:,} of the negatives are random; {mined.answered:,} documents left out for an answer in them"


def refuse_writing_over(names: Sequence[str], targets: Sequence[Path], corpus: Sequence[str]) -> None:
    """Raises UserError where the file of one input would be another's, or is itself an input."""
    read = [Path(name).resolve() for name in [*names, *corpus]]
    for name, target in zip(names, targets, strict=True):
        if targets.count(target) > 1 or target.resolve() in read:
            raise UserError(f"{name}: {target} would be written over; mine it apart, or to another out=")


def write_mined(target: Path, records: Sequence[Pair | Triple], negatives: Sequence[Sequence[str]]) -> str:
    """Writes the triples of an input, as `write_triples`; returns a line about them."""
    write_triples(target, records, negatives)
    own = sum(isinstance(record, Triple) for record in records)
    bare = sum(not group for group in negatives)
    line = f"{target}: {len(records):,} triples, {sum(map(len, negatives)):,} negatives, {bare:,} triples without any"
    return f"{line}; {own:,} rows had negatives of their own, which are not in it" if own else line


def find_inputs(
    names: Sequence[str], raw: Path, wanted: Wanted
) -> tuple[list[str], list[tuple[Source, Path]], list[str]]:
    """Each file of pairs, of folders too, or other name; its source and folder; notes on the folders' other files.

    Raises UserError for a folder without any, and for columns and scores that no file has.
    """
    found, notes = [], []
    for name in names:
        files, others = pair_files(Path(name), "in") if Path(name).is_dir() else ([name], [])
        held = f"; it holds {', '.join(others[:5])}" if others else ""
        if not files:
            raise UserError(f"in={name}: the folder holds no .jsonl, .csv, .tsv or .parquet file{held}")
        notes += [f"note: {name}: not read: {', '.join(others)}"] if others else []
        found += map(str, files)
    if own := [Path(name) for name in found if Path(name).is_file()]:
        wanted.check([split_name(file)[0] for file in own], own[0].parent)
    sources = [find_source(name, raw, replace(wanted, several=len(found) > 1)) for name in found]
    require_scores([source for source, _ in sources if source.category == LOCAL], ", ".join(found), wanted)
    return found, sources, notes


def note_mined(folder: Path, name: str, file: str, facts: dict) -> None:
    """Keeps in folder/.mined.json for which file the negatives of that name were mined."""
    index = folder / INDEX
    known = read_json(index) if index.exists() else {}
    write_json(index, {**known, name: {"file": file, **facts}}, indent=1)


def mined_for(source: Source, raw: Path, folder: Path | None) -> tuple[Path | None, str]:
    """The file of negatives that `mine_files` wrote to `folder` for a user's file, and what the user is told of it."""
    file = folder and folder / f"{source.name}.jsonl.gz"
    if file is None or not file.is_file() or not (folder / INDEX).is_file():
        return None, ""
    made = read_json(folder / INDEX).get(source.name, {})
    (own,) = locate(source, raw)
    if made.get("file") != str(own.path.resolve()):
        return None, f"{source.name}: {file} is not used: it was mined for {made.get('file')}"
    return file, f"{source.name}: with the negatives of {file} ({made.get('by')}); data.mined=null leaves them out"


def find_source(name: str, raw: Path, wanted: Wanted) -> tuple[Source, Path]:
    """A file, or the source of that name where there is no such file, and the folder to look in.

    Raises UserError for a source whose rows give their pairs only together with others.
    """
    if not Path(name).exists() and family_of(name):
        sources, notes = load_sources([name], {}, raw)
        if notes:
            raise UserError(f"{notes[0]}; name one of them, {sources[0].name} for instance")
        source = sources[0].in_folder(raw)
        if source.keyed:
            raise UserError(
                f"{name} joins rows of its files; prepare it first, and mine <data.dir>/pairs/{name}.parquet"
            )
        return source, raw
    return infer_source(Path(name), wanted), Path(name).parent


def read_corpus(path: Path, text: Field) -> Input:
    """The texts of a file's column, or of several joined, as documents."""
    source = local_source(path)
    options = {}
    if source.reader in ("csv", "tsv"):
        options = {"header": True, "quoting": find_quoting(path, source.reader)[0]}
    return read(replace(source, query=text, document=text, options=options), path.parent)


def read(source: Source, folder: Path) -> Input:
    """All records of a source."""
    result = Input(source.name)
    for raw in locate(source, folder):
        for record in source.read(raw):
            if isinstance(record, Rejected):
                result.rejected[record.reason] += 1
            else:
                result.records.append(record)
    return result


def write_triples(target: Path, pairs: Sequence[Pair | Triple], negatives: Sequence[Sequence[str]]) -> None:
    """Writes {"query", "pos", "neg"} lines; the file is complete or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole(target) as partial, open(partial, "wb") as raw, gzip.GzipFile("", "wb", 3, raw, mtime=0) as file:
        for pair, texts in zip(pairs, negatives, strict=True):
            row = {"query": pair.query, "pos": pair.document, "neg": texts}
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
