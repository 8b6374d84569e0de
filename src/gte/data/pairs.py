"""Raw files to unique pairs in hash order, on Daft: embedded (native) or on a Ray cluster, the same code.

A task reads a raw file into parts, split by the leading bits of the pairs' hashes. Then each bucket by itself is sorted
by hash and written without repetitions, so memory is that of one bucket whatever the source's size. Hash order is also
a shuffle: any stretch of the result is a random sample of the source. Where a pair takes rows that stand anywhere in
the source's files (a comment and its post), the files are first split by the hash of the rows' key, and a task joins
the rows of one such bucket.
"""

import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

os.environ.setdefault("DO_NOT_TRACK", "1")  # Daft reports its use to its makers otherwise
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
import daft
from daft.exceptions import DaftCoreException
from daft.io.source import DataSource, DataSourceTask
from daft.recordbatch import RecordBatch

from gte.data.contamination import Contamination, EvaluationTexts
from gte.data.records import FILTERED, Keyed, KeyedRow, Record, Rejected, Triple, pair_hash, text_hash
from gte.data.sources import Raw, Source
from gte.errors import UserError

logging.getLogger("tracing").setLevel(logging.WARNING)  # Daft's engine names every operator it enters

PART = pa.schema([
    ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("bucket", pa.int32()),
    ("high", pa.uint64()), ("low", pa.uint64()),
    ("query", pa.string()), ("document", pa.string()), ("negatives", pa.list_(pa.string())),
])  # fmt: skip
KEYED = pa.schema([
    ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("bucket", pa.int32()),
    ("key", pa.large_string()), ("order", pa.int64()), ("values", pa.large_list(pa.large_string())),
])  # fmt: skip
REJECTED = -1  # the bucket of rejected rows
BUCKET_BYTES = 64 * 2**20  # of texts, about; sorting one takes a few times as much
MAX_BUCKETS = 1024
WRITE_BYTES = 2**30  # held for all the buckets' unfinished row groups
GROUP_ROWS = 16_384  # of the pairs files' row groups
BATCH_ROWS, BATCH_CHARACTERS = 8_192, 32 * 2**20
FATAL = "\0"  # begins the reason of what stops the source instead of being counted
EXAMPLES = 3  # rejected rows of each reason that the manifest names


@dataclass
class Tally:
    """Where the rows of a source went: read = kept + duplicates + sum of rejected."""

    read: int = 0
    kept: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: list[dict] = field(default_factory=list)
    negatives: bool = False
    contamination: dict = field(default_factory=dict)


def use_engine(engine: str) -> None:
    """Chooses where Daft runs: native, in this process, or ray, on the cluster at hand; once a process.

    Raises UserError for another engine, and where Ray is not installed.
    """
    if engine == daft.get_or_infer_runner_type():
        return  # it may be set only once
    if engine == "native":
        daft.set_runner_native()
    elif engine == "ray":
        try:
            import ray
        except ImportError:
            raise UserError(
                "engine=ray needs Ray, which is not installed: pip install -r requirements-ray.txt, or engine=native"
            ) from None
        if not ray.is_initialized():
            code = str(Path(__file__).resolve().parents[2])
            ray.init(runtime_env={"env_vars": {"PYTHONPATH": code}}, log_to_driver=False, logging_level="WARNING")
        daft.set_runner_ray(noop_if_initialized=True)
    else:
        raise UserError(f"unknown engine '{engine}'; known: native, ray")


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
    """Writes the distinct pairs of a source to the parquet file `target` in order of their 128-bit hash.

    Columns: query, document, [negatives,] file, row. Of equal pairs the one of the lowest (file, row) survives. The
    texts and their order depend neither on the order of files and rows nor on the engine. `work`: folder for
    intermediate files, removed at the end. `seen`: hash files of other sources; pairs in them count as duplicates, and
    this source's own is written to `hash_file(work)`. `evaluation`: texts that no pair may hold. Raises UserError where
    more than max_rejected of the rows are rejected, those that the source filters out and contaminated ones not
    counted, where no pair is left, and where the disk is full.
    """
    shutil.rmtree(work, ignore_errors=True)  # a killed run's parts
    buckets = min(MAX_BUCKETS, 1 + sum(texts_size(raw, source) for raw in raws) // BUCKET_BYTES)
    group_bytes = min(16 * 2**20, WRITE_BYTES // buckets)
    with daft.execution_config_ctx(parquet_target_row_group_size=group_bytes), naming_a_full_disk(source, work):
        write_parts(source, raws, buckets, work)
    tally = count_parts(source, work / "parts", max_rejected)
    columns = ["query", "document", *(["negatives"] if tally.negatives else []), "file", "row"]
    keys = pa.schema([PART.field("high"), PART.field("low")])
    own = pq.ParquetWriter(hash_file(work), keys) if seen is not None else None
    contamination = Contamination(evaluation) if evaluation else None
    streamed = distinct = 0

    def unique() -> Iterator[pa.RecordBatch]:
        nonlocal streamed
        for bucket in range(buckets):
            last = None
            for batch in sorted_bucket(work / "parts" / f"bucket={bucket}", seen):
                first, last = first_of_each(batch, last)
                streamed += batch.num_rows
                yield batch.filter(first)

    with pq.ParquetWriter(target, pa.schema([PART.field(name) for name in columns]), compression="zstd") as writer:
        for group in row_groups(unique()):
            distinct += group.num_rows
            if own:
                own.write_table(group.select(["high", "low"]))
            if contamination:
                group = contamination.clean(group)
            tally.kept += group.num_rows
            writer.write_table(group.select(columns).cast(writer.schema))
    tally.duplicates = streamed - distinct
    pairs = tally.read - sum(tally.rejected.values())
    if own:
        own.close()
        tally.duplicates += pairs - streamed  # those that another source has already given
    if contamination:
        tally.rejected |= contamination.rejected
        tally.examples += contamination.examples
        tally.contamination = contamination.facts()
    if tally.kept + tally.duplicates + sum(tally.rejected.values()) != tally.read:
        raise RuntimeError(f"source {source.name}: not every row is accounted for: {tally}")
    shutil.rmtree(work)
    return tally


def write_parts(source: Source, raws: list[Raw], buckets: int, work: Path) -> None:
    """Writes the records of a source as PART rows to work/parts, a folder a bucket."""
    tasks = [partial(raw_records, source, raw) for raw in raws]
    if source.keyed:
        keyed = work / "keyed"
        Rows(source.name, KEYED, tasks, buckets).read().write_parquet(str(keyed), partition_cols=["bucket"])
        tasks = [partial(joined_records, source, folder) for folder in sorted(keyed.glob("bucket=*"))]
    Rows(source.name, PART, tasks, buckets).read().write_parquet(str(work / "parts"), partition_cols=["bucket"])
    shutil.rmtree(work / "keyed", ignore_errors=True)


def hash_file(work: Path) -> Path:
    """Where `make_pairs` writes the hashes of a source's pairs."""
    return work.with_name(f"{work.name}.hashes.parquet")


@contextmanager
def naming_a_full_disk(source: Source, work: Path) -> Iterator[None]:
    """Daft says of a write that failed no more than that: as a UserError that names the folder and what is free."""
    try:
        yield
    except DaftCoreException as error:
        if "os error" not in str(error) and "channel closed" not in str(error):
            raise
        free = shutil.disk_usage(work.parent).free / 1e9
        raise UserError(
            f"source {source.name}: cannot write to {work} ({error}), where {free:.3f} GB are free; make room, or give "
            "another data.dir"
        ) from error


def row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in tables of GROUP_ROWS, the last one smaller, however they come in: so engines write the same file."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        while rows >= GROUP_ROWS:
            table = pa.Table.from_batches(held)
            yield table.slice(0, GROUP_ROWS)
            held, rows = table.slice(GROUP_ROWS).to_batches(), rows - GROUP_ROWS
    if rows:
        yield pa.Table.from_batches(held)


def texts_size(raw: Raw, source: Source) -> int:
    """About how many bytes of text a raw input holds."""
    return raw.bytes * (4 if raw.name.endswith((".gz", ".zst", ".parquet")) else 1)


def count_parts(source: Source, parts: Path, max_rejected: float) -> Tally:
    """Rows read and rejected. Raises UserError for what stops the source."""
    if not any(parts.rglob("*.parquet")):
        raise UserError(f"source {source.name}: its raw files hold no row")
    rows = daft.read_parquet(f"{parts}/**/*.parquet")
    reason, negatives = daft.col("reason"), daft.col("negatives")
    counts = rows.groupby("reason").agg(daft.col("row").count(), negatives.count().alias("triples")).to_pydict()
    tally = Tally(read=sum(counts["row"]), negatives=any(counts["triples"]))
    found = {why: count for why, count in zip(counts["reason"], counts["row"], strict=True) if why is not None}
    tally.rejected = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    for why in tally.rejected:
        if why.startswith(FATAL):
            raise UserError(f"source {source.name}: {why.removeprefix(FATAL)}")
        examples = rows.where(reason == why).sort(["file", "row"]).limit(EXAMPLES).select("reason", "file", "row")
        tally.examples += examples.to_pylist()
    faults = {why: count for why, count in tally.rejected.items() if not why.startswith(FILTERED)}
    pairs, rejected = tally.read - sum(tally.rejected.values()), sum(faults.values())
    limit = f"more than max_rejected={max_rejected:g}"
    if not pairs:
        faults, rejected, limit = tally.rejected, tally.read, "so no pair is left"
    if not pairs or rejected > max_rejected * (pairs + rejected):
        worst = next(example for example in tally.examples if example["reason"] in faults)
        raise UserError(
            f"source {source.name}: {rejected:,} of {pairs + rejected:,} rows are rejected, {limit}; "
            f"most often '{worst['reason']}', first at {worst['file']}:{worst['row']}"
        )
    return tally


def sorted_bucket(parts: Path, seen: list[Path] | None) -> Iterator[pa.RecordBatch]:
    """The pairs of a bucket in order of (hash, file, row), without those in `seen`."""
    if not parts.is_dir():
        return
    rows = daft.read_parquet(f"{parts}/*.parquet")
    if seen:
        high = daft.col("high")
        ends = rows.agg(high.min().alias("first"), high.max().alias("last")).to_pylist()[0]
        others = daft.read_parquet([str(path) for path in seen])
        others = others.where((high >= ends["first"]) & (high <= ends["last"]))
        rows = rows.join(others, on=["high", "low"], how="anti")
    yield from rows.sort(["high", "low", "file", "row"]).to_arrow_iter()


def first_of_each(batch: pa.RecordBatch, last: tuple | None) -> tuple[pa.Array, tuple | None]:
    """Which rows of a batch in hash order begin a new hash, and the batch's last hash; `last` is the one before it."""
    high, low = (batch.column(name).to_numpy() for name in ("high", "low"))
    if not len(high):
        return pa.array([], pa.bool_()), last
    first = np.ones(len(high), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    first[0] = last != (high[0], low[0])
    return pa.array(first), (high[-1], low[-1])


def raw_records(source: Source, raw: Raw) -> Iterator[tuple[str, Record | Keyed]]:
    """(file, record) of a raw file."""
    try:
        for record in source.read(raw):
            yield raw.name, record
    except (UserError, OSError) as error:  # crosses the engine as a row: exceptions do not keep their type there
        said = str(error).encode(errors="backslashreplace").decode()  # it may quote what is no UTF-8
        yield raw.name, Rejected(FATAL + said, 0)


def joined_records(source: Source, folder: Path) -> Iterator[tuple[str, Record]]:
    """(file, record) of a bucket of KEYED rows, which is held in memory; of that of rejections one batch."""
    paths = sorted(folder.glob("*.parquet"))
    if folder.name == f"bucket={REJECTED}":
        for batch in (batch for path in paths for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS)):
            for file, row, reason in columns_of(batch, ["file", "row", "reason"]):
                yield file, Rejected(reason, row)
        return
    names = list(KeyedRow._fields)
    schema = pa.schema([KEYED.field(name) for name in names])
    table = pa.concat_tables([pq.ParquetFile(path).read(names).select(names).cast(schema) for path in paths])
    table = table.sort_by([(name, "ascending") for name in ("key", "order", "file", "row")])
    batches = table.to_batches(max_chunksize=1_024)
    rows = (KeyedRow(*row) for batch in batches for row in columns_of(batch, names))
    for _, group in groupby(rows, key=lambda row: row.key):
        yield from source.combine(group)


def columns_of(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple]:
    """The rows of a batch as tuples of the named columns."""
    return zip(*(batch.column(name).to_pylist() for name in names), strict=True)


class Rows(DataSource):
    """What functions yield, as a Daft source of PART or KEYED rows: one task a function."""

    def __init__(self, name: str, arrow: pa.Schema, functions: list[Callable], buckets: int):
        self.title, self.arrow, self.functions, self.buckets = name, arrow, functions, buckets

    @property
    def name(self) -> str:
        return self.title

    @property
    def schema(self) -> daft.Schema:
        return daft.Schema.from_pyarrow_schema(self.arrow)

    async def get_tasks(self, pushdowns) -> AsyncIterator["RowsTask"]:
        for function in self.functions:
            yield RowsTask(self.arrow, function, self.buckets)


class RowsTask(DataSourceTask):
    """The task of one function that yields (file, record)."""

    def __init__(self, arrow: pa.Schema, function: Callable, buckets: int):
        self.arrow, self.function, self.buckets = arrow, function, buckets

    @property
    def schema(self) -> daft.Schema:
        return daft.Schema.from_pyarrow_schema(self.arrow)

    async def read(self) -> AsyncIterator[RecordBatch]:
        make_row = part_row if self.arrow == PART else keyed_row
        for rows in batches_of(make_row(file, record, self.buckets) for file, record in self.function()):
            columns = zip(*rows, strict=True)
            arrays = [pa.array(column, kind.type) for column, kind in zip(columns, self.arrow, strict=True)]
            yield RecordBatch.from_arrow_record_batches([pa.record_batch(arrays, schema=self.arrow)], self.arrow)


def part_row(file: str, record: Record, buckets: int) -> tuple[int, tuple]:
    """(characters, PART row) of a record."""
    if isinstance(record, Rejected):
        return 0, (file, record.row, record.reason, REJECTED, None, None, None, None, None)
    query, document = record[:2]
    high, low = pair_hash(query, document)
    negatives = record.negatives if isinstance(record, Triple) else None
    characters = len(query) + len(document) + sum(map(len, negatives or ()))
    return characters, (file, record.row, None, high * buckets >> 64, high, low, query, document, negatives)


def keyed_row(file: str, record: Keyed | Rejected, buckets: int) -> tuple[int, tuple]:
    """(characters, KEYED row) of what the reader of a keyed format yields."""
    if isinstance(record, Rejected):
        return 0, (file, record.row, record.reason, REJECTED, None, None, None)
    key, order, values, row = record
    return sum(map(len, values)), (file, row, None, text_hash(key) * buckets >> 64, key, order, values)


def batches_of(rows: Iterator[tuple[int, tuple]]) -> Iterator[list[tuple]]:
    """Rows some thousand at a time, fewer of long ones."""
    batch, characters = [], 0
    for size, row in rows:
        batch.append(row)
        characters += size
        if len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
