"""Rows read by columns: the same pairs, reasons and row numbers as the readers give row by row."""

import csv
import gzip
import io
import json
import random
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gte.data.columnar import blocks, json_lines, plain
from gte.data.columnar.blocks import line_blocks
from gte.data.columnar.read import first_records, read_columns
from gte.data.raw_lines import lines
from gte.data.records import Pair, Rejected
from gte.data.rows import part_row, plain_part, raw_records, refusals
from gte.data.runs import PART, batches_of, columns_of
from gte.data.sources import Raw, Source

BUCKETS = 8
TEXTS = [
    "a question",
    " d ",
    "Été",
    "x" * 900,
    "两个 词",
    "two\nlines",
    'a "quoted" word',
    "a,b",
    "tab\tbed",
    "Inf, NaN",
    "🎈",
]
ODD_TEXTS = ["", " ", "\u3000", "\0", "a\0b", "\x1c", "\x85a\xa0", "\ufeff", "\u2028", "\\", "[{", "\r", "a\rb"]
ODD_VALUES = [None, 1, -0.0, 1e400, True, [], {}, ["a"], ["a", None], ["a", " "], [["a"]], {"title": "t", "text": "x"}]
ODD_LINES = [
    b"", b"  ", b"\t", b"{", b"}", b"[]", b"{}", b"null", b"7", b'"text"', b"[[[[", b'{"query": "a", "pos": "b"',
    b'{"query": "a", "pos": "b"} ', b' {"query": "a", "pos": "b"}',
    b'{"query": "a", "pos": "b"} {"query": "c", "pos": "d"}', b'{"query": "a", "query": "c", "pos": "b"}',
    b'{"pos": "a", "query": "q", "pos": null}', b'{"query": "a", "pos": "\\ud800"}',
    b'{"query": "a", "pos": "\\udc00"}', b'{"query": "a", "pos": "\\ud83d\\ude00"}', b'{"query": "a", "pos": "\xff"}',
    b'{"query": "a", "pos": "b", "x": "\xff"}', b'{"query": "a", "pos": "b", "x": NaN}',
    b'{"query": "a", "pos": "b", "x": -Inf}', b'{"query": "a", "pos": "b", "x": Infinity}',
    b'{"query": "a", "pos": "b", "x": Inf}', b'{"query": "a", "pos": "b", "x":-NaN}',
    b'{"query": "a", "pos": "b", "x": 1e999}', b'{"query": "a", "pos": "b", "x": 01}',
    b'{"query": "a", "pos": "b", "x": "\\q"}', b'{"query": "a", "pos": "b", "x": ' + b"9" * 4_400 + b"}",
    b'{"query": "a", "pos": "b", "x": ' + b"[" * 1_200 + b"]" * 1_200 + b"}",
    b'{"query": "a", "pos": "b", "x": "\x01"}', b'{"query": "a\\u0000", "pos": "b"}',
    b'{"qu\\u0065ry": "a", "pos": "b"}', b'{"query": "a", "p\\u006fs": "b", "document": "c"}',
    b'{"query": "a", "pos": null, "document": "c"}', b'{"query": "a", "answer": "c"}',
    b'{"query": "a", "pos": "b"}\r', b'{"query": "a", "pos": "b"}\r\r', b"{'query': 1}",
    b'{"query": "a", "pos": "b"} // no', b'["a", "b"], "x": ["c"]', b'["a", "b"] ["c", "d"]',
    b'["a", "b"], "row": ["c", "d"]', b'["a", "b"]}{"row": ["c"]', b'["a"]', b'["a", "b", "c"]', b'["a", null]',
    b'["a", "b", null]', b'["a", "b", "b"]', b'["a", "b", "n", null, " "]', b'["a", "b", "c", "b"]',
    b'["a", "b", "c", 1]', b'["a", "b", ["n", "m"]]',
    b'{"set": ["a", "b", "c"]}', b'{"set": ["a"]}', b'{"set": ["a", ""]}',
    b'{"set": "ab"}', b'{"query": "a", "set": ["a", "b"]}', b'{"text": ["a", "b"]}', b"x" * 3_000, b'"', b'a,"b',
    b'b",c', b'a,b"c"', b'"a""b",c', b'"a"b,c', b"a,b,c", b"a\tb\tc", b"a", b"\xef\xbb\xbfa,b", b",", b"\t", b'a,"',
    b'","', b"a\xff,b", b'"a\rb",c',
]  # fmt: skip
SETTINGS = {
    "named": {"query": "query", "document": "pos"},
    "shape": {},
    "negatives": {"query": "query", "document": "pos", "negatives": "neg"},
    "joined": {"query": ["query", "x"], "document": ["x", "pos"]},
    "lengths": {"query": "query", "document": "pos", "min_query": 2, "min_document": 3, "max_document": 100},
    "filters": {"query": "query", "document": "pos", "keep": {"x": ["a", "b"]}, "drop": {"query": "two\nlines"}},
    "numbers": {"query": "query", "document": "pos", "keep": {"x": [0.5, 1, 0, None]}},
    "flags": {"query": "query", "document": "pos", "keep": {"x": [True, None]}},
    "score": {"query": "query", "document": "pos", "score": "x", "min_score": 0.5},
    "answers": {"query": "query", "document": "pos", "answers": "x"},
    "places": {"query": 1, "document": 0, "negatives": 2},
    "two places": {"query": 1, "document": 0},
}


def rows_of(found, name: str) -> list[tuple]:
    """PART rows in order; `found`: records and batches of a file."""
    rows = (
        plain_part(one, name, BUCKETS) if isinstance(one, pa.RecordBatch) else part_row(name, one, BUCKETS)
        for one in found
    )
    kept = [row for batch in batches_of(rows, PART) for row in columns_of(batch, PART.names)]
    return sorted(kept, key=repr)


def by_rows_and_by_columns(source: Source, path: Path, threads: int = 1) -> tuple[list[tuple], list[tuple], int]:
    """PART rows of a file as both ways give them, and how many of the second came in batches."""
    raw = Raw(path.name, path, path.stat().st_size)
    by_rows, by_columns = (list(refusals(found)) for found in (source.read(raw), read_columns(source, raw, threads)))
    batches = [one.num_rows for one in by_columns if isinstance(one, pa.RecordBatch)]
    return rows_of(by_rows, path.name), rows_of(by_columns, path.name), sum(batches)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Every file has many blocks, and every block is halved."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 3_000)
    monkeypatch.setattr(blocks, "CHUNK_BYTES", 1_000)
    monkeypatch.setattr(json_lines, "FEW_ROWS", 3)


def json_line(rng: random.Random, shape: str, odd: float) -> bytes:
    """A row of a shape, or, with a probability, an odd one."""
    if rng.random() < odd:
        return rng.choice(ODD_LINES)

    def text(odd: float):
        return rng.choice(ODD_TEXTS + ODD_VALUES) if rng.random() < odd else rng.choice(TEXTS) + str(rng.randrange(9))

    query, document, negative = text(odd / 2), text(odd / 2), text(odd / 2)
    several = [text(odd / 4) for _ in range(rng.randrange(4))]
    value = {
        "object": {"query": query, "pos": document},
        "more": {"x": rng.choice(["a", "b", "c"]), "query": query, "pos": document, "other": rng.choice(ODD_VALUES)},
        "scored": {"query": query, "pos": document, "x": rng.choice([0.4, 0.5, 1, 2**60, 0, -0.0])},
        "flagged": {"query": query, "pos": document, "x": rng.choice([True, True, True, False, None])},
        "negatives": {"query": query, "pos": document, "neg": rng.choice([several, [document]])},
        "documents": {"query": query, "pos": several},
        "both": {"query": query, "pos": several, "neg": rng.choice([[], [negative]])},
        "document": {"query": query, "document": document},
        "list": [query, document],
        "triple": [query, document, negative],
        "tuple": [query, document, *several],
        "set": {"set": several},
    }[shape]
    return json.dumps(value, ensure_ascii=rng.random() < 0.3).encode(errors="surrogatepass")


SHAPES = [
    "object",
    "more",
    "scored",
    "flagged",
    "negatives",
    "documents",
    "both",
    "document",
    "list",
    "triple",
    "tuple",
    "set",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_json_lines_give_by_columns_what_they_give_row_by_row(tmp_path, shape, settings):
    source = Source("s", "web", ("pretrain",), "jsonl", **SETTINGS[settings], options={"max_line": 2_800})
    plain = most = 0
    for seed in range(6):
        rng = random.Random(f"{shape} {settings} {seed}")
        odd = rng.choice([0, 0.02, 0.2])
        data = rng.choice([b"\n", b"\r\n"]).join(json_line(rng, shape, odd) for _ in range(rng.randrange(1, 120)))
        data = rng.choice([b"", b"\xef\xbb\xbf"]) + data + rng.choice([b"", b"\n", b"\n\n"])
        path = tmp_path / f"{seed}.jsonl.gz"
        packed = gzip.compress(data, 1)
        path.write_bytes(packed[: rng.choice([len(packed), len(packed) // 2 + 10])])
        by_rows, by_columns, batched = by_rows_and_by_columns(source, path, 1 + seed % 2)
        assert by_columns == by_rows
        plain += batched
        most = max([most, *(len(row[-2]) for row in by_columns if row[-2])])
    takes_all = {"object": ["named"], "more": ["named"], "list": ["two places"], "set": ["shape"], "tuple": ["shape"],
                 "scored": ["named", "numbers"], "flagged": ["named", "flags"]}  # fmt: skip
    assert plain > 40 or settings not in takes_all.get(shape, ())  # so the columnar way is really taken
    assert most == 3 or (shape, settings) != ("tuple", "shape")


@pytest.mark.parametrize("shape", ["object", "more", "list", "set"])
def test_one_odd_line_among_plain_ones_is_read_as_by_itself(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**20)
    rng = random.Random(shape)
    names = {"query": "query", "document": "pos"} if shape in ("object", "more") else {}
    source = Source("s", "web", ("pretrain",), "jsonl", **names)
    path = tmp_path / "a.jsonl"
    for line in ODD_LINES:
        plain = [json_line(rng, shape, 0) for _ in range(40)]  # of the first 20 the plan is made
        path.write_bytes(b"\n".join([*plain[:30], line, *plain[30:]]))
        by_rows, by_columns, batched = by_rows_and_by_columns(source, path)
        assert by_columns == by_rows, line
        assert batched > 8 or shape == "set", line


def table_text(rng: random.Random, delimiter: str, quoted: bool, odd: float, width: int, header: bool) -> bytes:
    """A csv or tsv file, some of its lines odd."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n"]))
    parts = [delimiter.join(["query", " pos ", "x", "other"][:width]).encode() + b"\n"] if header else []
    for _ in range(rng.randrange(1, 120)):
        cells = [rng.choice(ODD_TEXTS if rng.random() < odd else TEXTS) + str(rng.randrange(9)) for _ in range(width)]
        if width > 2 and rng.random() < 0.8:
            cells[2] = rng.choice(["a", "b", "0.5", "0.25", "1e3", " 1", "nan", "-1"])
        if quoted:
            writer.writerow(cells)
        else:
            out.write(delimiter.join(cell.replace("\n", " ") for cell in cells) + "\n")
        parts.append(out.getvalue().encode())
        out.seek(0), out.truncate()
        if rng.random() < odd:
            parts.append(rng.choice(ODD_LINES) + b"\n")
    return rng.choice([b"", b"\xef\xbb\xbf"]) + b"".join(parts)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("reader", "options"), [
    ("csv", {}), ("csv", {"header": False}), ("csv", {"delimiter": ";"}), ("csv", {"quoting": "none"}),
    ("tsv", {}), ("tsv", {"header": True}), ("tsv", {"quoting": "minimal", "header": True}),
])  # fmt: skip
def test_tables_give_by_columns_what_they_give_row_by_row(tmp_path, settings, reader, options):
    source = Source("s", "web", ("pretrain",), reader, **SETTINGS[settings], options={"max_line": 2_800, **options})
    header = options.get("header", reader == "csv")
    delimiter = options.get("delimiter", "," if reader == "csv" else "\t")
    quoted = options.get("quoting", "minimal" if reader == "csv" else "none") == "minimal"
    plain = 0
    for seed in range(8):
        rng = random.Random(f"{settings} {reader} {options} {seed}")
        data = table_text(rng, delimiter, quoted, rng.choice([0, 0.02, 0.2]), rng.choice([2, 3, 4]), header)
        (tmp_path / f"{seed}.{reader}").write_bytes(data)
        by_rows, by_columns, batched = by_rows_and_by_columns(source, tmp_path / f"{seed}.{reader}", 1 + seed % 2)
        assert by_columns == by_rows
        plain += batched
    if settings == ("named" if header else "two places"):
        assert plain > 60


@pytest.mark.parametrize("settings", SETTINGS)
def test_parquet_files_give_by_columns_what_they_give_row_by_row(tmp_path, settings):
    source = Source("s", "web", ("pretrain",), "parquet", **SETTINGS[settings])
    plain = 0
    for seed in range(8):
        rng = random.Random(f"{settings} {seed}")

        def text(rng=rng):
            return rng.choice([*ODD_TEXTS, None]) if rng.random() < 0.05 else rng.choice(TEXTS) + str(rng.randrange(9))

        rows = 2_000
        columns = {"query": pa.array([text() for _ in range(rows)], rng.choice([pa.string(), pa.large_string()]))}
        columns["pos"] = rng.choice([
            pa.array([text() for _ in range(rows)]),
            pa.array([[text() for _ in range(rng.randrange(3))] for _ in range(rows)], pa.list_(pa.string())),
            pa.array([rng.choice([b"a", b"b\xff", b"\xc3\xa9"]) for _ in range(rows)], pa.binary()).view(pa.string()),
            pa.array(range(rows)),
        ])  # fmt: skip
        columns["neg"] = rng.choice([
            pa.array([text() for _ in range(rows)]),
            pa.array([rng.choice([None, [], ["n"], ["n", "n2"], ["n", None]]) for _ in range(rows)]),
        ])  # fmt: skip
        columns["x"] = rng.choice([
            pa.array([rng.choice("abc") for _ in range(rows)]),
            pa.array([rng.random() for _ in range(rows)]),
            pa.array([rng.choice([0, 1, 2**62]) for _ in range(rows)]),
        ])  # fmt: skip
        path = tmp_path / f"{seed}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=700, compression="none", write_page_index=False)
        if seed % 2:
            place = pq.read_metadata(path).row_group(1).column(seed % 4).data_page_offset
            data = bytearray(path.read_bytes())
            data[place : place + 40] = bytes(40)
            path.write_bytes(data)
        by_rows, by_columns, batched = by_rows_and_by_columns(source, path, 1 + seed % 2)
        assert by_columns == by_rows
        plain += batched
    assert plain > 2_000 or settings not in ("named", "negatives")


@given(
    st.binary(max_size=60).map(lambda data: data.replace(b"a", b"\n")),
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(1, 30),
)
def test_blocks_hold_the_lines_that_are_read_one_by_one(data, max_line, chunk, block):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CHUNK_BYTES", chunk)
        patch.setattr(blocks, "BLOCK_BYTES", block)
        path = Path(folder) / "a.jsonl"
        path.write_bytes(b"{" + data)  # no other kind of file
        found = []
        for one in line_blocks(path, max_line):
            if isinstance(one, Rejected):
                found.append(one)
                continue
            for number, line in enumerate(split(one.data), one.number):
                over = len(line) + (one.cut if number == one.number else 0) > max_line
                found.append(Rejected(f"line over {max_line:,} bytes", number) if over else (number, line))
        assert found == list(lines(path, max_line))


def split(data: bytes) -> list[bytes]:
    """Lines with their ends, at line feeds alone."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


@pytest.mark.parametrize("reader", ["jsonl", "csv", "parquet"])
def test_the_first_records_of_a_file_are_the_first_that_its_rows_give(tmp_path, reader):
    rng = random.Random(7)
    path = tmp_path / f"a.{reader}"
    if reader == "parquet":
        pq.write_table(pa.table({"query": [f"q{n}" * (n % 9) for n in range(500)], "pos": ["d"] * 500}), path)
    elif reader == "csv":
        path.write_text("query,pos\n" + "".join(f'q{n},"d,{n}"\n' * (1 + n % 2) for n in range(300)))
    else:
        path.write_bytes(b"\n".join(json_line(rng, "documents", 0.05) for _ in range(900)))
    options = {"header": True} if reader == "csv" else {}
    source = Source("s", "web", ("pretrain",), reader, files="*", query="query", document="pos", options=options)
    raw = Raw(path.name, path, path.stat().st_size)

    def bare(found) -> list:
        return [record if isinstance(record, Rejected) else Pair(*record[:2], record.row) for record in found]

    every = bare(source.read(raw))
    for count in (1, 50, 300, 10**6):
        assert bare(first_records(source, raw, count)) == every[:count]
    assert len(every) > 300 and any(isinstance(record, Rejected) for record in every) == (reader != "csv")


def test_texts_are_stripped_as_python_strips_them():
    """All of Unicode, at both ends."""
    texts = [chr(code) + "a" + chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert plain.trimmed(pa.array(texts)).to_pylist() == [text.strip() for text in texts]
    ascii_texts = [text for text in texts if text.isascii()]
    assert [plain.trimmed(pa.array([text]))[0].as_py() for text in ascii_texts] == [t.strip() for t in ascii_texts]


@pytest.mark.parametrize("threads", [1, 3])
def test_frames_and_members_behind_the_first_are_read_and_so_are_windows_of_2_gib(tmp_path, threads):
    rows = [json.dumps({"query": f"q{n}", "pos": f"d{n}"}).encode() + b"\n" for n in range(400)]
    parts = [b"".join(rows[begin : begin + 100]) for begin in range(0, 400, 100)]
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=True)
    packed = {
        "frames.jsonl.zst": b"".join(map(zstandard.compress, parts)),
        "members.jsonl.gz": b"".join(map(gzip.compress, parts)),
    }
    compressor = zstandard.ZstdCompressor(compression_params=wide).compressobj()  # of unknown size: the window is kept
    packed["wide.jsonl.zst"] = compressor.compress(b"".join(rows)) + compressor.flush()
    assert zstandard.get_frame_parameters(packed["wide.jsonl.zst"]).window_size == 2**31
    source = Source("s", "web", ("pretrain",), "jsonl", query="query", document="pos")
    for name, data in packed.items():
        (tmp_path / name).write_bytes(data)
        by_rows, by_columns, batched = by_rows_and_by_columns(source, tmp_path / name, threads)
        assert by_columns == by_rows and batched == len(by_rows) == 400, name


def test_sources_that_count_ids_or_replace_texts_are_read_row_by_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "1", "query": "a", "pos": "b"}\n' * 50)
    for more in ({"id": "id"}, {"replace": {"a": "c"}}):
        source = Source("s", "web", ("pretrain",), "jsonl", query="query", document="pos", **more)
        by_rows, by_columns, batched = by_rows_and_by_columns(source, path)
        assert by_rows == by_columns and not batched
    assert next(record for _, record in raw_records(source, Raw("a.jsonl", path))).query == "c"


def test_lengths_are_those_of_characters():
    texts = ["é" * 3, "a" * 4, "🎈" * 2]
    assert plain.shorter(pa.array(texts), 4).tolist() == [len(text) < 4 for text in texts]
    assert pc.binary_length(pa.array(texts)).to_pylist() != [len(text) for text in texts]
