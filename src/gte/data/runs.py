"""Runs: files of a task's rows in which those of a bucket stand together, and the count of what goes in."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PART = pa.schema([
    ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("bucket", pa.int32()),
    ("dropped", pa.list_(pa.string())), ("high", pa.uint64()), ("low", pa.uint64()),
    ("query", pa.string()), ("document", pa.string()), ("negatives", pa.list_(pa.string())), ("way", pa.string()),
])  # fmt: skip
KEYED = pa.schema([
    ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("bucket", pa.int32()),
    ("key", pa.large_string()), ("order", pa.int64()), ("values", pa.large_list(pa.large_string())),
])  # fmt: skip
COUNTED = ("reason", "bucket", "way", "dropped")  # columns of which no row is kept
PACKED_BUCKETS = 16  # from so many on runs are packed; less than that stays in the system's cache of files
RUN_BYTES = 16 * 2**20  # of rows that a task holds before it writes them
BUCKET_RUN_BYTES = 2**16  # of a run's rows of one bucket, at least: each is read by itself
BATCH_ROWS, BATCH_CHARACTERS = 8_192, 32 * 2**20
EXAMPLES = 3  # rejected rows of each reason that the manifest names


def write_runs(rows: Iterator[pa.RecordBatch | tuple[int, tuple]], schema: pa.Schema, runs: "Runs") -> dict:
    """Write rows, one by one or in batches, to runs; returns what was counted."""
    counts = Counts()
    for batch in batches_of(rows, schema):
        runs.add(counts.add(batch))
    runs.finish()
    return counts.facts()


class Counts:
    """Counts a task's rows: pairs, their bytes and ways, and rejections by reason, with the lowest rows of each.

    Dropped negatives by reason, too.
    """

    def __init__(self):
        self.pairs = self.bytes = 0
        self.negatives = False
        self.rejected: dict[str, int] = {}
        self.examples: dict[str, list[tuple[str, int]]] = {}
        self.ways: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Count the rows of a PART or KEYED batch; returns those that are not rejected."""
        reasons = batch.column("reason")
        if reasons.null_count < len(reasons):
            bad = reasons.is_valid()
            names = ["file", "row", "reason"]
            for file, row, reason in columns_of(batch.select(names).filter(bad), names):
                self.rejected[reason] = self.rejected.get(reason, 0) + 1
                examples = self.examples.setdefault(reason, [])
                examples.append((file, row))
                if len(examples) > 8 * EXAMPLES:
                    self.examples[reason] = sorted(examples)[:EXAMPLES]
            batch = batch.filter(reasons.is_null())
        if "query" in batch.schema.names:
            self.pairs += batch.num_rows
            negatives = batch.column("negatives")
            self.negatives |= negatives.null_count < len(negatives)
            for texts in (batch.column("query"), batch.column("document"), negatives.flatten()):
                self.bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
            self.ways.update(batch.column("way").drop_null().to_pylist())
            self.dropped.update(batch.column("dropped").flatten().to_pylist())
        return batch

    def facts(self) -> dict:
        rejected = {why: [count, sorted(self.examples[why])[:EXAMPLES]] for why, count in self.rejected.items()}
        counts = {"pairs": self.pairs, "bytes": self.bytes, "negatives": self.negatives}
        return {**counts, "rejected": rejected, "ways": dict(self.ways), "dropped": dict(self.dropped)}


class Runs:
    """Writes a task's rows to files in which those of a bucket stand together: an Arrow batch a bucket, in order.

    A function that runs again, on another machine, writes the same files again.
    """

    def __init__(self, folder: Path, number: int, buckets: int):
        self.folder, self.number, self.buckets = folder, number, buckets
        self.held: list[pa.RecordBatch] = []
        self.bytes = self.written = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows of PART or KEYED, none of them rejected."""
        if batch.num_rows:
            self.held.append(batch)
            self.bytes += batch.nbytes
        if self.bytes > max(RUN_BYTES, self.buckets * BUCKET_RUN_BYTES):
            self.write()

    def finish(self) -> None:
        if self.held:
            self.write()

    def write(self) -> None:
        rows = pa.Table.from_batches(self.held).combine_chunks()
        self.held, self.bytes = [], 0
        for batch in rows.to_batches():  # one, but for texts of more than 2 GiB
            path = self.folder / f"{self.number:06d}-{self.written:06d}.arrow"
            self.written += 1
            bucket = batch.column("bucket").to_numpy()
            batch = batch.drop_columns([name for name in COUNTED if name in batch.schema.names])
            order = np.argsort(bucket, kind="stable")
            ends = np.searchsorted(bucket[order], np.arange(self.buckets), side="right").tolist()
            packed = "lz4" if self.buckets >= PACKED_BUCKETS else None
            options = pa.ipc.IpcWriteOptions(compression=packed, use_threads=False)
            with path.open("wb") as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
                for begin, end in zip([0, *ends], ends, strict=False):
                    writer.write_batch(batch.take(pa.array(order[begin:end])))


def read_buckets(folder: Path, buckets: range) -> pa.Table | None:
    """Read the rows of some buckets from all runs of a folder; None where there is no run."""
    batches = []
    for path in sorted(folder.iterdir()):
        with pa.memory_map(str(path)) as file:
            run = pa.ipc.open_file(file)
            batches += [run.get_batch(bucket) for bucket in buckets]
    return pa.Table.from_batches(batches) if batches else None


def columns_of(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple]:
    """The rows of a batch as tuples of the named columns."""
    return zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def record_batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as an Arrow batch."""
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)],
                           schema=schema)  # fmt: skip


def batches_of(rows: Iterator[pa.RecordBatch | tuple[int, tuple]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches as they are, and (characters, row) some thousand rows at a time, fewer of long ones."""
    held, characters = [], 0
    for found in rows:
        if isinstance(found, pa.RecordBatch):
            yield found
            continue
        characters += found[0]
        held.append(found[1])
        if len(held) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield record_batch(held, schema)
            held, characters = [], 0
    if held:
        yield record_batch(held, schema)
