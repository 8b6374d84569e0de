"""From raw sources to a prepared folder: unique pairs, a tokenizer, token shards, a manifest. All or nothing."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from gte.data.contamination import NEGATIVES, REASONS, Decontamination, EvaluationTexts, save_evaluation
from gte.data.folder import WORK, building_site, find_complete, refuse_foreign
from gte.data.locate import hub_notes
from gte.data.made_by import age, recipe_code, versions
from gte.data.pairs import check_engine, texts_size, use_engine
from gte.data.pairs_file import leading_groups, pair_batches
from gte.data.preview import describe, preview
from gte.data.reasons import ENDS
from gte.data.recipe import Recipe
from gte.data.shards import Manifest
from gte.data.sources import LOCAL, Raw
from gte.data.steps import Report, write_all_shards, write_pairs, write_triples
from gte.data.tokenizer import commit_of, fingerprint, load_tokenizer, special_ids, train_tokenizer
from gte.data.tokens import id_type
from gte.data.workers import Workers, how_many
from gte.errors import UserError, say
from gte.files import write_json
from gte.locks import locked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINING_PAIRS = 60_000  # a tokenizer is trained on so many pairs at most, of each source in proportion
REPORT = "decontamination.json"
WORTH = 2**24  # bytes of raw texts that keep a further worker busy for longer than its start takes


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
    """Make the prepared folder `out`, or find it made: `manifest.json`, `pairs/`, `shards/`, `tokenizer/`, `eval/`.

    Everything is written to a hidden folder beside `out`, which takes its name at the very end: `out` is complete or
    not there, whenever the process dies, and the next run takes over what was finished. Two runs with equal raw files
    write equal bytes, but for the time in the manifest, whatever the engine and the number of workers.

    Args:
        recipe: all that the content depends on.
        out: the folder. A complete one of the same configuration is left as it is, with a line where other code made
            it; one of another configuration is refused, except where only a tokenizer that nobody asked for differs.
        engine: native, or ray for the cluster, whose machines must see `out` and the raw files under the same names.
        workers: tasks at a time, each in a process; 1 for all in this one, None for all cores, fewer for little data.
        force, command, report: make it in any case; kept in the manifest; takes each line of progress.
        dry_run: whether to show how the user's files are read, write nothing and return None.
    """
    recipe.check()
    check_machines(engine, workers)
    raws = recipe.locate()
    if dry_run:
        show(recipe, raws, look_at(recipe, raws, Workers(1)), report)
        report("dry run: nothing is written")
        return None
    stated = recipe.configuration(raws)
    out = Path(out)
    with locked(out, "making", "data.dir"):
        if not force and (made := find_complete(out, stated)):
            report(f"{out} is complete and {age(made, recipe)}")
            return made
        refuse_foreign(out)
        start_engine(engine, recipe, report)
        with Workers(processes(workers, engine, raws), engine) as pool:
            given, looks = tokenizer_and_looks(recipe, raws, pool)
            for note in hub_notes(recipe.sources, raws, recipe.raw):
                report(note)
            shown = show(recipe, raws, looks, report)
            with building_site(out, report) as build:
                build = build.resolve()  # the tasks of a cluster run in other folders
                try:
                    manifest = fill(recipe, raws, given, build, report, pool)
                except BaseException:
                    pool.stop()  # before the site is judged: a worker may still write to it
                    raise
                for name, columns in shown.items():
                    manifest.sources[name]["columns"] = columns
                manifest.configuration, manifest.command = stated, command
                manifest.save(build)
    report(table(manifest, out))
    return manifest


def check_machines(engine: str, workers: int | None) -> None:
    """UserError for an engine or a number of workers that cannot be meant."""
    check_engine(engine)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UserError(f"workers={workers} must be a whole number of at least 1, or null for a core each")


def start_engine(engine: str, recipe: Recipe, report: Report) -> None:
    """`use_engine`; where that is Ray, tells how long it took. Meanwhile the libraries of tokenizers are imported."""
    start = time.perf_counter()
    if engine == "ray" and recipe.tokenizer is not None and find_spec("ray"):
        Thread(target=import_tokenizers, daemon=True).start()
    use_engine(engine)
    if engine == "ray":
        report(f"ray: ready, {time.perf_counter() - start:.1f} s")


def import_tokenizers() -> None:
    """Import what `load_tokenizer` does, which takes seconds."""
    from transformers import AutoTokenizer  # noqa: F401


def processes(workers: int | None, engine: str, raws: dict[str, list[Raw]]) -> int:
    """The number of worker processes: as asked, or as many as the machine has room and the data have work for."""
    count = how_many(workers, engine)
    if workers is None:
        count = min(count, 1 + sum(texts_size(raw) for found in raws.values() for raw in found) // WORTH)
    return count


def tokenizer_and_looks(
    recipe: Recipe, raws: dict[str, list[Raw]], workers: Workers
) -> tuple["PreTrainedTokenizerBase | None", dict[str, dict | UserError]]:
    """The tokenizer that the recipe names, None where it names none, and what `look_at` returns.

    Loading the one takes seconds of this process; the workers start and look at the files meanwhile. Raises UserError
    where there is no such tokenizer.
    """
    near = workers if workers.engine == "native" else Workers(1)  # a cluster's processes run in other folders
    with ThreadPoolExecutor(1) as aside:
        looking = aside.submit(look_at, recipe, raws, near)
        given = None
        if recipe.tokenizer is not None:  # may fail: before hours of work
            try:
                given = load_tokenizer(recipe.tokenizer, recipe.tokenizer_revision)
            except BaseException:
                near.stop()  # or the previews would be waited for
                raise
        return given, looking.result()


def look_at(recipe: Recipe, raws: dict[str, list[Raw]], workers: Workers) -> dict[str, dict | UserError]:
    """The `preview` of each of a user's own files, by source."""
    own = [source for source in recipe.sources if source.category == LOCAL]
    calls = [partial(workers.run, preview, source, raws[source.name]) for source in own]
    found = workers.each(calls, [0] * len(calls))
    return {source.name: look for source, look in zip(own, found, strict=True)}


def show(
    recipe: Recipe, raws: dict[str, list[Raw]], looks: dict[str, dict | UserError], report: Report
) -> dict[str, dict]:
    """Tells what of each of a user's own files is read as what, and warns; returns it by source."""
    for note in recipe.notes:
        report(f"note: {note}")
    shown = {}
    for name, look in looks.items():
        if isinstance(look, UserError):
            raise look
        shown[name] = look
        for line in describe(name, ", ".join(raw.name for raw in raws[name]), look):
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


def sweep(build: Path, names: list[str]) -> None:
    """Removes what a killed run of another recipe left, and what is written again in every case."""
    for path in build.iterdir():
        if path.name not in (WORK, "pairs", "shards"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (build / "pairs").mkdir(exist_ok=True)
    (build / "shards").mkdir(exist_ok=True)
    for path in [*(build / "pairs").iterdir(), *(build / "shards").iterdir()]:
        if path.name.removesuffix(".parquet").removesuffix(".pages") not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def index_evaluation(settings: Decontamination, report: Report) -> EvaluationTexts:
    """The texts that no pair may hold, nor a negative."""
    start = time.perf_counter()
    evaluation = EvaluationTexts(settings)
    texts = ", ".join(f"{name} {count:,}" for name, count in evaluation.sets.items())
    report(f"decontamination: texts of {settings.folder}: {texts}, {time.perf_counter() - start:.1f} s")
    return evaluation


def write_decontamination(
    settings: Decontamination, evaluation: EvaluationTexts, found: dict[str, dict], build: Path, report: Report
) -> None:
    """Writes decontamination.json: which evaluation sets had texts in which sources, and examples to look at."""
    by_set = {
        name: {source: facts["sets"][name] for source, facts in found.items() if name in facts.get("sets", {})}
        for name in evaluation.sets
    }
    left_out, dropped = (
        {source: facts[kind] for source, facts in found.items() if facts} for kind in ("pairs", "negatives")
    )
    examples = [{"source": source, **shown} for source, facts in found.items() for shown in facts.get("examples", ())]
    stated = {
        "settings": {**asdict(settings), "folder": str(settings.folder)},
        "evaluation texts": evaluation.sets,
        "too short to look for": evaluation.short,
        "pairs left out": left_out,
        "negatives dropped": dropped,
        "by evaluation set": by_set,
        "examples": examples,
    }
    write_json(build / REPORT, stated, indent=1, ascii_only=False)
    for name, sources in by_set.items():
        exact, ngram, negatives = (sum(counts[kind] for counts in sources.values()) for kind in (*REASONS, NEGATIVES))
        line = f"decontamination: {name}: {exact:,} pairs with a text of it, {ngram:,} more with an n-gram of one"
        report(f"{line}; {negatives:,} negatives of others" if negatives else line)
    others = f" and {sum(dropped.values()):,} negatives of others" if any(dropped.values()) else ""
    report(f"decontamination: {sum(left_out.values()):,} pairs left out{others}, see {REPORT}")


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


def describe_tokenizer(tokenizer: "PreTrainedTokenizerBase", name: str | None, max_tokens: int) -> dict:
    """A tokenizer as the manifest records it."""
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
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:3], widths[:3], strict=True)]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join(cells))
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
