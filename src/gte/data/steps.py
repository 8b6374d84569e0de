"""The long steps of a preparation, which a killed run need not repeat: pairs, mined triples, shards."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.folder import WORK, once
from gte.data.locate import configuration, locate, release
from gte.data.made_by import SHARDS_CODE, TRIPLES_CODE, maker, pairs_code
from gte.data.pairs import PARQUET, Tally, hash_file, texts_size
from gte.data.pairs_file import pair_batches
from gte.data.recipe import Recipe, Triples
from gte.data.shards import with_pages
from gte.data.sources import Raw, Source
from gte.data.tasks import described_pairs, ranges, source_pairs, source_pairs_alone, token_shards
from gte.data.tokenizer import fingerprint, plain_reader
from gte.data.workers import Workers
from gte.errors import UserError
from gte.ticker import still_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLUSTER_BYTES = 2**31  # of raw texts: above, Daft spreads the files of one source over the cluster
ONE_AT_A_TIME = threading.Lock()  # sources that Daft spreads over the cluster: its settings are the process's

MADE_BEFORE = "made before"
Report = Callable[[str], None]


def write_pairs(
    recipe: Recipe,
    raws: dict[str, list[Raw]],
    index: Path | None,
    build: Path,
    report: Report,
    workers: Workers,
) -> dict[str, dict]:
    """Writes pairs/<source>.parquet of every source; returns what the manifest records of each, shards excepted.

    Sources are made at the same time, except where each depends on those before it, and are told in their order. Where
    one cannot be made the others are, which the next run takes over; then UserError says what the first one's fault is.
    """
    start, read, facts = time.perf_counter(), 0, {}
    width = max(len(source.name) for source in recipe.sources)
    several = [[source] for source in recipe.sources] if recipe.dedup_across else [recipe.sources]
    failed: dict[str, UserError] = {}
    makers = {source.reader: maker(pairs_code(source)) for source in recipe.sources}
    for sources in several:
        earlier = [facts[name]["pairs"]["sha256"] for name in facts] if recipe.dedup_across else None
        across = [hash_file(build / WORK / name) for name in facts] if recipe.dedup_across else None
        steps = [
            partial(
                pairs_step,
                recipe,
                source,
                raws[source.name],
                makers[source.reader],
                earlier,
                across,
                index,
                build,
                workers,
                report,
            )
            for source in sources
        ]
        sizes = [sum(texts_size(raw) for raw in raws[source.name]) for source in sources]
        # one more waits for a worker, which has work while this process flushes what another wrote
        for source, result in zip(sources, workers.each(steps, sizes, ahead=1), strict=True):
            if isinstance(result, UserError):
                failed[source.name] = result
                continue
            made, how_long = result
            tally = Tally(**made["tally"])
            facts[source.name] = describe_source(
                source.category, source.stages, source.licence, tally, made["files"][0]
            )
            report_source(source.name, width, tally, how_long, report)
            read += tally.read * (how_long != MADE_BEFORE)
        if failed and recipe.dedup_across:
            break
    if failed:
        first, *others = failed
        rest = f"; nor could {', '.join(others)} be made" if others else ""
        raise UserError(f"{failed[first]}{rest}") from failed[first]
    if read:
        seconds = time.perf_counter() - start
        report(f"pairs: {read:,} rows, {seconds:.1f} s, {read / seconds:,.0f} rows/s{workers.at_once}")
    return facts


def pairs_step(
    recipe: Recipe,
    source: Source,
    raws: list[Raw],
    made_by: dict,
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
        **made_by,
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
    return made, f"{time.perf_counter() - start:6.1f} s" if is_new else MADE_BEFORE


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
    if tally.gathered:
        report(f"{'':<{width}}  {tally.gathered:,} negatives of duplicates are kept with the pairs that they repeat")
    for why, count in tally.dropped.items():
        report(f"{'':<{width}}  dropped {count:,} negatives: {why}")
    for example in {example["reason"]: example for example in reversed(tally.examples)}.values():
        count = tally.rejected[example["reason"]]
        report(f"{'':<{width}}  rejected {count:,}: {example['reason']}, first {example['file']}:{example['row']}")


def describe_source(category: str, stages: Sequence[str], licence: str, tally: Tally, pairs: dict) -> dict:
    """A source as the manifest records it, without its shards."""
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
    how_long = f"{time.perf_counter() - start:.1f} s" if is_new else MADE_BEFORE
    report(f"{name}: {rows:,} triples, {negatives / max(1, rows):.1f} negatives each, {how_long}")
    tally = Tally(read=rows, kept=rows, negatives=True)
    return describe_source(parent["category"], ["finetune"], parent["licence"], tally, made["files"][0])


def mined_triples(name: str, triples: Triples, build: Path) -> dict:
    """Writes pairs/<name>.parquet; returns its file and the counts of rows and negatives."""
    from gte.data.mining import mine  # late: it loads PyTorch

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
    for (name, _), result in zip(steps, workers.each([step for _, step in steps], sizes, ahead=1), strict=True):
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
    made_before = f", {before:,} {MADE_BEFORE}" if before else ""
    rate = f"{rows / seconds:,.0f} rows/s{workers.at_once}"
    report(f"token shards: {rows:,} rows, {seconds:.1f} s, {rate}{made_before}")
    if counts["cut"]:
        share = f"{counts['cut']:,} of {counts['texts']:,} texts"
        report(f"{share} have data.max_tokens={max_tokens} or more: what is beyond was cut")
