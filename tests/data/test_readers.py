"""Readers: every row of a file comes out as a pair, a triple or a rejection, whatever is in the file."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import shared_dir

from gte.data.raw_lines import MAX_LINE
from gte.data.readers import read_csv, read_jsonl, read_parquet, read_tsv, reader
from gte.data.records import Fields, Pair, Rejected, Triple, pair_hash, text_hash
from gte.errors import UserError

NAMED = Fields("title", "body", "neg")
OWN = ("text of its own pair",)


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_lines(path: Path, values: list) -> Path:
    return write(path, "".join(json.dumps(value) + "\n" for value in values))


SHAPES = [
    ({"title": " q ", "body": "d\n"}, NAMED, [Pair("q", "d", 1)]),
    ({"title": "q", "body": "d", "neg": "n"}, NAMED, [Triple("q", "d", ["n"], 1)]),
    ({"title": "q", "body": ["d", "e"], "neg": ["n", ""]}, NAMED, [Triple("q", x, ["n"], 1) for x in "de"]),
    ({"title": "q", "body": "d", "neg": []}, NAMED, [Pair("q", "d", 1)]),
    ({"title": "q", "body": "d", "neg": ["d", "n"]}, NAMED, [Triple("q", "d", ["n"], 1, dropped=OWN)]),
    ({"title": "t", "section": "s", "text": "d"}, Fields(["title", "section"], "text"), [Pair("t: s", "d", 1)]),
    ({"title": "t", "section": "", "text": "d"}, Fields(["title", "section"], "text"), [Pair("t", "d", 1)]),
    (["q", "d"], Fields(), [Pair("q", "d", 1)]),
    (["q", "d", "n"], Fields(), [Triple("q", "d", ["n"], 1)]),
    (["q", "d", "n", "m", "k"], Fields(), [Triple("q", "d", ["n", "m", "k"], 1)]),
    (["q", "d", None, "d", "", "n"], Fields(), [Triple("q", "d", ["n"], 1, dropped=OWN)]),
    (["q", "d", ["n", "m"], "k"], Fields(), [Triple("q", "d", ["n", "m", "k"], 1)]),
    (["q", "d", "n", 1], Fields(), [Rejected("wrong type of negatives", 1)]),
    (["q", "d"], NAMED, [Pair("q", "d", 1)]),
    (["x", "q", "d"], Fields(1, 2), [Pair("q", "d", 1)]),
    ({"query": "q", "pos": "d"}, Fields(), [Pair("q", "d", 1)]),
    ({"query": "q", "pos": ["d", "e"]}, Fields(), [Pair("q", "d", 1), Pair("q", "e", 1)]),
    ({"query": "q", "pos": ["d"], "neg": ["n", "m"]}, Fields(), [Triple("q", "d", ["n", "m"], 1)]),
    ({"query": "q", "answer": "d"}, Fields(), [Pair("q", "d", 1)]),
    ({"set": ["a", "b", "c"]}, Fields(), [Pair("a", "b", 1), Pair("b", "c", 1)]),
    ({"text": ["t", "b"], "tags": ["x"]}, Fields(), [Pair("t", "b", 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "fields", "expected"), SHAPES)
def test_each_shape_of_row_gives_its_pairs(tmp_path, value, fields, expected):
    assert list(read_jsonl(write_lines(tmp_path / "a.jsonl", [value]), fields)) == expected


BAD = [
    (b'{"body": "d"}', "missing query"),
    (b'{"title": null, "body": "d"}', "missing query"),
    (b'{"title": "q"}', "missing document"),
    (b'{"title": "q", "body": []}', "missing document"),
    (b'{"title": " \\n", "body": "d"}', "empty query"),
    (b'{"title": "q", "body": "\\u00a0"}', "empty document"),
    (b'{"title": 3, "body": "d"}', "wrong type of query"),
    (b'{"title": "q", "body": {"x": 1}}', "wrong type of document"),
    (b'{"title": "q", "body": "d", "neg": [1]}', "wrong type of negatives"),
    (b'{"title": "q", "body": "d"', "invalid JSON"),
    (b'{"title": "q"} {"body": "d"}', "invalid JSON"),
    (b"[" * 100_000, "invalid JSON"),
    (b'{"title": "q", "body": "\xff"}', "invalid UTF-8"),
    (b'{"title": "q", "body": "half \\ud800"}', "invalid UTF-8"),
    (b'{"title": "q", "body": "a\\u0000b"}', "NUL in document"),
    (b'{"title": "q\0", "body": "d"}', "invalid JSON"),
    (b'"text"', "unknown shape of row"),
    (b'["one"]', "too few columns"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_row_is_rejected_by_reason_and_row_and_costs_no_other(tmp_path, line, reason):
    good = b'{"title": "q", "body": "d"}'
    found = list(read_jsonl(write(tmp_path / "a.jsonl", b"\n".join([good, line, good])), NAMED))
    assert found == [Pair("q", "d", 1), Rejected(reason, 2), Pair("q", "d", 3)]


def test_a_set_of_one_text_and_an_unknown_object_are_rejected(tmp_path):
    found = list(read_jsonl(write_lines(tmp_path / "a.jsonl", [{"set": ["a"]}, {"x": "y"}]), Fields()))
    assert found == [Rejected("set of fewer than two texts", 1), Rejected("unknown shape of row", 2)]


def test_compressed_files_give_the_rows_of_the_plain_one(tmp_path):
    lines = "\ufeff" + "".join(json.dumps([f"q{i}", f"d{i} é"]) + "\n\n" for i in range(5_000))
    plain = list(read_jsonl(write(tmp_path / "a.jsonl", lines), Fields()))
    assert len(plain) == 5_000 and plain[1] == Pair("q1", "d1 é", 3)
    assert list(read_jsonl(write(tmp_path / "b.jsonl.gz", lines), Fields())) == plain
    with pa.output_stream(str(tmp_path / "c.jsonl.zst"), compression="zstd") as stream:
        stream.write(lines.encode())
    assert list(read_jsonl(tmp_path / "c.jsonl.zst", Fields())) == plain


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("cut", [0.5, 0.999])
def test_a_truncated_archive_gives_the_rows_before_the_cut_and_one_rejection(tmp_path, pack, cut):
    rng = random.Random(0)
    lines = "".join(json.dumps([f"q{i}", rng.randbytes(40).hex()]) + "\n" for i in range(20_000)).encode()
    path, whole = tmp_path / ("a.jsonl.gz" if pack is gzip.compress else "a.jsonl.zst"), pack(lines)
    path.write_bytes(whole)
    assert len(list(read_jsonl(path, Fields()))) == 20_000
    path.write_bytes(whole[: int(cut * len(whole))])
    *pairs, last = read_jsonl(path, Fields())
    assert last == Rejected("damaged archive", len(pairs))
    assert 20_000 * (cut - 0.1) < len(pairs) < 20_000 and all(isinstance(pair, Pair) for pair in pairs)


LINES = b'["q", "d"]\n' * 100
ARCHIVES = {
    "gzip": gzip.compress(LINES), "zstd": zstandard.compress(LINES), "bzip2": bz2.compress(LINES),
    "xz": lzma.compress(LINES), "plain": LINES, "UTF-16": "\ufeff[1]".encode("utf-16-le"), "noise": b"\x00\x01\x02",
}  # fmt: skip
WAY_OUT = {
    ("a.jsonl.gz", "zstd"): r"a\.jsonl\.gz is a zstd archive; name it a\.jsonl\.zst",
    ("a.jsonl.gz", "bzip2"): "is a bzip2 file, which is not read here; unpack it",
    ("a.jsonl.gz", "xz"): "is a xz file, which is not read here; unpack it",
    ("a.jsonl.gz", "plain"): r"is no gzip archive; name it a\.jsonl if it is plain text",
    ("a.jsonl.gz", "noise"): "is no gzip archive; .* otherwise get it again",
    ("a.jsonl.zst", "gzip"): r"is a gzip archive; name it a\.jsonl\.gz",
    ("a.jsonl.zst", "plain"): r"is no zstd archive; name it a\.jsonl if",
    ("a.jsonl", "gzip"): r"is a gzip archive; name it a\.jsonl\.gz",
    ("a.jsonl", "bzip2"): "is a bzip2 file",
    ("a.jsonl", "UTF-16"): "is UTF-16 text; convert it: iconv",
}


@pytest.mark.parametrize(("name", "held"), WAY_OUT)
def test_a_file_named_as_what_it_is_not_is_one_line_with_the_way_out(tmp_path, name, held):
    (tmp_path / name).write_bytes(ARCHIVES[held])
    with pytest.raises(UserError, match=WAY_OUT[name, held]) as error:
        list(read_jsonl(tmp_path / name, Fields()))
    assert "\n" not in str(error.value) and name in str(error.value)


def peak_of(function) -> tuple[list, int]:
    """What an iterator yields, and the most bytes that Python held meanwhile."""
    tracemalloc.start()
    try:
        return list(function()), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_line_over_the_limit_is_rejected_without_being_held(tmp_path):
    good = json.dumps(["q", "d"]) + "\n"
    path = write(tmp_path / "a.jsonl.gz", good + json.dumps(["q", "x" * 50_000_000]) + "\n" + good)
    found, peak = peak_of(lambda: read_jsonl(path, Fields(), max_line=100_000))
    assert found == [Pair("q", "d", 1), Rejected("line over 100,000 bytes", 2), Pair("q", "d", 3)]
    assert peak < 10_000_000


@pytest.mark.parametrize("name", ["jsonl", "tsv", "csv", "python", "medi"])
def test_100_mb_without_a_line_end_are_one_rejection_in_bounded_memory(tmp_path, name):
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b'["')
        for _ in range(100):
            stream.write(b"x" * 2**20)
    options = {"header": False} if name == "csv" else {}
    found, peak = peak_of(lambda: reader(name)(path, Fields(0, 1), **options))
    assert {type(record) for record in found} == {Rejected} and found[0].row == 1
    told = ["item over 16,777,216 bytes", "array without an end"] if name == "medi" else ["line over 16,777,216 bytes"]
    assert [record.reason for record in found] == told
    assert peak < (8 if name == "medi" else 4) * MAX_LINE  # an array is read in windows, which double


def test_an_archive_that_unpacks_to_far_more_than_text_does_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("gte.data.raw_lines.BOMB_BYTES", 2**20)
    line = json.dumps(["q", "d" * 200]).encode() + b"\n"
    for path, pack in ((tmp_path / "a.jsonl.gz", gzip.compress), (tmp_path / "a.jsonl.zst", zstandard.compress)):
        path.write_bytes(pack(line * 4_000))
        assert len(list(read_jsonl(path, Fields()))) == 4_000 and len(line) * 4_000 < 2**20
        path.write_bytes(pack(line * 40_000))
        *pairs, last = read_jsonl(path, Fields())
        assert last == Rejected("archive bomb", len(pairs)) and 2_000 < len(pairs) < 40_000
    rng = random.Random(0)
    noise = [
        ["q", rng.randbytes(500).hex()] for _ in range(3_000)
    ]  # three times the bytes, but not 200 times the archive
    path = write(tmp_path / "b.jsonl.gz", "\n".join(map(json.dumps, noise)))
    assert len([pair for pair in read_jsonl(path, Fields()) if isinstance(pair, Pair)]) == 3_000


def test_ids_that_a_file_has_twice_and_rows_left_out_are_counted_by_reason(tmp_path):
    rows = [
        ("1", "q", "d", "x"),
        ("2", ".", "d", "x"),
        ("1", "q2", "d2", "x"),
        ("3", "q", "d", "y"),
        ("", "q", "d", "x"),
    ]
    fields = {"keep": ["x", "z"], "drop": "."}
    expected = [
        Pair("q", "d", 1),
        Rejected("filtered: {1} is '.'", 2),
        Rejected("duplicate id", 3),
        Rejected("filtered: {3} is not 'x' or 'z'", 4),
        Rejected("missing id", 5),
    ]
    named, placed = ("id", "title", "text", "kind"), (0, 1, 2, 3)
    write_lines(tmp_path / "a.jsonl", [dict(zip(named, row, strict=True)) for row in rows])
    write(tmp_path / "a.tsv", "".join("\t".join(row) + "\n" for row in rows))
    pq.write_table(pa.table(dict(zip(named, map(list, zip(*rows, strict=True)), strict=True))), tmp_path / "a.parquet")
    for format, names in (("jsonl", named), ("tsv", placed), ("parquet", named)):
        identity, query, document, kind = names
        stated = Fields(query, document, id=identity, keep={kind: fields["keep"]}, drop={query: fields["drop"]})
        found = list(reader(format)(tmp_path / f"a.{format}", stated))
        assert found == [r if isinstance(r, Pair) else Rejected(r.reason.format(*names), r.row) for r in expected], (
            format
        )


def test_replacements_are_made_in_both_texts_before_they_are_checked(tmp_path):
    fields = Fields(replace={r"^\(CNN\)\s*--": "", r"<br ?/?>|\\n": "\n"})
    path = write_lines(tmp_path / "a.jsonl", [["a<br />b", "(CNN) -- c\\nd"], ["q", "(CNN) --"]])
    assert list(read_jsonl(path, fields)) == [Pair("a\nb", "c\nd", 1), Rejected("empty document", 2)]


def test_csv_gives_back_what_the_csv_module_wrote(tmp_path):
    rng = random.Random(1)
    texts = ["".join(rng.choices('ab",\n\r\n;é ', k=20)).strip() or "x" for _ in range(400)]
    rows = [[texts[2 * i], texts[2 * i + 1]] for i in range(200)]
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\r\n").writerows([["title", "body"], *rows])
    assert any("\n" in text for text in texts) and any('"' in text for text in texts)
    found = list(read_csv(write(tmp_path / "a.csv", stream.getvalue()), Fields("title", "body")))
    assert [(pair.query, pair.document) for pair in found] == [(a.strip(), b.strip()) for a, b in rows]
    named = list(read_csv(write(tmp_path / "b.csv.gz", stream.getvalue()), Fields(0, 1), header=False))
    assert named == [Pair("title", "body", 1), *found]


def test_bad_csv_rows_are_rejected_and_the_next_row_is_read(tmp_path):
    text = 'id,title,body\n1,q,d\n2,q\n3,q,d,more\n4,"q" x,d\n5,"q\ntwo",d\n6,,d\n7,q,\xff\n8,q,"never closed\n'
    found = list(read_csv(write(tmp_path / "a.csv", text.encode("latin-1")), Fields("title", "body")))
    assert found == [
        Pair("q", "d", 2),
        Rejected("too few columns", 3),
        Rejected("too many columns", 4),
        Rejected("malformed row", 5),
        Pair("q\ntwo", "d", 7),
        Rejected("empty query", 8),
        Rejected("invalid UTF-8", 9),
        Rejected("malformed row", 10),
    ]


def test_an_over_long_csv_line_takes_no_other_row_with_it(tmp_path):
    text = "title,body\nq,d\nq," + "x" * 5_000 + "\nq,e\n" + '"q\n' + "y" * 5_000 + '\n",f\nq,g\n'
    found = list(read_csv(write(tmp_path / "a.csv", text), Fields("title", "body"), max_line=1_000))
    pairs = [record for record in found if isinstance(record, Pair)]
    assert pairs == [Pair("q", "d", 2), Pair("q", "e", 4), Pair("q", "g", 8)]
    reasons = Counter(record.reason for record in found if isinstance(record, Rejected))
    assert reasons == {"line over 1,000 bytes": 2, "row with a rejected line": 1}


def test_tsv_has_neither_header_nor_quotes_unless_stated(tmp_path):
    text = 'id1\t"q\td"\t\nid2\tq\n\nid3\tq\td\r\n'
    found = list(read_tsv(write(tmp_path / "a.tsv", text), Fields(1, 2)))
    assert found == [Pair('"q', 'd"', 1), Rejected("too few columns", 2), Pair("q", "d", 4)]
    text = 'title\tbody\n"q\t1"\t"d\n2"\n'
    found = list(read_tsv(write(tmp_path / "b.tsv", text), Fields("title", "body"), header=True, quoting="minimal"))
    assert found == [Pair("q\t1", "d\n2", 3)]


def test_parquet_rows_and_bad_parquet_rows(tmp_path):
    body = pa.array(["d", None, " ", "e"])
    pq.write_table(pa.table({"title": ["q"] * 4, "body": body, "neg": [["n"], [], None, []]}), tmp_path / "a.parquet")
    found = list(read_parquet(tmp_path / "a.parquet", NAMED))
    assert found[:2] == [Triple("q", "d", ["n"], 1), Rejected("missing document", 2)]
    assert found[2:] == [Rejected("empty document", 3), Pair("q", "e", 4)]
    raw = pa.array([b"d", b"\xff\xfe", b"e"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"title": ["q"] * 3, "body": raw}), tmp_path / "b.parquet")
    found = list(read_parquet(tmp_path / "b.parquet", Fields("title", "body")))
    assert found == [Pair("q", "d", 1), Rejected("invalid UTF-8", 2), Pair("q", "e", 3)]
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[: len(whole) // 2])
    assert list(read_parquet(tmp_path / "c.parquet", NAMED)) == [Rejected("damaged file", 0)]


def test_a_column_that_a_file_lacks_is_named_with_those_it_has(tmp_path):
    pq.write_table(pa.table({"title": ["q"], "text": ["d"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has no column 'body'; it has: title, text"):
        list(read_parquet(tmp_path / "a.parquet", Fields("title", "body")))
    with pytest.raises(UserError, match=r"a\.csv has no column 'body'; it has: title, text"):
        list(read_csv(write(tmp_path / "a.csv", "title,text\nq,d\n"), Fields("title", "body")))
    with pytest.raises(UserError, match=r"a\.csv has several columns 'title'; it has: title, title"):
        list(read_csv(write(tmp_path / "a.csv", "title,title\nq,d\n"), Fields("title", "title")))


def test_an_unknown_format_names_those_that_are_read():
    with pytest.raises(UserError, match=r"no reader for the format 'floppy'; prepare reads: .*csv"):
        reader("floppy")


@pytest.mark.parametrize("seed", range(5))
def test_every_line_of_a_messy_file_is_accounted_for(tmp_path, seed):
    """Oracle: what each line was made to be."""
    rng = random.Random(seed)
    kinds = {"good": b'["q", "d"]', **{reason: line for line, reason in BAD if len(line) < 1_000}}
    drawn = rng.choices(list(kinds), k=3_000)
    path = write(tmp_path / "a.jsonl.gz", b"\n".join(kinds[kind] for kind in drawn))
    found = list(read_jsonl(path, NAMED))
    said = ["good" if isinstance(record, Pair) else record.reason for record in found]
    assert said == drawn and set(said) == set(kinds)
    assert [record.row for record in found] == list(range(1, 3_001))


def test_hashes_tell_pairs_apart_that_are_spelt_alike_end_to_end():
    assert pair_hash("ab", "c") != pair_hash("a", "bc")
    assert pair_hash("1:a", "b") != pair_hash("1", "ab")
    assert pair_hash("é", "x") == pair_hash("é", "x") and text_hash("é") == text_hash("é") != text_hash("e")
    assert max(*pair_hash("a", "b"), text_hash("a")) < 2**64


SAMPLES = [
    ("st_embedding_training_data/formats.jsonl", "jsonl", Fields(), {}, {Pair, Triple, Rejected}),
    ("reddit_title_body_hub/format.jsonl", "jsonl", Fields("title", "body"), {}, {Pair}),
    ("mind_news/news.tsv", "tsv", Fields(3, 4), {}, {Pair, Rejected}),
    ("wikihow/raw/all_1.2.0/wikihowAll.csv", "csv", Fields("headline", "text"), {}, {Pair}),
    ("gooaq/raw/1.2.0/gooaq.jsonl", "jsonl", Fields("question", "answer"), {}, {Pair}),
    ("beir_corpus/anserini_corpus.jsonl", "jsonl", Fields("title", "text"), {}, {Pair}),
]


@pytest.mark.parametrize(("path", "name", "fields", "options", "kinds"), SAMPLES)
def test_real_files_of_these_formats_are_read(path, name, fields, options, kinds):
    found = list(reader(name)(shared_dir("data/raw_samples") / path, fields, **options))
    assert found and {type(record) for record in found} <= kinds
    assert any(not isinstance(record, Rejected) for record in found)


def spoilt(rng: random.Random, text: bytes) -> bytes:
    """The text of a csv file with one quote too many: put in, in place of another byte, or before a row."""
    place = rng.randrange(20, len(text) - 1)
    kind = rng.randrange(3)
    if kind == 2:
        place = max(20, text.rfind(b"\n", 0, place) + 1)
    return text[:place] + b'"' + text[place + (kind == 1) :]


@pytest.mark.parametrize("style", ["plain", "quoted where needed", "all quoted", "several lines"])
def test_one_quote_too_many_costs_one_row_of_a_csv(tmp_path, style):
    rng = random.Random(style)
    words = ["red", "blue", "ok."] + (["a, b", '5" disk'] if style != "plain" else [])
    for _ in range(25):
        rows = [(f"what is number {n}", f"text {n} " + " ".join(rng.choices(words, k=8))) for n in range(300)]
        if style == "several lines":
            rows = [(q, f"{d}\n\nsecond, line\nthird" if n % 3 == 0 else d) for n, (q, d) in enumerate(rows)]
        stream = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if style == "all quoted" else csv.QUOTE_MINIMAL
        csv.writer(stream, lineterminator="\n", quoting=quoting).writerows([("title", "body"), *rows])
        path = write(tmp_path / "a.csv", spoilt(rng, stream.getvalue().encode()))
        found = list(read_csv(path, Fields("title", "body")))
        lost = set(rows) - {(record.query, record.document) for record in found if isinstance(record, Pair)}
        assert len(lost) <= 1
        assert all(isinstance(record, Pair) or record.row <= path.read_bytes().count(b"\n") for record in found)


def test_a_quote_that_is_never_closed_is_a_fault_at_its_line_with_all_rows_behind_it_read(tmp_path):
    lines = [f"q{n},d{n}" for n in range(5_000)]
    lines[100] = '"q100,d100'
    found = list(read_csv(write(tmp_path / "a.csv", "\n".join(["title,body", *lines])), Fields("title", "body")))
    assert [record for record in found if isinstance(record, Rejected)] == [Rejected("quote that is not closed", 102)]
    assert [record.query for record in found if isinstance(record, Pair)] == [f"q{n}" for n in range(5_000) if n != 100]
    long = "\n".join(f"line {n} of a text, which is a long one" for n in range(3_000))
    text = f'title,body\nq,"{long}"\nr,d\n'
    assert list(read_csv(write(tmp_path / "b.csv", text), Fields("title", "body"))) == [
        Pair("q", long, 3_001),
        Pair("r", "d", 3_002),
    ]


def test_a_damaged_row_group_costs_its_own_rows_and_each_is_told(tmp_path):
    table = pa.table({"title": [f"q{n}" for n in range(3_000)], "body": [f"d{n}" for n in range(3_000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1_000)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    place = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0).data_page_offset
    data[place : place + 100] = bytes(100)
    (tmp_path / "a.parquet").write_bytes(data)
    found = list(read_parquet(tmp_path / "a.parquet", NAMED_PAIR))
    assert [record.row for record in found] == list(range(1, 3_001))
    assert {record.reason for record in found if isinstance(record, Rejected)} == {"damaged row group"}
    assert [record.query for record in found if isinstance(record, Pair)][-1_000:] == [
        f"q{n}" for n in range(2_000, 3_000)
    ]


NAMED_PAIR = Fields("title", "body")
