"""Unique pairs by tasks of the engine: files joined by row groups, errors that cross, one file whoever made it."""

import errno
import json
import random
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gte.cores import allowed_cores
from gte.data import pairs, runs
from gte.data.distinct import HASHES, distinct_rows
from gte.data.engine import run_tasks
from gte.data.locate import locate
from gte.data.pairs import PARQUET, hash_file, make_pairs, one_of, power_of_two
from gte.data.row_groups import join_files
from gte.data.sources import Source
from gte.errors import UserError

FIELDS = {"query": "query", "document": "pos", "negatives": "neg"}
SCHEMA = pa.schema([("query", pa.string()), ("negatives", pa.list_(pa.string())), ("row", pa.int64())])


def write_groups(path: Path, tables: list[pa.Table]) -> Path:
    with pq.ParquetWriter(path, SCHEMA, **PARQUET) as writer:
        for table in tables:
            writer.write_table(table)
    return path


def some_tables(count: int) -> list[pa.Table]:
    rng = random.Random(count)
    tables = []
    for _ in range(count):
        rows = rng.randrange(1, 200)
        columns = {
            "query": [rng.choice(["é", "word "]) * rng.randrange(50) for _ in range(rows)],
            "negatives": [rng.choice([None, [], ["a", "b"]]) for _ in range(rows)],
            "row": [rng.randrange(2**40) for _ in range(rows)],
        }
        tables.append(pa.table(columns, schema=SCHEMA))
    return tables


@pytest.mark.parametrize("sizes", [[1], [0], [0, 2, 0, 3], [9, 9, 1]])
def test_joined_files_are_in_every_byte_what_one_writer_writes(tmp_path, sizes):
    tables = some_tables(sum(sizes))
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    parts = [
        write_groups(tmp_path / f"{end}-{size}", tables[end - size : end])
        for end, size in zip(ends, sizes, strict=True)
    ]
    rows = join_files(parts, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == write_groups(tmp_path / "one", tables).read_bytes()
    assert rows == sum(table.num_rows for table in tables) and not any(part.exists() for part in parts)


def test_more_row_groups_than_16_bits_count_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr("gte.data.row_groups.MOST_ORDINALS", 3)
    tables = some_tables(5)
    join_files(
        [write_groups(tmp_path / "a", tables[:2]), write_groups(tmp_path / "b", tables[2:])], tmp_path / "joined"
    )
    with pq.ParquetFile(tmp_path / "joined", page_checksum_verification=True) as file:
        assert file.num_row_groups == 5 and file.read() == pa.concat_tables(tables)


def test_a_cut_part_is_no_joined_file(tmp_path):
    part = write_groups(tmp_path / "a", some_tables(3))
    data = part.read_bytes()
    part.write_bytes(data[:50] + data[-400:])
    with pytest.raises((EOFError, ValueError, OSError, IndexError, KeyError)):
        join_files([part], tmp_path / "joined")


def raise_(error: Exception) -> None:
    raise error


def test_what_tasks_return_and_the_first_error_come_back_as_they_were():
    assert run_tasks("squares", [partial(pow, number, 2) for number in range(20)]) == [n**2 for n in range(20)]
    assert run_tasks("none", []) == []
    if allowed_cores() > 1:  # at the same time: two that wait for each other
        met = threading.Barrier(2, timeout=60)
        assert sorted(run_tasks("meet", [met.wait, met.wait])) == [0, 1]
    full = OSError(errno.ENOSPC, "No space left on device", "/disk/a")
    refused = UserError("a line")
    with pytest.raises(UserError, match=r"^a line$"):
        run_tasks("refused", [int, partial(raise_, refused), partial(raise_, full)])
    with pytest.raises(OSError, match="No space left") as error:
        run_tasks("full", [int, partial(raise_, full), partial(raise_, refused)])
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "/disk/a")
    with pytest.raises(Exception, match="a fault of ours"):
        run_tasks("fault", [partial(raise_, ZeroDivisionError("a fault of ours"))])


def raw_folder(folder: Path, files: int = 5) -> Source:
    """Rows of which every third one has been there, in the same file or in another."""
    rng = random.Random(0)
    folder.mkdir()
    texts = [f"text {number} " + "word " * rng.randrange(30) for number in range(600)]
    for file in range(files):
        rows = [
            {"query": rng.choice(texts), "pos": rng.choice(texts[:3]), "neg": rng.choice([[], ["n"], ["m", "n"]])}
            for _ in range(300)
        ]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source("s", "web", ("pretrain",), "jsonl", files="*.jsonl", folder=".", **FIELDS)


def triplets(folder: Path, order: random.Random | None, files: int = 3) -> tuple[Source, dict]:
    """Pairs with one negative a row or several or none, over some files, and by pair what each row of it has, in order.

    A pair is one row or up to nine; a negative may come again, in its row too, or equal the document."""
    rng = random.Random(3)
    rows = []
    for number in range(400):
        pair = (f"query {number} {'word ' * rng.randrange(9)}".strip(), f"document {number % 50}")
        for _ in range(rng.choice([1, 1, 2, 9])):
            texts = [rng.choice([f"negative {rng.randrange(6)}", pair[1], " "]) for _ in range(rng.randrange(4))]
            rows.append((*pair, texts))
    (order or rng).shuffle(rows)
    folder.mkdir()
    held = {}
    for file in range(files):
        lines = []
        for query, document, texts in rows[file::files]:
            lines.append(json.dumps({"query": query, "pos": document, "neg": texts}) + "\n")
            own = [text for text in texts if text.strip() and text != document]
            held.setdefault((query, document), []).append(own)
        (folder / f"{file}.jsonl").write_text("".join(lines))
    return Source("s", "web", ("pretrain",), "jsonl", files="*.jsonl", folder=".", **FIELDS), held


def joined(lists: list[list[str]]) -> list[str]:
    """Oracle: the texts of several lists, each where it comes first."""
    found = []
    for text in (text for one in lists for text in one):
        if text not in found:
            found.append(text)
    return found


@pytest.mark.parametrize("order", [None, 1, 2])
@pytest.mark.parametrize("offsets", [None, 0])
def test_a_pair_has_the_negatives_of_all_its_rows_each_once_and_never_its_document(
    tmp_path, monkeypatch, order, offsets
):
    monkeypatch.setattr(pairs, "GROUP_ROWS", 100)
    if offsets is not None:
        monkeypatch.setattr(pairs, "LARGE_BYTES", offsets)
    source, held = triplets(tmp_path / "raw", order and random.Random(order))
    _, _, tally = made(source, tmp_path / "raw", tmp_path / "out")
    found = {(row["query"], row["document"]): row["negatives"] for row in read(tmp_path / "out")}
    assert found == {pair: joined(lists) or None for pair, lists in held.items()}
    assert tally.kept == len(held) == 400 and tally.duplicates == sum(map(len, held.values())) - 400 > 300
    assert tally.gathered == sum(len(set(joined(lists)) - set(lists[0])) for lists in held.values()) > 300
    assert not any(document in (texts or ()) for (_, document), texts in found.items())


def test_triplets_of_one_negative_a_row_are_a_pair_with_all_of_them_in_any_order_of_rows(tmp_path):
    """The layout of AllNLI and of MS MARCO's triplets."""
    rows = [(f"q{n}", f"d{n}", f"n{n} {k}") for n in range(100) for k in range(5)]
    wanted = {(f"q{n}", f"d{n}"): {f"n{n} {k}" for k in range(5)} for n in range(100)}
    for order in range(3):
        folder = tmp_path / str(order)
        folder.mkdir()
        lines = [json.dumps(dict(zip(("query", "pos", "neg"), row, strict=True))) for row in rows]
        (folder / "a.jsonl").write_text("\n".join(lines))
        source = Source("s", "web", ("pretrain",), "jsonl", files="*.jsonl", folder=".", **FIELDS)
        _, _, tally = made(source, folder, folder / "out")
        found = read(folder / "out")
        assert [len(row["negatives"]) for row in found] == [5] * 100
        assert {(row["query"], row["document"]): set(row["negatives"]) for row in found} == wanted
        assert (tally.read, tally.kept, tally.duplicates, tally.gathered) == (500, 100, 400, 400)
        random.Random(order).shuffle(rows)


def read(work: Path) -> list[dict]:
    """The rows of the pairs file that `made` wrote."""
    return pq.read_table(work / "pairs").to_pylist()


def made(source: Source, folder: Path, work: Path, **settings) -> tuple[bytes, bytes, object]:
    """The bytes of a source's pairs file and of its hash file, and the tally."""
    work.mkdir(exist_ok=True)
    tally = make_pairs(
        source, locate(source, folder), work / "pairs", work / "work", max_rejected=0.1, seen=[], **settings
    )
    return (work / "pairs").read_bytes(), hash_file(work / "work").read_bytes(), tally


CHANGES = [
    {"BUCKET_BYTES": 1_000}, {"RUN_BYTES": 100, "BUCKET_RUN_BYTES": 10}, {"LARGE_BYTES": 0},
    {"MAX_BUCKETS": 2, "BUCKET_BYTES": 10}, {"BUCKET_BYTES": 500, "PACKED_BUCKETS": 10**9},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(change))
def test_the_file_hangs_on_no_bucket_run_or_width_of_offsets(tmp_path, monkeypatch, change):
    source = raw_folder(tmp_path / "raw")
    monkeypatch.setattr(pairs, "GROUP_ROWS", 100)
    expected = made(source, tmp_path / "raw", tmp_path / "one")
    for name, value in change.items():
        monkeypatch.setattr(pairs if hasattr(pairs, name) else runs, name, value)
    assert made(source, tmp_path / "raw", tmp_path / "two") == expected
    assert expected[2].duplicates > 50 and expected[2].gathered > 50
    assert pq.read_metadata(tmp_path / "one" / "pairs").num_row_groups == 16


def test_a_pairs_file_has_plain_strings_and_pages_that_tell_a_flipped_bit(tmp_path):
    made(raw_folder(tmp_path / "raw"), tmp_path / "raw", tmp_path / "out")
    path = tmp_path / "out" / "pairs"
    kinds = {field.name: field.type for field in pq.read_schema(path)}
    assert kinds["query"] == kinds["document"] == kinds["file"] == pa.string()
    assert kinds["negatives"].value_type == pa.string()
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_of_equal_pairs_the_lowest_file_and_row_survives_and_seen_ones_do_not():
    rows = [("b", 1, 5, 1), ("a", 9, 5, 1), ("a", 3, 5, 1), ("a", 1, 5, 2), ("c", 1, 4, 0), ("a", 2, 2**64 - 1, 7)]
    names = ("file", "row", "high", "low")
    kinds = (pa.string(), pa.int64(), pa.uint64(), pa.uint64())
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    found = distinct_rows(pa.table(dict(zip(names, columns, strict=True))), None)
    assert [rows[place][:2] for place in found.rows(slice(None))] == [("c", 1), ("a", 3), ("a", 1), ("a", 2)]
    assert found.high.tolist() == [4, 5, 5, 2**64 - 1] and found.counts.tolist() == [1, 3, 1, 1]


def test_pairs_of_another_source_are_found_by_both_halves_of_their_hash(tmp_path):
    pq.write_table(pa.table({"high": [4, 5, 6], "low": [1, 1, 0]}, schema=HASHES), tmp_path / "seen", row_group_size=1)
    columns = {
        "file": ["a"] * 3,
        "row": [1, 2, 3],
        "high": pa.array([5, 5, 4], pa.uint64()),
        "low": pa.array([1, 0, 256], pa.uint64()),
    }
    found = distinct_rows(pa.table(columns), [tmp_path / "seen"])
    assert found.rows(slice(None)).tolist() == [2, 1] and found.counts.tolist() == [1, 1]


@pytest.mark.parametrize(("number", "power"), [(0, 1), (0.2, 1), (1, 1), (1.01, 2), (2, 2), (5, 8), (1024, 1024)])
def test_the_least_power_of_two_that_is_not_below(number, power):
    assert power_of_two(number) == power


def test_tasks_share_buckets_and_groups_in_order_without_gaps():
    for tasks, count in ((1, 8), (4, 8), (8, 8)):
        assert [one for number in range(tasks) for one in one_of(number, tasks, count)] == list(range(count))
