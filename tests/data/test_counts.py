"""read = kept + duplicates + rejected, whatever the file: each row that a person sees is counted, once."""

import csv
import io
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.prepare import prepare
from gte.data.readers import reader
from gte.data.recipe import read_recipe
from gte.data.records import Fields, Pair, Rejected
from gte.errors import UserError

GOOD = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda n: (f"what is {n[0]}?", f"it is {n[1]}"))
BAD = st.sampled_from([("", "it is nothing"), ("what is empty?", "  ")])
ROWS = st.lists(st.one_of(GOOD, BAD), max_size=8)
ENDS = st.sampled_from(["\n", "\r\n"])
BLANKS = st.lists(st.integers(0, 2), min_size=9, max_size=9)  # blank lines before each row, and at the end
TAIL = st.sampled_from(["", "\n", "\0", "\n\0", "\n\n  \n", "\r\n"])
FIELDS = {"named": Fields("query", "pos"), "placed": Fields(0, 1)}


def spell(format: str, row: tuple[str, str]) -> str:
    if format in ("jsonl", "json"):
        return json.dumps({"query": row[0], "pos": row[1]})
    if format == "tsv":
        return "\t".join(row)
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(row)
    return line.getvalue()


def write_text(format: str, rows: list, ends: list, blanks: list, tail: str, bom: bool) -> bytes:
    """A file of lines, each with a line end of its own, blank lines between them."""
    lines = [spell(format, row) for row in rows]
    if format == "json":
        lines = ["[" + ",".join(lines) + "]"]
    text = ""
    for number, line in enumerate(lines):
        text += ends[number] * (blanks[number] if number or format != "csv" else 0)
        text += line + (ends[number] if number + 1 < len(lines) else "")
    return ("\ufeff" * bom + text + tail).encode()


def outcome(rows: list) -> Counter:
    return Counter("pair" if all(text.strip() for text in row) else "rejected" for row in rows)


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "tsv"])
@given(rows=ROWS, ends=st.lists(ENDS, min_size=9, max_size=9), blanks=BLANKS, tail=TAIL, bom=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_of_a_file_is_a_pair_or_a_rejection_whatever_stands_between_and_behind(
    tmp_path, format, rows, ends, blanks, tail, bom
):
    path = tmp_path / f"a.{format}"
    path.write_bytes(write_text(format, rows, ends, blanks, tail, bom))
    options = {"header": False} if format in ("csv", "tsv") else {}
    fields = FIELDS["placed" if options else "named"]
    found = list(reader(format)(path, fields, **options))
    kinds = Counter("rejected" if isinstance(record, Rejected) else "pair" for record in found)
    expected = outcome(rows)
    if "\0" in tail:  # a row of its own, or part of the last one, which is then no row of its format
        assert kinds.total() - expected.total() in (0, 1) and kinds["pair"] >= expected["pair"] - 1
        assert kinds["rejected"] >= 1
    else:
        blank_cell = format in ("csv", "tsv") and "  " in tail  # a line of blanks may be a row of one cell
        assert kinds["pair"] == expected["pair"]
        assert kinds["rejected"] - expected["rejected"] in ((0, 1) if blank_cell else (0,))
    assert [record.row for record in found] == sorted(record.row for record in found)


@given(rows=ROWS, group=st.integers(1, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_of_a_parquet_file_is_a_pair_or_a_rejection(tmp_path, rows, group):
    table = pa.table({"query": [row[0] for row in rows], "pos": [row[1] for row in rows]}).cast(
        pa.schema([("query", pa.string()), ("pos", pa.string())])
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=group)
    found = list(reader("parquet")(tmp_path / "a.parquet", FIELDS["named"]))
    assert Counter("rejected" if isinstance(record, Rejected) else "pair" for record in found) == outcome(rows)


ODD = {
    "one.jsonl": b'{"query": "a b", "pos": "c d"}',
    "one.csv": b"query,pos\r\na b,c d",
    "old_mac.csv": b"query,pos\ra b,c d\re f,g h\r",
    "old_mac.tsv": b"query\tpos\ra b\tc d\re f\tg h\r",
    "old_mac.jsonl": b'{"query": "a b", "pos": "c d"}\r{"query": "e f", "pos": "g h"}\r',
    "mixed.csv": b"query,pos\na b,c d\r\ne f,g h\n\n\r\na b,c d\n,\n",
    "bom.tsv": b"\xef\xbb\xbfquery\tpos\na b\tc d\n\te f\n",
    "nul.jsonl": b'{"query": "a b", "pos": "c d"}\n\0\0\0',
}
COUNTS = {  # read, kept, duplicates, rejected
    "one.jsonl": (1, 1, 0, 0), "one.csv": (1, 1, 0, 0), "mixed.csv": (4, 2, 1, 1), "bom.tsv": (2, 1, 0, 1),
    "nul.jsonl": (2, 1, 0, 1),
}  # fmt: skip
REFUSED = {
    "empty.csv": (b"", "has one column"), "empty.jsonl": (b"", "holds no JSON row"), "empty.json": (b"[]", "holds n"),
    "blank.jsonl": (b"\n \n", "holds no JSON row"), "header.csv": (b"query,pos\n", "hold no text"),
    "rejected.jsonl": (b'{"query": "a b", "pos": ""}\n' * 3, "hold 1 text"),
}  # fmt: skip


def prepared(tmp_path, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    settings = {"name": "local", "path": str(tmp_path / name), "sources": None, "vocab_size": 100, "max_rejected": 1.0}
    return prepare(read_recipe(settings), tmp_path / "out", report=lambda line: None)


@pytest.mark.parametrize("name", COUNTS)
def test_the_manifest_counts_every_row_of_an_odd_file(tmp_path, name):
    (facts,) = prepared(tmp_path, name, ODD[name]).sources.values()
    rejected = sum(facts["rejected"].values())
    assert (facts["read"], facts["kept"], facts["duplicates"], rejected) == COUNTS[name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_without_a_pair_is_one_line(tmp_path, name):
    data, line = REFUSED[name]
    with pytest.raises(UserError, match=line) as told:
        prepared(tmp_path, name, data)
    assert "\n" not in str(told.value) and name.split(".")[0] in str(told.value)


@pytest.mark.parametrize("name", [name for name in ODD if name.startswith("old_mac")])
def test_line_ends_of_old_macs_are_read_or_named(tmp_path, name):
    (tmp_path / name).write_bytes(ODD[name])
    try:
        (source,) = infer_sources(tmp_path)
    except UserError as error:
        assert "\\r" in str(error)
        return
    found = [record for raw in locate(source, tmp_path) for record in source.read(raw)]
    assert [record[:2] for record in found if isinstance(record, Pair)] == [("a b", "c d"), ("e f", "g h")]
