"""Raw files to unique pairs in hash order, by tasks of Daft's engine: embedded (native) or on a Ray cluster.

A task reads a raw file into runs, files that are split by the leading bits of the pairs' hashes. Then a task sorts the
rows of one such bucket by hash and writes them without repetitions, so memory is that of a bucket whatever the source's
size, and this process only joins what the tasks wrote. Hash order is also a shuffle: any stretch of the result is a
random sample of the source. Where a pair takes rows that stand anywhere in the source's files (a comment and its post),
the files are first split by the hash of the rows' key, and a task joins the rows of one such bucket.

The row groups of a pairs file are intervals of the hashes, 2^n of them, n by the number and the size of the source's
pairs alone. So tasks can write them independently of each other, and the file hangs neither on the number of buckets
nor on the engine.
"""

import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gte.cores import allowed_cores
from gte.data.columnar.read import read_columns
from gte.data.contamination import Contamination, EvaluationTexts, load_evaluation, save_evaluation
from gte.data.distinct import HASHES, all_negatives, distinct_rows, with_negatives
from gte.data.engine import daft, run_tasks
from gte.data.reasons import is_fault
from gte.data.row_groups import join_files
from gte.data.rows import FATAL, joined_records, keyed_row, leading, part_row, plain_part, raw_records, refusals
from gte.data.runs import EXAMPLES, KEYED, PART, Runs, read_buckets, write_runs
from gte.data.slots import one_core
from gte.data.sources import Raw, Source
from gte.errors import UserError, first_line

logging.getLogger("tracing").setLevel(logging.WARNING)  # Daft's engine names every operator it enters

PARQUET = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": ["file"]}  # texts seldom repeat
BUCKET_BYTES = 32 * 2**20  # of texts, about; sorting one takes a few times as much
MAX_BUCKETS = 1024
MOST_THREADS = 4  # that parse the blocks of a file, each of which is held; unpacking keeps no more of them busy
GROUP_ROWS = 16_384  # of the pairs files' row groups, about, at most
GROUP_BYTES = 64 * 2**20  # of their texts
LARGE_BYTES = 2**30  # of a bucket's rows, beyond which a column's texts get 64-bit offsets before they are put together

chosen: list[str] = []  # the engine, once native was asked for
evaluations: dict[Path, EvaluationTexts] = {}  # of `make_pairs` in this process, by the file that others load


@dataclass
class Tally:
    """Where the rows of a source went: read = kept + duplicates + sum of rejected.

    ways: how many pairs, duplicates among them, were read in each of a format's ways, where it has several.
    gathered: negatives that kept pairs have from their duplicates alone.
    dropped: negatives that no pair has, by reason: of rows read, duplicates among them, or of kept pairs.
    """

    read: int = 0
    kept: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: list[dict] = field(default_factory=list)
    negatives: bool = False
    contamination: dict = field(default_factory=dict)
    ways: dict[str, int] = field(default_factory=dict)
    gathered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def use_engine(engine: str) -> None:
    """Chooses where Daft runs: native, in this process, or ray, on the cluster at hand; once a process.

    Raises UserError for another engine, and where Ray is not installed.
    """
    check_engine(engine)
    if engine == "native" and not chosen:  # asking Daft which engine it would take imports Ray: 0.4 s, 40 MB
        chosen.append(engine)
        try:
            daft.set_runner_native()
        except daft.exceptions.DaftCoreException:  # Daft has run in this process before, by its own choice
            if daft.get_or_infer_runner_type() != engine:
                raise
    elif engine == daft.get_or_infer_runner_type():
        return  # it may be set only once
    elif engine == "native":
        daft.set_runner_native()
    else:
        try:
            import ray
        except ImportError:
            raise UserError(
                "engine=ray needs Ray, which is not installed: pip install -r requirements-ray.txt, or engine=native"
            ) from None
        if not ray.is_initialized():
            code = str(Path(__file__).resolve().parents[2])
            environment = None if is_handed_on(code) else {"env_vars": {"PYTHONPATH": code}}
            try:
                ray.init(runtime_env=environment, log_to_driver=False, logging_level="WARNING")
            except Exception as error:  # of no class of Ray's own, where a busy machine starts it too slowly
                raise UserError(
                    f"engine=ray: Ray did not start ({first_line(error)}); try again where less runs, check "
                    "RAY_ADDRESS, or take engine=native"
                ) from error
        daft.set_runner_ray(noop_if_initialized=True)


def check_engine(engine: str) -> None:
    """UserError for an engine that there is not."""
    if engine not in ("native", "ray"):
        raise UserError(f"unknown engine '{engine}'; known: native, ray")


def is_handed_on(code: str) -> bool:
    """Whether Ray's processes look for modules in this folder anyway: they do in that of the script that runs.

    With an environment of their own they would be started anew, beside those that Ray has ready. Not where Ray's client
    or `ray job submit` started this process: theirs do not look there.
    """
    elsewhere = "://" in os.environ.get("RAY_ADDRESS", "") or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return not elsewhere and code in sys.path and os.path.dirname(os.path.realpath(sys.argv[0])) == code


def make_pairs(
    source: Source,
    raws: list[Raw],
    target: Path,
    work: Path,
    *,
    max_rejected: float,
    seen: list[Path] | None = None,
    evaluation: EvaluationTexts | None = None,
) -> Tally:
    """Write the distinct pairs of a source to one parquet file in order of their 128-bit hash.

    Of equal pairs the one of the lowest (file, row) survives, with the negatives of all of them, each once. The texts
    and their order depend neither on the order of files and rows nor on the engine; that of negatives on (file, row).

    Args:
        source: what the pairs are made of.
        raws: its raw files.
        target: the file to write, with the columns query, document, [negatives,] file, row. Its pages have checksums.
        work: folder for intermediate files, as large as the texts; with engine=ray every machine must see it. Removed
            at the end.
        max_rejected: share of the rows that may be rejected, those that the source filters out and contaminated ones
            not counted.
        seen: hash files of other sources; pairs in them count as duplicates, and this source's own is written to
            `hash_file(work)`.
        evaluation: texts that no pair may hold, nor a negative.
    Returns: where the rows went.
    Raises: UserError where more are rejected, where no pair is left but for duplicates of other sources, and for what a
        reader cannot read on from; OSError where the disk is full.
    """
    shutil.rmtree(work, ignore_errors=True)  # a killed run's
    try:
        return pairs_in(source, raws, target, work, max_rejected, seen, evaluation)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # of a source that fails as well; its hash file lies beside it


def pairs_in(
    source: Source,
    raws: list[Raw],
    target: Path,
    work: Path,
    max_rejected: float,
    seen: list[Path] | None,
    evaluation: EvaluationTexts | None,
) -> Tally:
    """`make_pairs` in an empty folder for intermediate files."""
    buckets = min(MAX_BUCKETS, power_of_two(sum(texts_size(raw) for raw in raws) / BUCKET_BYTES))
    tally, size = count_parts(source, write_parts(source, raws, buckets, work), max_rejected)
    pairs = tally.read - sum(tally.rejected.values())
    groups = power_of_two(max(pairs / GROUP_ROWS, size / GROUP_BYTES))
    (work / "unique").mkdir()
    shared = None
    if evaluation:
        shared = work / "evaluation.pickle"
        if daft.get_or_infer_runner_type() == "ray":
            save_evaluation(evaluation, shared)
        evaluations[shared] = evaluation
    tasks = min(buckets, groups)
    columns = ["query", "document", *(["negatives"] if tally.negatives else []), "file", "row"]
    settings = {"work": work, "columns": columns, "seen": seen, "evaluation": shared}
    functions = [
        partial(unique_pairs, number, one_of(number, tasks, buckets), one_of(number, tasks, groups), groups, **settings)
        for number in range(tasks)
    ]
    found = run_tasks(f"{source.name}: unique pairs", functions)
    evaluations.clear()
    tally.kept = join_files(sorted((work / "unique").glob("*.pairs")), target)
    if seen is not None:
        join_files(sorted((work / "unique").glob("*.hashes")), hash_file(work))
    tally.duplicates = pairs - sum(facts["distinct"] for facts in found)
    tally.gathered = sum(facts["gathered"] for facts in found)
    if evaluation:
        contamination = Contamination(evaluation)
        for facts in found:
            contamination.add(facts["contamination"])
        tally.rejected |= contamination.rejected
        tally.examples += contamination.examples
        tally.dropped |= contamination.dropped
        tally.contamination = contamination.facts()
    if tally.kept + tally.duplicates + sum(tally.rejected.values()) != tally.read:
        raise RuntimeError(f"source {source.name}: not every row is accounted for: {tally}")
    require_pairs(source, tally)
    return tally


def require_pairs(source: Source, tally: Tally) -> None:
    """UserError where all that is left of a source without duplicates holds evaluation texts."""
    if tally.kept or not tally.contamination.get("pairs"):
        return
    counts = tally.rejected | ({"duplicate": tally.duplicates} if tally.duplicates else {})
    reasons = ", ".join(f"{why} {count:,}" for why, count in counts.items())
    line = f"source {source.name}: no pair is left of {tally.read:,} rows ({reasons})"
    tasks = ", ".join(tally.contamination["sets"])
    raise UserError(
        f"{line}; skip it, or look for other texts than those of {tasks}: data.decontaminate.folder=, texts="
    )


def hash_file(work: Path) -> Path:
    """Where `make_pairs` writes the hashes of a source's pairs."""
    return work.with_name(f"{work.name}.hashes.parquet")


def power_of_two(number: float) -> int:
    """The least power of two that is not below a number."""
    return 1 << max(0, int(np.ceil(number)) - 1).bit_length()


def one_of(number: int, tasks: int, count: int) -> range:
    """Give a task its share of `count` buckets or row groups, as a range of their numbers."""
    share = count // tasks
    return range(number * share, (number + 1) * share)


def texts_size(raw: Raw) -> int:
    """About how many bytes of text a raw input holds."""
    return raw.bytes * (4 if raw.name.endswith((".gz", ".zst", ".parquet")) else 1)


def write_parts(source: Source, raws: list[Raw], buckets: int, work: Path) -> list[dict]:
    """Write the pairs of a source to runs in work/parts; returns what each task counted."""
    parts, keyed = work / "parts", work / "keyed"
    parts.mkdir(parents=True)
    threads = 1  # a task of Ray has one core
    if daft.get_or_infer_runner_type() == "native" and not one_core():
        threads = min(MOST_THREADS, max(1, allowed_cores() // len(raws)))
    if not source.keyed:
        tasks = [partial(read_raw, number, source, raw, buckets, parts, threads) for number, raw in enumerate(raws)]
        return run_tasks(f"{source.name}: reading", tasks)
    keyed.mkdir()
    tasks = [partial(read_keyed, number, source, raw, buckets, keyed) for number, raw in enumerate(raws)]
    counts = run_tasks(f"{source.name}: reading", tasks)
    tasks = [partial(join_bucket, bucket, source, keyed, buckets, parts) for bucket in range(buckets)]
    counts += run_tasks(f"{source.name}: joining", tasks)
    shutil.rmtree(keyed)
    return counts


def read_raw(number: int, source: Source, raw: Raw, buckets: int, folder: Path, threads: int) -> dict:
    """The task that reads a raw file into runs of its number."""

    def batches() -> Iterator[pa.RecordBatch | tuple[int, tuple]]:
        for found in refusals(read_columns(source, raw, threads)):
            if isinstance(found, pa.RecordBatch):
                yield plain_part(found, raw.name, buckets)
            else:
                yield part_row(raw.name, found, buckets)

    return write_runs(batches(), PART, Runs(folder, number, buckets))


def read_keyed(number: int, source: Source, raw: Raw, buckets: int, folder: Path) -> dict:
    """The task that reads a raw file of a keyed format into runs of its number, split by the rows' keys."""
    rows = (keyed_row(file, record, buckets) for file, record in raw_records(source, raw))
    return write_runs(rows, KEYED, Runs(folder, number, buckets))


def join_bucket(bucket: int, source: Source, keyed: Path, buckets: int, folder: Path) -> dict:
    """The task that joins the rows of a bucket of keys into runs of the bucket's number."""
    rows = (part_row(file, record, buckets) for file, record in joined_records(source, keyed, bucket))
    return write_runs(rows, PART, Runs(folder, bucket, buckets))


def count_parts(source: Source, found: list[dict], max_rejected: float) -> tuple[Tally, int]:
    """Add up rows read and rejected, and the bytes of the pairs' texts. Raises UserError for what stops the source."""
    counts: dict[str, int] = {}
    examples: dict[str, list[list]] = {}
    for facts in found:
        for why, (count, first) in facts["rejected"].items():
            counts[why] = counts.get(why, 0) + count
            examples[why] = sorted([*examples.get(why, []), *first])[:EXAMPLES]
    pairs, negatives = sum(facts["pairs"] for facts in found), any(facts["negatives"] for facts in found)
    tally = Tally(read=pairs + sum(counts.values()), negatives=negatives)
    if not tally.read:
        raise UserError(f"source {source.name}: its raw files hold no row")
    tally.rejected = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    tally.ways, tally.dropped = (
        dict(sorted(sum((Counter(facts[kind]) for facts in found), Counter()).items())) for kind in ("ways", "dropped")
    )
    for why in tally.rejected:
        if why.startswith(FATAL):
            raise UserError(f"source {source.name}: {why.removeprefix(FATAL)}")
        tally.examples += [{"reason": why, "file": file, "row": row} for file, row in examples[why]]
    faults = {why: count for why, count in tally.rejected.items() if is_fault(why)}
    rejected, limit = sum(faults.values()), f"more than max_rejected={max_rejected:g}"
    if not pairs:
        faults, rejected, limit = tally.rejected, tally.read, "so no pair is left"
    if not pairs or rejected > max_rejected * (pairs + rejected):
        worst = next(example for example in tally.examples if example["reason"] in faults)
        raise UserError(
            f"source {source.name}: {rejected:,} of {pairs + rejected:,} rows are rejected, {limit}; "
            f"most often '{worst['reason']}', first at {worst['file']}:{worst['row']}"
        )
    return tally, sum(facts["bytes"] for facts in found)


def unique_pairs(
    number: int,
    buckets: range,
    groups: range,
    all_groups: int,
    *,
    work: Path,
    columns: list[str],
    seen: list[Path] | None,
    evaluation: Path | None,
) -> dict:
    """The task that writes the row groups of some buckets to a parquet file of its number, and their hashes to another.

    Args:
        number: of the task.
        buckets, groups: what the task has of the buckets, and of `all_groups` row groups: the same hashes.
        work, seen: as in `make_pairs`.
        columns: of the pairs file.
        evaluation: key of `evaluations`, or the file with one.
    Returns: {"distinct": distinct pairs that no other source has, "gathered": as in `Tally`, "contamination": what is
        counted of these}.
    """
    schema = pa.schema([PART.field(name) for name in columns])
    rows = read_buckets(work / "parts", buckets)
    pairs, gathered = distinct_rows(rows, seen), 0
    contamination = Contamination(evaluations.get(evaluation) or load_evaluation(evaluation)) if evaluation else None
    ends = np.searchsorted(leading(pairs.high, all_groups), np.asarray(groups), side="right").tolist()
    if rows.nbytes > LARGE_BYTES:
        rows = rows.cast(pa.schema([large(field) for field in rows.schema]))
    rows = rows.combine_chunks()
    place = work / "unique" / f"{number:06d}"
    hashes = pq.ParquetWriter(place.with_suffix(".hashes"), HASHES, **PARQUET) if seen is not None else None
    with pq.ParquetWriter(place.with_suffix(".pairs"), schema, **PARQUET) as writer:
        for begin, end in zip([0, *ends], ends, strict=False):
            group = rows.take(pa.array(pairs.rows(slice(begin, end))))
            if hashes and group.num_rows:
                hashes.write_table(group.select(HASHES.names), row_group_size=group.num_rows)
            if "negatives" in columns:
                group = with_negatives(group, *all_negatives(rows, pairs, slice(begin, end)))
            if contamination:
                group = contamination.clean(group)
            if "negatives" in columns:
                gathered += pc.sum(group.column("gathered"), min_count=0).as_py()
            if group.num_rows:
                writer.write_table(group.select(columns).cast(schema), row_group_size=group.num_rows)
    if hashes:
        hashes.close()
    found = contamination and contamination.found()
    return {"distinct": len(pairs.first), "gathered": gathered, "contamination": found}


def large(field: pa.Field) -> pa.Field:
    """The field with 64-bit offsets, if it is one of texts."""
    kinds = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.large_list(pa.large_string())}
    return field.with_type(kinds.get(field.type, field.type))
