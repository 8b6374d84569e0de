"""Token shards: any rows in any order, exactly; and no shard that is not the one written."""

import json
import pickle
import time

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tables import make_table

from gte.data import shards
from gte.data.shards import Manifest, TokenTable, by_shard, spans, write_shards
from gte.errors import UserError


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 100)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("seed", range(4))
def test_gathered_rows_are_the_rows_written_in_the_order_asked_for(tmp_path, small_shards, seed, dtype):
    manifest, columns = make_table(tmp_path, 730, negatives=True, dtype=dtype)
    table = TokenTable(tmp_path, manifest, "s")
    assert len(table) == 730 and len(table.paths) > 7
    rng = np.random.default_rng(seed)
    for rows in (
        rng.integers(0, 730, 300),
        np.arange(730),
        np.array([5, 5, 729, 0]),
        np.array([], np.int64),
        np.arange(60, 70),
    ):
        for column in ("query", "document"):
            flat, lengths = table.gather(column, rows)
            expected = [columns[column][row] for row in rows]
            assert flat.tolist() == [token for ids in expected for token in ids] and flat.dtype == dtype
            assert lengths.tolist() == [len(ids) for ids in expected] and lengths.dtype == np.int64
            assert table.hashes(column, rows).tolist() == [columns[f"{column}_hash"][row] for row in rows]
        flat, lengths, counts = table.gather_negatives(rows)
        expected = [columns["negatives"][row] for row in rows]
        assert counts.tolist() == [len(lists) for lists in expected]
        assert lengths.tolist() == [len(ids) for lists in expected for ids in lists]
        assert flat.tolist() == [token for lists in expected for ids in lists for token in ids]
        expected = [number for row in rows for number in columns["negatives_hash"][row]]
        assert table.negative_hashes(rows).tolist() == expected


def test_a_source_without_negatives_has_none_of_any_row(tmp_path):
    manifest, _ = make_table(tmp_path, 10, negatives=False)
    flat, lengths, counts = TokenTable(tmp_path, manifest, "s").gather_negatives(np.array([3, 4]))
    assert len(flat) == len(lengths) == 0 and counts.tolist() == [0, 0]
    assert len(TokenTable(tmp_path, manifest, "s").negative_hashes(np.array([3, 4]))) == 0


def test_shards_of_before_negatives_had_hashes_say_how_to_get_them(tmp_path):
    manifest, columns = make_table(tmp_path, 10, negatives=True)
    path = tmp_path / manifest.sources["s"]["shards"][0]["file"]
    batch = pa.ipc.open_stream(path.read_bytes()).read_next_batch().drop_columns(["negatives_hash"])
    manifest.sources["s"]["shards"] = [shards.write_shard(batch, tmp_path, "old.arrow")]
    table = TokenTable(tmp_path, manifest, "s")
    assert table.gather_negatives(np.array([3]))[2].tolist() == [len(columns["negatives"][3])]
    with pytest.raises(UserError, match=r"old.arrow holds no hashes of its negatives; prepare again with force=true"):
        table.negative_hashes(np.array([3]))


def test_rows_out_of_range_are_a_bug_and_an_unknown_source_is_named(tmp_path):
    manifest, _ = make_table(tmp_path, 10, negatives=False)
    table = TokenTable(tmp_path, manifest, "s")
    for row in (10, -1):
        with pytest.raises(IndexError):
            table.gather("query", np.array([row]))
    with pytest.raises(UserError, match="holds no source 'x'; it holds: s"):
        TokenTable(tmp_path, manifest, "x")


def test_a_shard_is_one_record_batch_within_both_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 100)
    monkeypatch.setattr(shards, "SHARD_IDS", 1_500)
    manifest, _ = make_table(tmp_path, 400, negatives=True, batch=20)
    facts = manifest.sources["s"]["shards"]
    assert sum(shard["rows"] for shard in facts) == 400 and [shard["file"] for shard in facts][:2] == [
        "shards/s/00000.arrow",
        "shards/s/00000-1.arrow",
    ]
    for shard in facts:
        batches = list(pa.ipc.open_stream(tmp_path / shard["file"]))
        assert len(batches) == 1 and batches[0].num_rows == shard["rows"] <= 100
        assert max(len(batches[0].column(name).flatten()) for name in ("query", "document")) <= 1_500
        assert (tmp_path / shard["file"]).stat().st_size == shard["bytes"]


def test_datasets_opens_a_shard(tmp_path):
    manifest, columns = make_table(tmp_path, 50, negatives=True)
    opened = datasets.Dataset.from_file(str(tmp_path / manifest.sources["s"]["shards"][0]["file"]))
    assert (
        opened.num_rows == 50
        and opened["query"][:] == columns["query"]
        and opened["negatives"][:] == columns["negatives"]
    )


def test_a_table_goes_to_another_process_without_its_open_files(tmp_path, small_shards):
    manifest, _ = make_table(tmp_path, 300, negatives=False)
    table = TokenTable(tmp_path, manifest, "s")
    rows = np.array([1, 250, 99])
    before = table.gather("query", rows)
    sent = pickle.dumps(table)
    assert len(sent) < 5_000
    assert all(np.array_equal(a, b) for a, b in zip(pickle.loads(sent).gather("query", rows), before, strict=True))


def test_missing_truncated_and_changed_shards_are_named(tmp_path):
    manifest, _ = make_table(tmp_path, 200, negatives=False)
    path = tmp_path / "shards" / "s" / "00000.arrow"
    whole = path.read_bytes()
    manifest.verify(tmp_path)
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"00000\.arrow has [\d,]+ bytes, [\d,]+ were written"):
        TokenTable(tmp_path, manifest, "s")
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match=r"00000\.arrow is not the file that was written"):
        manifest.verify(tmp_path)
    path.write_bytes(b"\0" * len(whole))
    with pytest.raises(UserError, match=r"00000\.arrow is no whole Arrow shard"):
        TokenTable(tmp_path, manifest, "s").gather("query", np.array([0]))
    path.unlink()
    with pytest.raises(UserError, match=r"00000\.arrow is missing"):
        TokenTable(tmp_path, manifest, "s")


def test_a_folder_without_a_manifest_of_ours_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no prepared folder: it has no manifest\.json"):
        Manifest.load(tmp_path)
    for text, line in (
        ("no json", "is no manifest of prepare"),
        ("[]", "is no manifest of prepare"),
        ('{"schema": 1, "other": 2}', "is no manifest of prepare"),
        ('{"schema": 99}', "has schema 99, this version reads 1"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=line):
            Manifest.load(tmp_path)


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    manifest = Manifest(
        "n", {"dtype": "uint16"}, {"é": {"stages": ["finetune"], "kept": 3}}, created="now", versions={"a": "1"}
    )
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest and json.loads((tmp_path / "manifest.json").read_text())["schema"] == 1
    assert manifest.stage("finetune") == {"é": 3} and manifest.stage("pretrain") == {}


def test_spans_and_shards_of_rows_against_loops():
    starts, lengths = np.array([7, 0, 3, 3]), np.array([2, 0, 3, 1])
    assert spans(starts, lengths).tolist() == [7, 8, 3, 4, 5, 3]
    assert spans(np.array([], np.int64), np.array([], np.int64)).tolist() == []
    places = np.array([2, 0, 2, 1, 0])
    assert {shard: np.arange(5)[where].tolist() for shard, where in by_shard(places)} == {0: [1, 4], 1: [3], 2: [0, 2]}


def test_a_batch_of_16384_random_pairs_is_gathered_in_a_fraction_of_a_second(tmp_path, monkeypatch):
    """The goal is 20,000 pairs/s on two cores; the bound leaves room for a busy machine."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 20_000)
    rng = np.random.default_rng(0)
    rows = 200_000

    def lists(longest: int, count: int) -> pa.ListArray:
        offsets = np.concatenate([[0], rng.integers(1, longest, count).cumsum()]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rng.integers(0, 30_000, offsets[-1]), pa.uint16()))

    hashes = {name: pa.array(range(5_000), pa.uint64()) for name in ("query_hash", "document_hash")}
    batches = (
        pa.record_batch({"query": lists(30, 5_000), "document": lists(250, 5_000), **hashes})
        for _ in range(rows // 5_000)
    )
    facts = write_shards(batches, tmp_path, "s")
    manifest = Manifest("t", {"dtype": "uint16"}, {"s": {"negatives": False, "shards": facts}})
    table = TokenTable(tmp_path, manifest, "s")
    assert len(facts) == 10
    times = []
    for _ in range(3):
        wanted = rng.integers(0, rows, 16_384)
        start = time.process_time()  # which others on the machine do not lengthen
        table.gather("query", wanted), table.gather("document", wanted)
        times.append(time.process_time() - start)
    assert min(times) < 0.6, times
