"""Queries with many scored candidates, as three tables in parquet: queries, documents, and scores that name them by id.

A row of scores is a query, its positive first, and the documents that a model found nearest to the query, with their
scores. Negatives are those that score clearly less than the positive: others may answer the query as well
(NV-Retriever, Moreira et al. 2024).
"""

import fcntl
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.raw_lines import DAMAGE
from gte.data.reasons import Reason
from gte.data.records import Fields, Record, Rejected, records
from gte.errors import UserError, first_line
from gte.files import put

TABLES = {"queries": ("query_id", "query"), "documents": ("document_id", "document")}
SCORES = ("query_id", "document_ids", "scores")
BATCH_ROWS = 256  # of scores; a row has some 2,000 candidates


def read_scored(path: Path, fields: Fields, *, negatives: int = 15, below: float = 0.95) -> Iterator[Record]:
    """Rows of a parquet file of scores/, with the texts from queries/ and documents/ beside that folder.

    Args:
        path: .../scores/<split>-00000-of-00001.parquet.
        fields: the names query, document and negatives.
        negatives: how many a query has, the first ones in the file's order; one with fewer is skipped.
        below: a negative scores less than this share of the positive's score.

    Raises UserError where a table or a column is missing. A document table is copied to memory-mapped Arrow beside it
    once, uncompressed, so that any number of processes look texts up in one copy.
    """
    if not isinstance(path, Path):
        raise UserError(f"{path} is read beside its queries and documents; unpack the zip")
    file = opened(path, SCORES)
    split = re.sub(r"-\d+-of-\d+", "", path.stem)
    queries, documents = (texts_by_id(path.parent.parent / table, split) for table in TABLES)

    def with_texts(query: int | None, ids: np.ndarray | None, scores: np.ndarray | None, row: int) -> Iterator[Record]:
        if ids is None or not len(ids) or scores is None or len(ids) != len(scores):
            yield Rejected(Reason.UNKNOWN_SHAPE, row)
            return
        chosen = ids[1:][scores[1:] < below * scores[0]][:negatives]
        if len(chosen) < negatives:
            yield Rejected(Reason.FEW_NEGATIVES.of(negatives, below), row)
            return
        value = {
            "query": queries.get(query),
            "document": documents.get(ids[0]),
            "negatives": [documents.get(one) for one in chosen],
        }
        if value["document"] is None or None in value["negatives"]:
            yield Rejected(Reason.NO_DOCUMENT, row)
        elif value["query"] is None:
            yield Rejected(Reason.NO_QUERY, row)
        else:
            yield from records(value, fields, row)

    row = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(SCORES)):
            for query, ids, scores in candidates(batch):
                row += 1
                yield from with_texts(query, ids, scores, row)
    except (pa.ArrowException, *DAMAGE) as error:
        if getattr(error, "errno", None):
            raise
        yield Rejected(Reason.DAMAGED_FILE, row)


def opened(path: Path, wanted: tuple[str, ...]) -> pq.ParquetFile:
    """A table. Raises UserError where it is no parquet file, or lacks a column."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, *DAMAGE) as error:
        if getattr(error, "errno", None):
            raise
        raise UserError(f"{path} is no parquet file: {first_line(error)}; get it again") from error
    held = file.schema_arrow.names
    if missing := [name for name in wanted if name not in held]:
        known = f"expected: {', '.join(wanted)}; it has: {', '.join(held)}"
        raise UserError(f"{path} has no column '{missing[0]}'; {known}")
    return file


def candidates(batch: pa.RecordBatch) -> Iterator[tuple[int | None, np.ndarray | None, np.ndarray | None]]:
    """(query, ids of documents, their scores) of the rows of scores; None for what is null."""
    lists = []
    for name in SCORES[1:]:
        column = batch.column(name)
        values = column.values.to_numpy(zero_copy_only=False)
        offsets = column.offsets.to_numpy()
        valid = column.is_valid().to_pylist()
        lists.append([values[a:b] if v else None for a, b, v in zip(offsets, offsets[1:], valid, strict=False)])
    yield from zip(batch.column("query_id").to_pylist(), *lists, strict=True)


class Texts:
    """Texts by id over memory-mapped tables; an id that occurs twice has its first text."""

    def __init__(self, tables: list[pa.Table]):
        self.texts = pa.chunked_array(
            [chunk for table in tables for chunk in table.column(1).chunks], pa.large_string()
        )
        ids = np.concatenate([table.column(0).to_numpy() for table in tables])
        self.order = np.argsort(ids, kind="stable")
        self.ids = ids[self.order]

    def get(self, key: int | None) -> str | None:
        place = np.searchsorted(self.ids, key) if key is not None else len(self.ids)
        return self.texts[self.order[place]].as_py() if place < len(self.ids) and self.ids[place] == key else None


@lru_cache(maxsize=4)
def texts_by_id(folder: Path, split: str) -> Texts:
    """The texts of a split's queries or documents. Raises UserError where there is no such table."""
    columns = TABLES[folder.name]
    files = sorted(path for path in folder.glob("*.parquet") if re.sub(r"-\d+-of-\d+", "", path.stem) == split)
    if not files:
        raise UserError(f"there is no file {folder}/{split}-*.parquet, whose texts the scores of {split} name")
    return Texts([mapped(path, columns) for path in files])


def mapped(path: Path, columns: tuple[str, str]) -> pa.Table:
    """Two columns of a parquet file, memory-mapped from a copy in Arrow beside it, which is made once."""
    copy = path.with_name(f"{path.name}.arrow")
    schema = pa.schema([(columns[0], pa.int64()), (columns[1], pa.large_string())])
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
            file, part = opened(path, columns), path.with_name(f"{path.name}.arrow.part")
            try:
                with pa.ipc.new_file(part, schema) as writer:
                    for batch in file.iter_batches(columns=list(columns)):
                        writer.write_batch(batch.select(columns).cast(schema))
            except (pa.ArrowException, *DAMAGE) as error:
                if getattr(error, "errno", None):
                    raise
                raise UserError(f"{path} is damaged: {first_line(error)}; get it again") from error
            put(part, copy)
    return pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
