"""Nothing altered is trained on: each page of a shard is compared with its checksum before a row of it is given."""

import hashlib
import pickle
import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from tables import SHARD, flip_a_bit, make_table, without_pages
from trainings import TINY

from gte.data.page_sums import PAGE, page_sums
from gte.data.pairs_file import leading_groups, pair_batches
from gte.data.shards import Manifest, TokenTable
from gte.data.tasks import ranges
from gte.errors import UserError


def read_all(folder: Path, manifest: Manifest, rows: np.ndarray) -> list:
    """Everything that training can ask of some rows."""
    table = TokenTable(folder, manifest, "s")
    found = [table.gather(column, rows) for column in ("query", "document")]
    found += [table.gather_negatives(rows), table.hashes("query", rows), table.hashes("document", rows)]
    found += [table.negative_hashes(rows), table.most_negatives()]
    return [np.asarray(part).tolist() for parts in found for part in (parts if isinstance(parts, tuple) else [parts])]


def read_bytes(folder: Path, manifest: Manifest) -> np.ndarray:
    """Which bytes of the one shard belong to no array and no metadata: padding, and the end mark. By Arrow alone."""
    path = folder / manifest.sources["s"]["shards"][0]["file"]
    content = pa.memory_map(str(path)).read_buffer()
    batch = pa.ipc.open_stream(content).read_next_batch()
    used = np.zeros(content.size, bool)
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size]
    used[: min(buffer.address for buffer in buffers) - content.address] = True
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        while True:
            array = column.offsets if pa.types.is_list(column.type) else column
            if (name, array.type) != ("negatives_hash", pa.int32()):  # the offsets of `negatives` serve both
                values = array.to_numpy()
                start = values.__array_interface__["data"][0] - content.address
                used[start : start + values.nbytes] = True
            if not pa.types.is_list(column.type):
                break
            column = column.values
    return used


@pytest.mark.parametrize("rows", [60, 3_000])
def test_a_flipped_bit_is_noticed_at_the_first_read_or_is_in_no_byte_that_is_read(tmp_path, rows):
    manifest, _ = make_table(tmp_path, rows, negatives=True)
    (shard,) = manifest.sources["s"]["shards"]
    path, wanted = tmp_path / shard["file"], np.arange(rows)
    intact, used, rng = path.read_bytes(), read_bytes(tmp_path, manifest), random.Random(rows)
    expected, noticed, unread = read_all(tmp_path, manifest, wanted), 0, 0
    for _ in range(200):
        data, place = bytearray(intact), rng.randrange(len(intact))
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            found = read_all(tmp_path, manifest, wanted)
        except UserError as error:
            noticed += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            unread += 1
            assert found == expected and not used[place], place
    assert noticed > 190 and noticed + unread == 200


def test_the_checksums_are_those_of_the_library_and_a_shard_is_what_it_was_before_there_were_any(tmp_path):
    manifest, _ = make_table(tmp_path, 3_000, negatives=True)
    (shard,) = manifest.sources["s"]["shards"]
    data = (tmp_path / shard["file"]).read_bytes()
    sums = np.fromfile(tmp_path / shard["pages"]["file"], "<u8").tolist()
    assert len(sums) > 50 and sums == [
        xxhash.xxh3_64(data[at : at + PAGE]).intdigest() for at in range(0, len(data), PAGE)
    ]
    assert shard["pages"]["sha256"] == hashlib.sha256(np.array(sums, "<u8").tobytes()).hexdigest()
    assert len(list(pa.ipc.open_stream(data))) == 1


def test_a_page_is_compared_once_and_only_when_a_row_of_it_is_asked_for(tmp_path, monkeypatch):
    manifest, _ = make_table(tmp_path, 3_000, negatives=False)
    compared = []

    def spy(view) -> int:
        compared.append(len(view))
        return xxhash.xxh3_64_intdigest(view)

    monkeypatch.setattr("gte.data.page_sums.xxh3_64_intdigest", spy)
    table = TokenTable(tmp_path, manifest, "s")
    assert not compared
    for _ in range(2):
        table.gather("query", np.array([1_500]))
        assert len(compared) <= 4, "the head, an offset, the ids"
    rows = np.arange(3_000)
    for column in ("query", "document"):
        table.gather(column, rows), table.hashes(column, rows)
    pages = manifest.sources["s"]["shards"][0]["bytes"] / PAGE
    assert pages - 2 <= len(compared) <= pages + 1
    again = len(compared)
    table.gather("document", rows)
    assert len(compared) == again
    pickle.loads(pickle.dumps(table)).gather("query", rows)  # another process trusts nobody
    assert len(compared) > again


def test_damage_that_comes_under_way_is_noticed_when_its_page_is_first_read(tmp_path):
    manifest, columns = make_table(tmp_path, 3_000, negatives=False)
    path = tmp_path / manifest.sources["s"]["shards"][0]["file"]
    table = TokenTable(tmp_path, manifest, "s")
    assert table.gather("query", np.array([0]))[0].tolist() == columns["query"][0]
    with open(path, "r+b") as file:
        file.seek(len(path.read_bytes()) // 2)
        file.write(b"\xff" * 16)
    with pytest.raises(
        UserError, match=r"00000\.arrow is damaged: bytes [\d,]+ to [\d,]+ are not as they were written"
    ):
        table.gather("document", np.arange(3_000))


def test_checksums_that_are_not_those_that_were_written_are_refused(tmp_path):
    manifest, _ = make_table(tmp_path, 60, negatives=False)
    sums = tmp_path / manifest.sources["s"]["shards"][0]["pages"]["file"]
    sums.write_bytes(bytes(len(sums.read_bytes())))
    with pytest.raises(UserError, match=r"00000\.pages is not the file that was written: its SHA-256 differs"):
        TokenTable(tmp_path, manifest, "s").gather("query", np.array([0]))
    with pytest.raises(UserError, match=r"00000\.pages is not the file that was written"):
        manifest.verify(tmp_path)
    sums.unlink()
    with pytest.raises(UserError, match=r"00000\.pages is missing"):
        TokenTable(tmp_path, manifest, "s").gather("query", np.array([0]))


@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops_at_the_first_altered_page_and_says_how_to_get_it_back(script, prepared, tmp_path, workers):
    shutil.copytree(prepared, tmp_path / "data")
    flip_a_bit(tmp_path / "data", None)
    settings = [*TINY, f"data.dir={tmp_path}/data", "sources=[colours]", f"workers={workers}", "stage.steps=12"]
    line = script.refused("train", *settings, "out=run")
    assert f"{SHARD} is damaged: bytes " in line and "python src/prepare.py data=" in line and "force=true" in line
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_folders_of_before_are_trained_on_with_one_note(script, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    settings = [*TINY, f"data.dir={tmp_path}/data", "stage.steps=2"]
    code, _, err = script("train", *settings, "out=new")
    assert code == 0 and "checksums of their pages" not in err, err
    without_pages(tmp_path / "data")
    code, _, err = script("train", *settings, "workers=1", "out=old")  # one note, not one of each process
    assert code == 0 and err.count("was prepared before shards had checksums of their pages: verify=true") == 1, err
    losses = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("new", "old")]
    assert len(losses[0]) == len(losses[1]) == 3


@pytest.mark.parametrize("source", ["colours", "triples"])
def test_a_flipped_bit_of_a_pairs_file_is_noticed_when_it_is_read_back_or_changes_nothing(prepared, tmp_path, source):
    path = tmp_path / "pairs.parquet"
    intact, rng = (prepared / "pairs" / f"{source}.parquet").read_bytes(), random.Random(0)
    path.write_bytes(intact)
    shutil.copy(prepared / "pairs" / f"{source}.pages", tmp_path / "pairs.pages")

    def read() -> list:
        return [ranges(path), pa.Table.from_batches(pair_batches(path, 100)).to_pylist()]

    expected, noticed = read(), 0
    for _ in range(200):
        data, place = bytearray(intact), rng.randrange(len(intact))
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            found = read()
        except (UserError, OSError, pa.ArrowException):
            noticed += 1
        else:
            assert found == expected, place
    assert noticed > 150


def test_checksums_of_another_pairs_file_are_refused(prepared, tmp_path):
    for name in ("parquet", "pages"):
        shutil.copy(prepared / "pairs" / f"colours.{name}", tmp_path)
    sums = tmp_path / "colours.pages"
    sums.write_bytes(sums.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"colours\.parquet is damaged: \d+ pages of 4 KiB were written, it"):
        list(pair_batches(tmp_path / "colours.parquet", 100))


@pytest.mark.parametrize("with_sums", [True, False])
def test_a_pairs_file_cut_anywhere_is_one_line_wherever_it_is_read(tmp_path, with_sums):
    path, rng = tmp_path / "faq.parquet", random.Random(1)
    texts = [f"{row} {rng.random()}" for row in range(3_000)]
    pq.write_table(pa.table({"query": texts, "document": texts}), path, row_group_size=500, write_page_checksum=True)
    intact = path.read_bytes()
    if with_sums:
        page_sums(path).tofile(path.with_suffix(".pages"))
    pages = [PAGE * page for page in range(len(intact) // PAGE + 1)]
    assert len(pages) > 9
    for size in [*pages, *(page + 5 for page in pages[:-1]), 4, len(intact) - 1]:
        path.write_bytes(intact[:size])
        for read in (ranges, partial(leading_groups, rows=1), lambda path: list(pair_batches(path, 100))):
            with pytest.raises(UserError, match=r"faq\.parquet is damaged.*; delete it and prepare again: only it is"):
                read(path)


def test_the_first_rows_of_a_pairs_file_are_those_of_as_few_row_groups_as_hold_them(tmp_path):
    path = tmp_path / "faq.parquet"
    pq.write_table(pa.table({"query": [str(row) for row in range(10)]}), path, row_group_size=4)
    assert [leading_groups(path, rows) for rows in (0, 1, 4, 5, 9, 99)] == [[], [0], [0], [0, 1], [0, 1, 2], [0, 1, 2]]
    batches = pair_batches(path, 100, leading_groups(path, 5), columns=["query"])
    assert [text for batch in batches for text in batch.column("query").to_pylist()][:5] == list("01234")
