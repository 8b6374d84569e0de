"""Whatever bytes a raw file holds, its rows are accounted for: no crash, no row lost, no row told twice."""

# Hypothesis draws the bytes, the same ones every time, from noise and from pieces of every format.

import gzip
import io
import json
from dataclasses import replace
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gte.data.formats.arrays import json_rows
from gte.data.readers import MAGIC, READERS, read_csv, read_tsv, reader
from gte.data.records import Fields, Pair, Rejected, Triple
from gte.data.sources import Source, load_source, source_files
from gte.errors import UserError

FRAGMENTS = [
    b'{"query": "q", "pos": ["d", "e"]}', b'{"query": ["i", "q", 0], "pos": ["i", "d", 1], "neg": ["i", "n", 1]}',
    b'{"question": "q", "positive_ctxs": [{"title": "t", "text": "d"}], "hard_negative_ctxs": [{"text": "n"}]}',
    b'{"question": "q", "supporting_facts": [["t", 0]], "context": [["t", ["d"]], ["u", ["n"]]]}',
    b'{"docstring": "four words of documentation", "code": "def f():\\n  \\"four words of documentation\\"\\n"}',
    b'["q", "d"]', b"('q', {'d'})", b"{'query': 'q', 'pos': 'd'}", b'"a\tb"\tc', b'"quoted\n"",x",y', b"q,d", b"q\td",
    b"\n", b"\r\n", b"\r", b"[", b"]", b"{", b"}", b",", b":", b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b"\0",
    b"\xff", b"\xef\xbb\xbf", "é\u2028\x85".encode(), b" ", b"null", b"1e999", b"-" * 50, b"(" * 300, b"9" * 5_000,
]  # fmt: skip
ANY_BYTES = st.one_of(
    st.binary(max_size=400), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"\n".join),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=6)), max_size=30).map(b"".join),
)  # fmt: skip
BOUNDED = settings(max_examples=100, deadline=None, derandomize=True, database=None)
MAX = 600  # bytes of a line, so that over-long ones occur
LINE_FORMATS = {
    "jsonl": Fields(), "python": Fields(), "codesearchnet": Fields("docstring", "code"),
}  # fmt: skip
ROW_FORMATS = {
    "json": Fields(),
    "passages": Fields("question", "positive_ctxs", "hard_negative_ctxs"),
    "hotpotqa": Fields("question", "supporting", "others"), "medi": Fields("query", "pos", "neg"),
}  # fmt: skip


MORE_FRAGMENTS = [
    b'{"gold_label": "entailment", "sentence1": "q", "sentence2": "d"}\n', b'{"id": "A", "text": "b", "title": "t"}\n',
    b'{"gold_label": "contradiction", "sentence1": "q", "sentence2": "n"}\n', b"<!DOCTYPE a [<!ENTITY e 'x'>]>&e;",
    b'{"label": "SUPPORTS", "claim": "c", "evidence": [[[1, 2, "A", 0]]]}\n',
    b'{"id": "c", "parent_id": "t3_A", "body": "b"}\n', b"<posts>\n", b"</posts>\n", b"Content-Length: -1\r\n",
    b'{"collection": [{"doi": "x", "version": "1", "title": "q", "abstract": "d"}]}',
    b'{"urlhash": "h", "url": "http://a", "anchors": [["http://b", "g", "text", "0", "en"]]}\n',
    b'{"UrlHash": "h", "Title": "T", "Primary": "text"}\n', b"<PubmedArticleSet>", b"</PubmedArticleSet>",
    b'<row Id="1" PostTypeId="1" Score="2" Title="t" Body="b" />\n', b'<row Id="2" PostTypeId="2" ParentId="1" />\n',
    b"<PubmedArticle><MedlineCitation><Article><ArticleTitle>q</ArticleTitle>", b"</Article></MedlineCitation>",
    b"</PubmedArticle>\n", b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 60\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>t</title><p>body</p>\r\n\r\n",
    b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\ntitle\ntext\r\n\r\n",
]  # fmt: skip
ANY_PIECES = st.lists(st.one_of(st.sampled_from(MORE_FRAGMENTS + FRAGMENTS), st.binary(max_size=9)), max_size=20)


def misnamed(data: bytes) -> bool:
    return any(data.startswith(start) for start in MAGIC)


def filled_lines(data: bytes, strip: bytes | None = None) -> list[int]:
    """The numbers of the lines that hold more than white space, or than `strip`, and a mark of byte order."""
    numbered = enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
    return [number for number, line in numbered if line.strip(strip)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("faults") / "raw.txt"


@pytest.mark.parametrize("name", LINE_FORMATS)
@given(data=ANY_BYTES)
@BOUNDED
def test_every_line_that_is_not_blank_is_a_row(path, name, data):
    path.write_bytes(data)
    try:
        found = list(reader(name)(path, LINE_FORMATS[name], max_line=MAX))
    except UserError:
        assert misnamed(data)
        return
    assert sorted({record.row for record in found}) == filled_lines(data)
    assert [record.row for record in found] == sorted(record.row for record in found)


@given(data=ANY_BYTES)
@BOUNDED
def test_every_line_of_a_tsv_that_is_not_empty_is_a_row(path, data):
    path.write_bytes(data)
    try:
        found = list(read_tsv(path, Fields(0, 1), max_line=MAX))
    except UserError:
        assert misnamed(data)
        return
    assert [record.row for record in found] == filled_lines(data, b"\r\n")


@given(data=ANY_BYTES)
@BOUNDED
def test_rows_of_a_csv_are_told_once_and_reach_to_the_last_line(path, data):
    path.write_bytes(data)
    try:
        found = list(read_csv(path, Fields(0, 1), header=False, max_line=MAX))
    except UserError:
        assert misnamed(data)
        return
    rows = [record.row for record in found]
    assert rows == sorted(rows)
    if content := filled_lines(data, b"\r\n"):
        assert rows and rows[-1] == content[-1]


@pytest.mark.parametrize("name", ROW_FORMATS)
@given(data=ANY_BYTES, array=st.booleans())
@BOUNDED
def test_every_item_of_an_array_is_a_row(path, name, data, array):
    data = b"[" + data + b"]" if array else data
    path.write_bytes(data)
    try:
        found = list(reader(name)(path, ROW_FORMATS[name], max_row=MAX))
        expected = [row if isinstance(row, Rejected) else row[0] for row in json_rows(path, MAX)]
    except UserError:
        assert misnamed(data)
        return
    rows = [record.row for record in found]
    assert list(dict.fromkeys(rows)) == list(dict.fromkeys(getattr(row, "row", row) for row in expected))
    assert bool(rows) or not data.strip(b"\xef\xbb\xbf[] \t\r\n\x0b\x0c")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(values=st.lists(JSON, max_size=8), indent=st.sampled_from([None, 1]), cut=st.floats(0, 1))
@BOUNDED
def test_an_array_gives_what_the_json_module_reads_and_cut_short_its_first_items(path, values, indent, cut):
    data = json.dumps(values, indent=indent).encode()
    path.write_bytes(data)
    assert [value for _, value in json_rows(path, 10_000)] == values
    path.write_bytes(data[: 1 + int(cut * (len(data) - 1))])
    *whole, last = list(json_rows(path, 10_000)) or [None]
    if 1 + int(cut * (len(data) - 1)) < len(data):
        assert last == Rejected("array without an end", len(whole) + 1)
        assert [value for _, value in whole] == values[: len(whole)]


def test_items_are_told_apart_across_the_borders_of_chunks(path):
    values = [{"a": 'x"\\[{' * length, "b": "y\\" * (length % 7)} for length in range(0, 70_000, 7_001)]
    path.write_text(json.dumps(values))
    assert [value for _, value in json_rows(path, 10**6)] == values


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
@given(data=ANY_BYTES, cut=st.integers(0, 500), flip=st.integers(0, 10_000))
@BOUNDED
def test_a_damaged_archive_gives_its_first_rows_and_says_so(path, suffix, pack, data, cut, flip):
    path.write_bytes(data)
    try:
        whole = list(reader("jsonl")(path, Fields(), max_line=MAX))
    except UserError:
        whole = None
    packed = bytearray(pack(data))
    packed = packed[: max(0, len(packed) - cut)]
    if packed and flip < 8 * len(packed):
        packed[flip // 8] ^= 1 << flip % 8
    archive = path.with_suffix(suffix)
    archive.write_bytes(bytes(packed))
    try:
        found = list(reader("jsonl")(archive, Fields(), max_line=MAX))
    except UserError as error:
        assert "\n" not in str(error) and packed[:4] != pack(data)[:4]
        return
    if packed == pack(data) and whole is not None:
        assert found == whole
    elif cut and flip >= 8 * len(packed) and whole is not None:
        assert found[-1].reason == "damaged archive" and found[:-1] == whole[: len(found) - 1]


@cache
def source_of(name: str) -> Source:
    """A source, or another form of one, that has this reader; the form of users' files by itself."""
    if name == "squad":
        return Source("squad", "local", ("pretrain",), "squad", query="question", document="context")
    sources = (load_source(source) for source in source_files())
    forms = (form for source in sources for form in (source, *(replace(source, **form) for form in source.forms)))
    return next(form for form in forms if form.reader == name)


@pytest.mark.parametrize("name", sorted(set(READERS) - {*LINE_FORMATS, *ROW_FORMATS}))
@given(pieces=ANY_PIECES)
@settings(BOUNDED, max_examples=50)
def test_no_reader_and_no_join_fails_on_what_it_does_not_know(path, name, pieces):
    path.write_bytes(b"".join(pieces))
    try:
        found = records_of(source_of(name), path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert all(isinstance(record, Pair | Triple | Rejected) and record.row >= 0 for _, record in found)


def damaged_parquet() -> st.SearchStrategy:
    stream = io.BytesIO()
    rows = [{"title": f"q{i}", "abstract": f"d{i}"} for i in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), stream)
    whole = stream.getvalue()
    places = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    return places.map(lambda changes: bytes({**dict(enumerate(whole)), **dict(changes)}.values()))


@given(data=damaged_parquet())
@BOUNDED
def test_a_damaged_parquet_file_is_one_rejection_or_gives_all_of_its_rows(path, data):
    path.write_bytes(data)
    try:
        found = list(reader("parquet")(path, Fields("title", "abstract")))
    except UserError as error:
        assert "\n" not in str(error).strip()
        return
    assert len(found) == 50 or found[-1].reason == "damaged file"
