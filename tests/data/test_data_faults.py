"""Prepared folders with one fault each: refused by name before the first step, what sizes hide by verify=true."""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from tables import SHARD, flip_a_bit, make_table, without_pages
from tokenizers import processors
from trainings import TINY

from gte.data.module import PairData, prepared_tokenizer
from gte.data.prepare import prepare
from gte.data.recipe import read_recipe
from gte.data.shards import MANIFEST, Manifest, TokenTable, views
from gte.errors import UserError
from gte.stage import Stage


@pytest.fixture(scope="session")
def other_tokenizer(prepared, tmp_path_factory) -> Path:
    """The same raw files prepared with another vocabulary."""
    out = tmp_path_factory.mktemp("other") / "data"
    stated = {"name": "local", "dir": str(out), "alpha": 0.5, "sources": None, "path": str(prepared.parent / "raw")}
    prepare(read_recipe({**stated, "vocab_size": 200}), out, report=lambda line: None)
    return out


def truncate(folder: Path, _) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-8])


def remove(folder: Path, _) -> None:
    (folder / SHARD).unlink()


def swap_shard(folder: Path, other: Path) -> None:
    shutil.copy(other / SHARD, folder / SHARD)


def swap_shard_of_the_same_size(folder: Path, other: Path) -> None:
    size, data = (folder / SHARD).stat().st_size, (other / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[:size].ljust(size, b"\0"))


def swap_shards_and_manifest(folder: Path, other: Path) -> None:
    for part in ("shards", MANIFEST):
        target = folder / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        (shutil.copytree if (other / part).is_dir() else shutil.copy)(other / part, target)


def swap_tokenizer(folder: Path, other: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(other / "tokenizer", folder / "tokenizer")


def edit(change: Callable[[dict], None]) -> Callable[[Path, Path], None]:
    def fault(folder: Path, _) -> None:
        facts = json.loads((folder / MANIFEST).read_text())
        change(facts)
        (folder / MANIFEST).write_text(json.dumps(facts))

    return fault


def fewer_rows(facts: dict) -> None:
    facts["sources"]["colours"]["kept"] -= 1


def another_fingerprint(facts: dict) -> None:
    facts["tokenizer"]["fingerprint"] = "0" * 64


def cut_manifest(folder: Path, _) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:-200])


EDITED = r"manifest\.json is not as prepare wrote it"
FAULTS = [
    (truncate, False, r"shards/colours/00000\.arrow has [\d,]+ bytes, [\d,]+ were written"),
    (remove, False, r"shards/colours/00000\.arrow is missing"),
    (swap_shard, False, r"shards/colours/00000\.arrow has [\d,]+ bytes, [\d,]+ were written"),
    (
        swap_tokenizer,
        False,
        r"were made with the tokenizer 'WordPiece trained on these pairs', the model reads another",
    ),
    (swap_shards_and_manifest, False, r"were made with the tokenizer .*, the model reads another"),
    (edit(fewer_rows), False, EDITED),
    (edit(another_fingerprint), False, EDITED),
    (cut_manifest, False, r"manifest\.json is no manifest of prepare"),
    (flip_a_bit, True, r"shards/colours/00000\.arrow is not the file that was written: its SHA-256 differs"),
    (swap_shard_of_the_same_size, True, r"shards/colours/00000\.arrow is not the file that was written"),
]


def start(folder: Path, verify: bool) -> None:
    """What training does before its first step, with a model that reads the folder's tokenizer."""
    stage = Stage("pretrain", 32, 16, 1, None, 1, 1.0, None, 1024, 0.0)
    data = PairData(folder, stage, alpha=0.5, seed=0, verify=verify)
    data.check_encoder(SimpleNamespace(tokenizer=prepared_tokenizer(folder), max_length=128))
    data.prepare_data()


def check(folder: Path, tokenizer) -> None:
    """What training asks of a model that reads texts by this tokenizer."""
    stage = Stage("pretrain", 32, 16, 1, None, 1, 1.0, None, 1024, 0.0)
    PairData(folder, stage, alpha=0.5, seed=0).check_encoder(SimpleNamespace(tokenizer=tokenizer, max_length=128))


def test_a_model_that_adds_a_token_or_leaves_one_out_around_texts_does_not_fit_the_data(prepared):
    added, bare, left = (prepared_tokenizer(prepared) for _ in range(3))
    check(prepared, added)
    added.add_tokens(["[QUERY]"])
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    left.truncation_side = "left"
    for tokenizer, line in ((added, "reads another one"), (bare, "reads another one"), (left, "truncation_side")):
        with pytest.raises(UserError, match=line):
            check(prepared, tokenizer)


@pytest.mark.parametrize("added", [[], ["[QUERY]"]])
def test_data_of_the_first_manifests_fit_the_tokenizer_that_lies_beside_them(prepared, tmp_path, added):
    """Their fingerprint knew nothing of added tokens: the tokenizer in the folder does."""
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    tokenizer = prepared_tokenizer(folder)
    tokenizer.add_tokens(added)
    tokenizer.save_pretrained(folder / "tokenizer")
    manifest = Manifest.load(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    first = json.dumps({key: state[key] for key in ("model", "normalizer", "pre_tokenizer")}, sort_keys=True)
    manifest.tokenizer["fingerprint"] = sha256(first.encode()).hexdigest()
    manifest.save(folder)
    check(folder, prepared_tokenizer(folder))
    other = prepared_tokenizer(prepared if added else folder)
    other.add_tokens([] if added else ["[QUERY]"])
    with pytest.raises(UserError, match="reads another one"):
        check(folder, other)


@pytest.mark.parametrize(("fault", "hidden", "line"), FAULTS)
def test_each_fault_is_refused_by_name(prepared, other_tokenizer, tmp_path, fault, hidden, line):
    """Faults that leave every size alone are `hidden`: reading all shards finds them, opening them does not."""
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    start(folder, verify=True)
    fault(folder, other_tokenizer)
    if hidden:
        start(folder, verify=False)
    with pytest.raises(UserError, match=line) as error:
        start(folder, verify=hidden)
    assert "\n" not in str(error.value)


def test_training_with_verify_stops_before_the_first_step(script, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    settings = [*TINY, f"data.dir={tmp_path}/data", "stage.steps=1"]
    assert script("train", *settings, "verify=true", "out=whole")[0] == 0
    flip_a_bit(tmp_path / "data", None)
    line = script.refused("train", *settings, "verify=true", "out=run")
    assert "colours/00000.arrow is not the file that was written" in line
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_whatever_bit_of_a_shard_is_flipped_reading_it_gives_rows_of_our_kind_or_is_refused(tmp_path):
    """Of a folder of before pages had checksums: no other exception, no crash, no text longer than any written."""
    manifest, _ = make_table(tmp_path, 60, negatives=True)
    without_pages(tmp_path)
    manifest = Manifest.load(tmp_path)
    manifest.tokenizer["max_tokens"] = 40
    path = tmp_path / manifest.sources["s"]["shards"][0]["file"]
    whole, rng, rows = path.read_bytes(), random.Random(0), np.arange(60)
    told: Counter[str] = Counter()
    for _ in range(600):
        data, place = bytearray(whole), rng.randrange(len(whole))
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            table = TokenTable(tmp_path, manifest, "s")
            for column in ("query", "document"):
                assert table.gather(column, rows)[1].max() <= 40 and len(table.hashes(column, rows)) == 60
            flat, lengths, counts = table.gather_negatives(rows)
            assert len(flat) == lengths.sum() and len(lengths) == counts.sum() == len(table.negative_hashes(rows))
        except UserError as error:
            assert "00000.arrow" in str(error) and "\n" not in str(error)
            told["damaged" if "lists make no sense" in str(error) else "no shard"] += 1
    assert told["damaged"] > 20 and told["no shard"] > 20 and told.total() < 300


def set_word(folder: Path, column: str, level: int, value: int) -> None:
    """Changes one number of a column of the first shard: level 0 is its offsets, the last its ids."""
    data = bytearray((folder / SHARD).read_bytes())
    numbers = views(pa.ipc.open_stream(pa.py_buffer(bytes(data))).read_next_batch().column(column))[level]
    place = bytes(data).index(numbers.tobytes())
    middle = place + len(numbers) // 2 * numbers.itemsize
    data[middle : middle + numbers.itemsize] = np.array([value], numbers.dtype).tobytes()
    (folder / SHARD).write_bytes(data)


@pytest.mark.parametrize(
    ("level", "value", "line"),
    [
        (-1, 65_000, r"step \d+: source colours holds the token id 65000, the model has \d+: a shard of it is damaged"),
        (
            0,
            2**30,
            r"shards/colours/00000\.arrow is damaged: its lists make no sense; prepare again with force=true",
        ),
    ],
)
def test_training_stops_in_one_line_at_the_first_row_that_cannot_be(script, prepared, tmp_path, level, value, line):
    """Sizes are right and there are no checksums of pages. Rows are read by another process, as they are by default."""
    shutil.copytree(prepared, tmp_path / "data")
    without_pages(tmp_path / "data")
    set_word(tmp_path / "data", "document", level, value)
    settings = [*TINY, f"data.dir={tmp_path}/data", "sources=[colours]", "workers=1", "stage.steps=12"]
    assert re.search(line, script.refused("train", *settings, "out=run"))


def test_a_manifest_laid_out_anew_is_the_same_manifest(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    edit(lambda facts: None)(tmp_path / "data", tmp_path)
    start(tmp_path / "data", verify=True)
