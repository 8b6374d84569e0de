"""A user's file as its rows are read: what the tests of own files share."""

from pathlib import Path

import pyarrow as pa

from gte.data.columnar.read import read_columns
from gte.data.columns import FIND_OUT, Wanted
from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.records import Record, Rejected


def read(path: Path, wanted: Wanted = FIND_OUT) -> list[Record]:
    """The records of the one file of pairs that a folder holds, or that is named; by columns they are the same."""
    (source,) = infer_sources(path, wanted)
    raws = locate(source, path if path.is_dir() else path.parent)
    found = [record for raw in raws for record in source.read(raw)]
    by_columns = []
    for one in (one for raw in raws for one in read_columns(source, raw)):
        if isinstance(one, pa.RecordBatch):
            names = ("query", "document", "row")
            by_columns += zip(*(one.column(name).to_pylist() for name in names), strict=True)
        else:
            by_columns.append(facts(one))
    assert sorted(by_columns, key=repr) == sorted(map(facts, found), key=repr)
    return found


def facts(record: Record) -> tuple:
    """What both ways of reading must give alike: texts and row of a pair, reason and row of a rejection."""
    return tuple(record) if isinstance(record, Rejected) else (record.query, record.document, record.row)


def texts_of(found: list[Record]) -> list[tuple]:
    """Query, document and negatives of each pair."""
    return [(record.query, record.document, *getattr(record, "negatives", ())) for record in found]
