"""From raw sources to a prepared folder: unique pairs, a tokenizer, token shards, a manifest. All or nothing."""

import platform
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.columns import Wanted
from gte.data.contamination import REASONS, Decontamination, EvaluationTexts, save_evaluation
from gte.data.folder import WORK, building_site, find_complete, once, refuse_foreign
from gte.data.lineage import changed, code, code_of
from gte.data.locate import configuration, hub_notes, locate, release
from gte.data.mining import mine, mined_for
from gte.data.own_files import infer_sources, pair_files
from gte.data.pairs import PARQUET, Tally, hash_file, texts_size, use_engine
from gte.data.pairs_file import leading_groups, pair_batches
from gte.data.preview import describe, preview
from gte.data.raw_lines import ENDS
from gte.data.readers import JOINS, READERS
from gte.data.shards import Manifest, with_pages
from gte.data.sources import LOCAL, Raw, Source, load_source, overridden
from gte.data.tasks import described_pairs, ranges, source_pairs, source_pairs_alone, token_shards
from gte.data.tokenizer import commit_of, fingerprint, load_tokenizer, plain_reader, special_ids, train_tokenizer
from gte.data.tokens import id_type
from gte.data.workers import Workers, how_many
from gte.errors import UserError, check_numbers, did_you_mean, say
from gte.files import put, write_json
from gte.locks import locked
from gte.ticker import still_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINING_PAIRS = 60_000  # a tokenizer is trained on so many pairs at most, of each source in proportion
REPORT = "decontamination.json"
WORTH = 2**24  # bytes of raw texts that keep a further worker busy for longer than its start takes
CLUSTER_BYTES = 2**31  # of raw texts: above, Daft spreads the files of one source over the cluster
ONE_AT_A_TIME = threading.Lock()  # sources that Daft spreads over the cluster: its settings are the process's
PAIRS_CODE = "gte.data.tasks:source_pairs"
SHARDS_CODE = ("gte.data.tasks:token_shards", "gte.data.tasks:ranges")
TRIPLES_CODE = ("gte.data.prepare:mined_triples",)
TOKENIZER_CODE = ("gte.data.tokenizer:train_tokenizer", "gte.data.prepare:training_texts")
LIBRARIES = ("daft", "datasets", "numpy", "pyarrow", "tokenizers", "transformers")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Triples:
    """A fine-tuning source made of the pairs of another: `rows` of them at most, with negatives mined by BM25.

    source: the name of the source whose pairs they are; all of its documents are candidates. negatives, skip, depth,
    seed: as in `mine`.
    """

    source: str
    rows: int
    negatives: int = 15
    skip: int = 0
    depth: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """The settings of a prepared folder: all that its content depends on.

    name: of the data set. sources: in order. tokenizer: directory or hub id, None to train a WordPiece of vocab_size
    entries on the pairs. tokenizer_revision: branch, tag or commit of a hub id, None for the newest. max_tokens: at
    most this many ids of a text, special tokens not counted. triples: fine-tuning sources to mine, by name. evaluation:
    a folder to copy to eval/. max_rejected: share of a source's rows that may be rejected, those that it filters out
    not counted. dedup_across: whether a pair that an earlier source has is a duplicate as well. decontaminate: what
    pairs with texts of evaluation sets are, which are left out; None keeps them.
    notes: lines that the user is told first.
    """

    name: str
    sources: list[Source]
    raw: Path
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    vocab_size: int | None = 16_384
    max_tokens: int = 510
    triples: dict[str, Triples] = field(default_factory=dict)
    evaluation: Path | None = None
    max_rejected: float = 0.1
    dedup_across: bool = False
    decontaminate: Decontamination | None = None
    notes: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UserError for names that clash or are unknown and for numbers of no sense, before any work."""
        if self.tokenizer is None and not self.vocab_size:
            raise UserError("data.tokenizer=null trains one, which needs a size: data.vocab_size=16384")
        if self.tokenizer_revision is not None and (self.tokenizer is None or Path(self.tokenizer).exists()):
            raise UserError(
                f"data.tokenizer_revision={self.tokenizer_revision} is of a name on the hub, data.tokenizer is "
                f"{self.tokenizer or 'null'}; leave it out"
            )
        if self.max_tokens < 1 or not 0 <= self.max_rejected <= 1:
            raise UserError(
                f"data.max_tokens={self.max_tokens} must be at least 1, data.max_rejected={self.max_rejected} a share"
            )
        names = [source.name for source in self.sources]
        if not names:
            raise UserError(f"data set {self.name} has no sources; name some: data.sources=[...]")
        for name in [*names, *self.triples]:
            if (names + list(self.triples)).count(name) > 1:
                raise UserError(f"data set {self.name} names the source '{name}' twice")
        for name, triples in self.triples.items():
            if triples.source not in names:
                raise UserError(
                    f"triples {name}: '{triples.source}' is none of the sources {', '.join(names)}; name it too, or "
                    "leave the triples out: data.triples=null"
                )
        if self.evaluation and not self.evaluation.is_dir():
            raise UserError(f"there is no folder {self.evaluation} with the held-out tasks of {self.name}")
        if self.decontaminate:
            self.decontaminate.check()

    def locate(self) -> dict[str, list[Raw]]:
        """The raw files of every source. Raises UserError for the first source without, and counts the others."""
        found, missing = {}, []
        for source in self.sources:
            try:
                found[source.name] = locate(source, self.raw)
            except UserError as error:
                missing.append((source.name, error))
        if missing:
            others = f"; nor is there anything for: {', '.join(name for name, _ in missing[1:])}" if missing[1:] else ""
            raise UserError(f"{missing[0][1]}{others}")
        return found

    def configuration(self, raws: dict[str, list[Raw]]) -> dict:
        """Describe what the folder depends on, as the manifest keeps it: equal configurations give equal folders."""
        return {
            "sources": {source.name: configuration(source, raws[source.name]) for source in self.sources},
            "triples": {name: asdict(triples) for name, triples in self.triples.items()},
            "tokenizer": self.tokenizer,
            "vocab_size": self.vocab_size if self.tokenizer is None else None,
            "max_tokens": self.max_tokens,
            **({} if self.tokenizer_revision is None else {"tokenizer_revision": self.tokenizer_revision}),
            "dedup_across": self.dedup_across,
            "decontaminate": self.decontaminate and self.decontaminate.stamp(),
        }


def read_recipe(data: dict, *, fetch_again: bool = False) -> Recipe:
    """The recipe that a conf/data/*.yaml states; makes its raw folder where `fetch` says how and it is not there.

    Raises UserError for unknown sources and keys.
    """
    data = dict(data)
    for key in ("dir", "alpha", "weights", "prompts"):  # where to, and how to train on it: no part of what is made
        data.pop(key, None)
    path, mined, names = data.pop("path", None), data.pop("mined", None), data.pop("sources")
    overrides = data.pop("overrides", None) or {}
    stated = {key: data.pop(key, None) for key in ("columns", "score", "min_score", "header", "delimiter")}
    if path is not None or "raw" not in data:
        if path is None:
            raise UserError(f"data={data['name']} needs a folder of raw files: data.path=FOLDER")
        local = {
            source.name: source
            for source in infer_sources(path, Wanted(**stated | {"columns": stated["columns"] or {}}))
        }
        names = [str(name) for name in names or local]
        if unknown := [name for name in names if name not in local]:
            raise UserError(f"{path} has no file for '{unknown[0]}'; it has: {', '.join(local)}")
        raw = Path(path).parent if Path(path).is_file() else Path(path)
        others = pair_files(Path(path))[1]
        notes = [f"{path}: not read: {', '.join(others)}"] if others else []
        sources = []
        for name in names:
            file, note = mined_for(local[name], raw, mined and Path(mined))
            sources.append(replace(local[name], mined=file and str(file)))
            notes += [note] if note else []
        data |= {"raw": raw, "sources": sources, "notes": tuple(notes)}
    else:
        chosen = overridden([load_source(name) for name in names or []], overrides)
        data["sources"] = [source.in_folder(Path(data["raw"])) for source in chosen]
    data["raw"] = Path(data["raw"])
    if function := data.pop("fetch", None):
        fetch(function, data["raw"], again=fetch_again)
    data["evaluation"] = Path(data["evaluation"]) if data.get("evaluation") else None
    known = [part.name for part in fields(Recipe) if part.name != "notes"]
    try:
        data["triples"] = {name: Triples(**facts) for name, facts in (data.get("triples") or {}).items()}
    except TypeError as error:
        raise UserError(f"data.triples: {error}") from error
    for name, triples in data["triples"].items():
        check_numbers(f"data.triples.{name}", triples)
    data["decontaminate"] = read_decontamination(data.get("decontaminate"))
    if unknown := [key for key in data if key not in [*known, "notes"]]:
        close = did_you_mean(unknown[0], known)
        raise UserError(f"unknown key 'data.{unknown[0]}'{close}; known: {', '.join(known)}")
    return Recipe(**data)


def read_decontamination(facts: dict | None) -> Decontamination | None:
    """Read `data.decontaminate`; None where it names no folder. Raises UserError for an unknown key."""
    if not facts or facts.get("folder") is None:
        return None
    try:
        return Decontamination(**{**facts, "folder": Path(facts["folder"]), "texts": tuple(facts["texts"])})
    except TypeError as error:
        raise UserError(f"data.decontaminate: {error}") from error


def fetch(function: str, folder: Path, *, again: bool) -> None:
    """Calls the function of that full name with a folder to fill, which becomes `folder` when it is done."""
    with locked(folder, "making", "data.raw"):
        if folder.is_dir() and not again:
            return
        start = time.perf_counter()
        module, _, name = function.rpartition(".")
        part = folder.parent / f".{folder.name}.fetching"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        say(f"{function}: writes {folder}")
        with still_at(f"{function}: at work"):
            getattr(import_module(module), name)(part)
        put(part, folder)
    say(f"{function}: wrote {folder}, {time.perf_counter() - start:.1f} s")


def prepare(
    recipe: Recipe,
    out: Path,
    *,
    engine: str = "native",
    workers: int | None = None,
    force: bool = False,
    command: str = "",
    report: Report = say,
    dry_run: bool = False,
) -> Manifest | None:
    """Makes the prepared folder `out`, or finds it made: `manifest.json`, `pairs/`, `shards/`, `tokenizer/`, `eval/`.

    Everything is written to a hidden folder beside `out`, which takes its name at the very end: `out` is complete or
    not there, whenever the process dies. What was finished then, source by source and range of rows by range of rows,
    is taken over by the next run. A complete folder of the same configuration is left as it is, and where other code
    made it that is told; of another one it is refused, unless `force` says to replace it; but where nothing is new
    beside a tokenizer in place of one that nobody asked for, it is replaced. Two runs with equal raw files write equal
    bytes, but for the time in the manifest, whatever the engine and the number of workers. `dry_run`: tell how the
    user's files are read, write nothing and return None.

    workers: tasks at a time, each of a process of its own; 1 for all in this process, None for all cores (engine=ray:
    of the cluster, whose machines must see `out` and the raw files under the same names), fewer for little data.
    """
    recipe.check()
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UserError(f"workers={workers} must be a whole number of at least 1, or null for a core each")
    raws = recipe.locate()
    if dry_run:
        look_at(recipe, raws, report)
        report("dry run: nothing is written")
        return None
    stated = recipe.configuration(raws)
    given = None
    if recipe.tokenizer is not None:  # may fail: before hours of work
        given = load_tokenizer(recipe.tokenizer, recipe.tokenizer_revision)
    use_engine(engine)
    out = Path(out)
    with locked(out, "making", "data.dir"):
        if not force and (made := find_complete(out, stated)):
            report(f"{out} is complete and {age(made, recipe)}")
            return made
        refuse_foreign(out)
        for note in hub_notes(recipe.sources, raws, recipe.raw):
            report(note)
        shown = look_at(recipe, raws, report)
        count = how_many(workers, engine)
        if workers is None:
            count = min(
                count,
                1 + sum(texts_size(raw) for source in recipe.sources for raw in raws[source.name]) // WORTH,
            )
        with building_site(out, report) as build, Workers(count, engine) as pool:
            build = build.resolve()  # the tasks of a cluster run in other folders
            manifest = fill(recipe, raws, given, build, report, pool)
            for name, columns in shown.items():
                manifest.sources[name]["columns"] = columns
            manifest.configuration, manifest.command = stated, command
            manifest.save(build)
    report(table(manifest, out))
    return manifest


def age(made: Manifest, recipe: Recipe) -> str:
    """Whether a complete folder is what this code and these libraries would make, and what to type."""
    kept = "kept as it is, fit for training; force=true makes it anew"
    if not made.code:
        return f"older than the record of the code that makes one: {kept}"
    new, libraries = recipe_code(recipe), versions()
    others = [name.removeprefix("gte.data.") for name in changed(made.code, new)]
    others += [
        f"{name} {made.versions.get(name)}, now {libraries.get(name)}" for name in changed(made.versions, libraries)
    ]
    if others:
        return f"was made by other code ({', '.join(others)}): {kept}"
    return "up to date: nothing to do (force=true makes it anew)"


def look_at(recipe: Recipe, raws: dict[str, list[Raw]], report: Report) -> dict[str, dict]:
    """Tells what of each of a user's own files is read as what, and warns; returns it by source."""
    for note in recipe.notes:
        report(f"note: {note}")
    shown = {}
    for source in recipe.sources:
        if source.category == LOCAL:
            shown[source.name] = preview(source, raws[source.name])
            for line in describe(source.name, ", ".join(raw.name for raw in raws[source.name]), shown[source.name]):
                report(line)
    if shown and recipe.tokenizer is None:
        report(
            "note: no tokenizer is named, so one is trained on these pairs, which only models of random weights "
            "(model=tiny) read; model=NAME_OR_FOLDER takes that of a pretrained model"
        )
    return shown


def fill(
    recipe: Recipe,
    raws: dict[str, list[Raw]],
    tokenizer: "PreTrainedTokenizerBase",
    build: Path,
    report: Report,
    workers: Workers,
) -> Manifest:
    """Writes everything but the manifest into `build`, and returns it."""
    sweep(build, [source.name for source in recipe.sources] + list(recipe.triples))
    evaluation = index_evaluation(recipe.decontaminate, report) if recipe.decontaminate else None
    index = save_evaluation(evaluation, build / WORK / "evaluation.pickle") if evaluation else None
    facts = write_pairs(recipe, raws, index, build, report, workers)
    for name, triples in recipe.triples.items():
        facts[name] = write_triples(name, triples, facts, build, report)
    contamination = {name: entry.pop("contamination") for name, entry in facts.items()}
    if evaluation:
        write_decontamination(recipe.decontaminate, evaluation, contamination, build, report)
    if tokenizer is None:
        pair_sources = {source.name: facts[source.name]["kept"] for source in recipe.sources}
        tokenizer = train(pair_sources, recipe.vocab_size, build, report)
    tokenizer.save_pretrained(build / "tokenizer")
    write_all_shards(facts, tokenizer, recipe.max_tokens, build, report, workers)
    if recipe.evaluation:
        shutil.copytree(recipe.evaluation, build / "eval")
    return Manifest(
        name=recipe.name,
        tokenizer=describe_tokenizer(tokenizer, recipe.tokenizer, recipe.max_tokens),
        sources=facts,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        code=recipe_code(recipe),
    )


def versions() -> dict[str, str]:
    """Name the versions of Python and of the libraries that the bytes of a prepared folder may depend on."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


def maker(entries: Sequence[str]) -> dict:
    """Describe what else a finished step depends on: the code of these functions and the libraries."""
    return {"code": code(*entries), "versions": versions()}


def pairs_code(source: Source) -> list[str]:
    """The functions that make the pairs of a source: those of its format besides those of all."""
    return [PAIRS_CODE, READERS[source.reader], *([JOINS[source.reader]] if source.reader in JOINS else [])]


def recipe_code(recipe: Recipe) -> dict[str, str]:
    """A digest of the code of each module that makes this recipe's folder."""
    entries = [*SHARDS_CODE, *(entry for source in recipe.sources for entry in pairs_code(source))]
    entries += TRIPLES_CODE if recipe.triples else []
    entries += TOKENIZER_CODE if recipe.tokenizer is None else []
    return code_of(entries)


def sweep(build: Path, names: list[str]) -> None:
    """Removes what a killed run of another recipe left, and what is made anew in every case."""
    for path in build.iterdir():
        if path.name not in (WORK, "pairs", "shards"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (build / "pairs").mkdir(exist_ok=True)
    (build / "shards").mkdir(exist_ok=True)
    for path in [*(build / "pairs").iterdir(), *(build / "shards").iterdir()]:
        if path.name.removesuffix(".parquet").removesuffix(".pages") not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def index_evaluation(settings: Decontamination, report: Report) -> EvaluationTexts:
    """The texts that no pair may hold."""
    start = time.perf_counter()
    evaluation = EvaluationTexts(settings)
    texts = ", ".join(f"{name} {count:,}" for name, count in evaluation.sets.items())
    report(f"decontamination: texts of {settings.folder}: {texts}, {time.perf_counter() - start:.1f} s")
    return evaluation


def write_pairs(
    recipe: Recipe,
    raws: dict[str, list[Raw]],
    index: Path | None,
    build: Path,
    report: Report,
    workers: Workers,
) -> dict[str, dict]:
    """Writes pairs/<source>.parquet of every source; returns what the manifest states of each, shards excepted.

    Sources are made at the same time, except where each depends on those before it, and are told in their order. Where
    one cannot be made the others are, which the next run takes over; then UserError says what the first one's fault is.
    """
    facts: dict[str, dict] = {}
    width = max(len(source.name) for source in recipe.sources)
    several = [[source] for source in recipe.sources] if recipe.dedup_across else [recipe.sources]
    failed: dict[str, UserError] = {}
    for sources in several:
        earlier = [facts[name]["pairs"]["sha256"] for name in facts] if recipe.dedup_across else None
        across = [hash_file(build / WORK / name) for name in facts] if recipe.dedup_across else None
        steps = [
            partial(pairs_step, recipe, source, raws[source.name], earlier, across, index, build, workers, report)
            for source in sources
        ]
        sizes = [sum(texts_size(raw) for raw in raws[source.name]) for source in sources]
        for source, result in zip(sources, workers.each(steps, sizes), strict=True):
            if isinstance(result, UserError):
                failed[source.name] = result
                continue
            made, how_long = result
            tally = Tally(**made["tally"])
            facts[source.name] = describe_source(
                source.category, source.stages, source.licence, tally, made["files"][0]
            )
            report_source(source.name, width, tally, how_long, report)
        if failed and recipe.dedup_across:
            break
    if failed:
        first, *others = failed
        rest = f"; nor could {', '.join(others)} be made" if others else ""
        raise UserError(f"{failed[first]}{rest}") from failed[first]
    return facts


def pairs_step(
    recipe: Recipe,
    source: Source,
    raws: list[Raw],
    earlier: list[str] | None,
    across: list[Path] | None,
    index: Path | None,
    build: Path,
    workers: Workers,
    report: Report,
) -> tuple[dict, str]:
    """Makes the pairs of a source, or finds them made: what `source_pairs` returns, and how long it took.

    Raises UserError where a raw file changed meanwhile.
    """
    key = {
        "source": configuration(source, raws),
        "max_rejected": recipe.max_rejected,
        "decontaminate": recipe.decontaminate and recipe.decontaminate.stamp(),
        "earlier": earlier,
        **maker(pairs_code(source)),
    }

    def make() -> dict:
        work = build / WORK / source.name
        arguments = (source, raws)
        if workers.engine == "ray":  # whose processes run in other folders
            files = [absolute(raw) for raw in raws]
            arguments = (replace(source, mined=source.mined and str(Path(source.mined).resolve())), files)
        arguments += (build, work, recipe.max_rejected, across, index)
        made = make_source(workers, sum(texts_size(raw) for raw in raws), *arguments)
        if locate(source, recipe.raw) != raws:
            raise UserError(f"source {source.name}: its raw files changed while they were read; prepare again")
        return made

    start = time.perf_counter()
    try:
        with still_at(f"{source.name}: at work"):
            made, is_new = once(build, f"{source.name}.pairs", key, make)
        release(raws)  # now: in the order of telling, one long source would keep the downloads of all
    except UserError as error:
        if len(recipe.sources) > 1:
            report(f"{source.name}: failed: {error}")
        raise
    return made, f"{time.perf_counter() - start:6.1f} s" if is_new else "made before"


def absolute(raw: Raw) -> Raw:
    """A raw file under a name that holds in any working directory; links within the raw folder keep their names."""
    return replace(raw, path=raw.path.absolute(), companions=tuple(map(absolute, raw.companions)))


def make_source(workers: Workers, size: int, *arguments) -> dict:
    """`source_pairs` where it is best done: a source of many bytes is spread over a cluster, any other is one task."""
    if workers.engine == "ray" and size > CLUSTER_BYTES:
        with ONE_AT_A_TIME:
            return source_pairs(*arguments)
    return workers.run(source_pairs_alone, *arguments)


def report_source(name: str, width: int, tally: Tally, how_long: str, report: Report) -> None:
    """Tells where the rows of a source went, and the first rejected row of each reason."""
    report(
        f"{name:<{width}}  read {tally.read:>11,}  kept {tally.kept:>11,}  duplicates {tally.duplicates:>9,}"
        f"  rejected {sum(tally.rejected.values()):>7,}  {how_long}"
    )
    for way, count in tally.ways.items():
        report(f"{'':<{width}}  taken {count:,}: {way}")
    for example in {example["reason"]: example for example in reversed(tally.examples)}.values():
        count = tally.rejected[example["reason"]]
        report(f"{'':<{width}}  rejected {count:,}: {example['reason']}, first {example['file']}:{example['row']}")


def describe_source(category: str, stages: Sequence[str], licence: str, tally: Tally, pairs: dict) -> dict:
    """A source as the manifest states it, shards excepted."""
    counts = asdict(tally)
    negatives = counts.pop("negatives")
    facts = {"category": category, "stages": list(stages), "licence": licence, "negatives": negatives, **counts}
    return {**facts, "pairs": pairs}


def write_triples(name: str, triples: Triples, facts: dict[str, dict], build: Path, report: Report) -> dict:
    """Writes pairs/<name>.parquet, the first rows of another source with mined negatives; returns its facts."""
    start = time.perf_counter()
    parent = facts[triples.source]
    key = {"pairs": parent["pairs"]["sha256"], "triples": asdict(triples), **maker(TRIPLES_CODE)}
    made, is_new = once(build, f"{name}.pairs", key, partial(mined_triples, name, triples, build))
    rows, negatives = made["rows"], made["negatives"]
    how_long = f"{time.perf_counter() - start:.1f} s" if is_new else "made before"
    report(f"{name}: {rows:,} triples, {negatives / max(1, rows):.1f} negatives each, {how_long}")
    tally = Tally(read=rows, kept=rows, negatives=True)
    return describe_source(parent["category"], ["finetune"], parent["licence"], tally, made["files"][0])


def mined_triples(name: str, triples: Triples, build: Path) -> dict:
    """Writes pairs/<name>.parquet; returns its file and the counts of rows and negatives."""
    pairs = pa.Table.from_batches(pair_batches(build / "pairs" / f"{triples.source}.parquet", 65_536))
    chosen = pairs.slice(0, triples.rows)
    settings = {key: getattr(triples, key) for key in ("negatives", "skip", "depth", "seed")}
    queries, documents = (pairs.column(column).to_pylist() for column in ("query", "document"))
    mined = mine(queries, documents, asked=range(chosen.num_rows), **settings).texts
    columns = {column: chosen.column(column) for column in ("query", "document")}
    columns["negatives"] = pa.array(mined, pa.list_(pa.string()))
    columns |= {column: chosen.column(column) for column in ("file", "row")}
    pq.write_table(pa.table(columns), build / "pairs" / f"{name}.parquet", **PARQUET)
    return {
        "rows": len(mined),
        "negatives": sum(map(len, mined)),
        "files": [described_pairs(build, name)],
    }


def write_decontamination(
    settings: Decontamination, evaluation: EvaluationTexts, found: dict[str, dict], build: Path, report: Report
) -> None:
    """Writes decontamination.json: which evaluation sets had texts in which sources, and examples to look at."""
    by_set = {
        name: {source: facts["sets"][name] for source, facts in found.items() if name in facts.get("sets", {})}
        for name in evaluation.sets
    }
    left_out = {source: facts["pairs"] for source, facts in found.items() if facts}
    examples = [{"source": source, **shown} for source, facts in found.items() for shown in facts.get("examples", ())]
    stated = {
        "settings": {**asdict(settings), "folder": str(settings.folder)},
        "evaluation texts": evaluation.sets,
        "pairs left out": left_out,
        "by evaluation set": by_set,
        "examples": examples,
    }
    write_json(build / REPORT, stated, indent=1, ascii_only=False)
    for name, sources in by_set.items():
        exact, ngram = (sum(counts[match] for counts in sources.values()) for match in REASONS)
        report(f"decontamination: {name}: {exact:,} pairs with a text of it, {ngram:,} more with an n-gram of one")
    report(f"decontamination: {sum(left_out.values()):,} pairs left out, see {REPORT}")


def train(sizes: dict[str, int], vocab_size: int, build: Path, report: Report):
    """A tokenizer trained on the pairs of these sources."""
    start = time.perf_counter()
    texts = training_texts(build, sizes)
    tokenizer = train_tokenizer(texts, vocab_size)
    seconds = time.perf_counter() - start
    report(f"tokenizer: WordPiece of {len(tokenizer):,} entries from {len(texts):,} texts, {seconds:.1f} s")
    return tokenizer


def training_texts(build: Path, sizes: dict[str, int]) -> list[str]:
    """Queries and documents of the first pairs of each source, in proportion to its size."""
    share = min(1.0, TRAINING_PAIRS / max(1, sum(sizes.values())))
    texts: list[str] = []
    for name, rows in sizes.items():
        wanted = int(np.ceil(rows * share))
        file = build / "pairs" / f"{name}.parquet"
        groups = leading_groups(file, wanted)
        for batch in pair_batches(file, 65_536, groups, columns=["query", "document"]):
            batch = batch.slice(0, wanted)
            wanted -= batch.num_rows
            texts += batch.column("query").to_pylist() + batch.column("document").to_pylist()
            if not wanted:
                break
    return texts


def write_all_shards(
    facts: dict[str, dict],
    tokenizer: "PreTrainedTokenizerBase",
    max_tokens: int,
    build: Path,
    report: Report,
    workers: Workers,
) -> None:
    """Writes shards/<source>/ of every source, a task a range of rows, and adds them to its facts."""
    start, rows, before, counts = time.perf_counter(), 0, 0, Counter()
    rules, read_by = build / WORK / "tokenizer.json", fingerprint(tokenizer)
    rules.write_text(plain_reader(tokenizer).to_str(), encoding="utf-8")
    base = {"tokenizer": read_by, "max_tokens": max_tokens, **maker(SHARDS_CODE)}
    steps, sizes = [], []
    for name, entry in facts.items():
        entry["shards"] = []
        for number, (first, end, size) in enumerate(ranges(build / "pairs" / f"{name}.parquet")):
            key = {**base, "pairs": entry["pairs"]["sha256"], "groups": [first, end]}
            task = partial(token_shards, build, name, number, (first, end), rules, read_by, max_tokens)
            step = partial(once, build, f"{name}.shards.{number:05d}", key, partial(workers.run, task))
            steps.append((name, step))
            sizes.append(size)
    errors = []
    for (name, _), result in zip(steps, workers.each([step for _, step in steps], sizes), strict=True):
        if isinstance(result, UserError):
            errors.append(result)
            continue
        made, is_new = result
        facts[name]["shards"] += made["files"]
        counts.update(made["counts"])
        done = sum(file["rows"] for file in made["files"])
        rows, before = rows + is_new * done, before + (not is_new) * done
    if errors:
        raise errors[0]
    for name, entry in facts.items():  # a killed run's, of which there were more
        folder = build / "shards" / name
        kept = {Path(file["file"]).name for shard in entry["shards"] for file in with_pages(shard)}
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()
    seconds = time.perf_counter() - start
    made_before = f", {before:,} made before" if before else ""
    at_once = f" on {workers.count} workers" if workers.count > 1 else ""
    report(f"token shards: {rows:,} rows, {seconds:.1f} s, {rows / seconds:,.0f} rows/s{at_once}{made_before}")
    if counts["cut"]:
        share = f"{counts['cut']:,} of {counts['texts']:,} texts"
        report(f"{share} have data.max_tokens={max_tokens} or more: what is beyond was cut")


def describe_tokenizer(tokenizer: "PreTrainedTokenizerBase", name: str | None, max_tokens: int) -> dict:
    """A tokenizer as the manifest states it."""
    prefix, suffix = special_ids(tokenizer)
    commit = commit_of(tokenizer)
    return {
        "name": name or "WordPiece trained on these pairs",
        **({"revision": commit} if name and commit else {}),
        "fingerprint": fingerprint(tokenizer),
        "vocab_size": len(tokenizer),
        "prefix": prefix,
        "suffix": suffix,
        "pad": tokenizer.pad_token_id or 0,
        "dtype": str(id_type(tokenizer.get_vocab())),
        "max_tokens": max_tokens,
    }


def table(manifest: Manifest, out: Path) -> str:
    """The prepared sources as a table for people."""
    rows = [("source", "category", "stages", "read", "kept", "duplicates", "rejected", "MB")]
    for name, facts in manifest.sources.items():
        counts = [facts["read"], facts["kept"], facts["duplicates"], sum(facts["rejected"].values())]
        size = sum(shard["bytes"] for shard in facts["shards"]) / 1e6
        stages = "+".join(facts["stages"])
        rows.append((name, facts["category"], stages, *(f"{count:,}" for count in counts), f"{size:.1f}"))
    total = [sum(int(row[column].replace(",", "")) for row in rows[1:]) for column in (3, 4, 5, 6)]
    rows.append(("total", "", "", *(f"{n:,}" for n in total), f"{sum(float(row[7]) for row in rows[1:]):.1f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{c:<{w}}" if i < 3 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    notes = [line for name, facts in manifest.sources.items() for line in cut_files(name, facts)]
    return "\n".join(["", *(line.rstrip() for line in lines), *notes, f"written to {out}"])


def cut_files(name: str, facts: dict) -> list[str]:
    """A line for each file of a source that could not be read to its end; what it lacks is in no count."""
    found = [example for example in facts["examples"] if example["reason"] in ENDS]
    lines = [
        f"note: {name}: {example['file']} breaks off behind row {example['row']:,} ({example['reason']}); what follows "
        "there was not read and is not counted: get the file again, then prepare with force=true"
        for example in found
    ]
    more = sum(facts["rejected"].get(reason, 0) for reason in ENDS) - len(found)
    return lines + ([f"note: {name}: so do {more:,} other files"] if more else [])
