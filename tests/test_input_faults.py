"""Whatever bytes a raw file holds, its rows are accounted for: no crash, no row lost, no row told twice."""

import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gte.data.formats.arrays import items, json_rows
from gte.data.readers import MAGIC, read_csv, read_tsv, reader
from gte.data.records import Fields, Rejected
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
    "passages": Fields("question", "positive_ctxs", "hard_negative_ctxs"),
    "hotpotqa": Fields("question", "supporting", "others"), "medi": Fields("query", "pos", "neg"),
}  # fmt: skip


def misnamed(data: bytes) -> bool:
    return any(data.startswith(start) for start in MAGIC)


def filled_lines(data: bytes, blank=bytes.isspace) -> list[int]:
    """The numbers of the lines that are not blank; line ends and a mark of byte order are no content."""
    numbered = enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
    last = data.count(b"\n") + 1
    return [number for number, line in numbered if not (blank(line) or (not line and number <= last))]


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
    assert [record.row for record in found] == filled_lines(data, lambda line: not line.rstrip(b"\r\n"))


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
    if content := filled_lines(data, lambda line: not line.strip(b"\r\n")):
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
    assert [json.loads(text) for _, text in items(path, 10**6)] == values


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
