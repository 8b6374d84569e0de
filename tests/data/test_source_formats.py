"""Every source of data=pretrain and data=finetune prepares from raw files of its own format, written here."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from raw_forms import RAW, Texts, write

from gte.data.locate import locate
from gte.data.pairs import make_pairs
from gte.data.readers import JOINS, READERS, join, reader
from gte.data.sources import FOLDER, load_source, source_files
from gte.errors import UserError


def texts_in(path: Path) -> Texts:
    rows = pq.read_table(path).to_pylist()
    return sorted(
        (row["query"], row["document"], *([row["negatives"]] if row.get("negatives") else [])) for row in rows
    )


def listed(data: str) -> list[str]:
    return yaml.safe_load((FOLDER.parent / "data" / f"{data}.yaml").read_text())["sources"]


def test_the_table_of_raw_forms_has_every_source_and_every_form_of_it():
    elsewhere = {"demo", "open", "own"}  # open/: test_hub_sources.py
    named = [name for name, path in source_files().items() if path.relative_to(FOLDER).parts[0] not in elsewhere]
    forms = [(name, place) for name in named for place in range(len(load_source(name).forms))]
    assert set(RAW) == {*named, *forms} and len(named) == 33 + 11


@pytest.mark.parametrize("name", sorted(name for name in RAW if isinstance(name, str)))
def test_the_readers_of_a_source_exist_and_take_its_options(tmp_path, name):
    write(tmp_path / name, {"a file": b""})
    source = load_source(name)
    for form in [source, *(replace(source, **form) for form in source.forms)]:
        assert callable(reader(form.reader)) and (form.reader in JOINS) == (join(form.reader) is not None)
        assert [raw.name for raw in locate(replace(form, files="*"), tmp_path)] == ["a file"]


def test_every_named_reader_is_some_sources():
    sources = [load_source(name) for name in source_files()]
    used = {source.reader for source in sources} | {form.get("reader") for source in sources for form in source.forms}
    assert used - {None} == set(READERS) - {"json", "squad"}  # which are for users' own files


@pytest.mark.parametrize("data", ["pretrain", "finetune"])
def test_all_sources_prepare_by_one_command_from_files_of_their_formats(script, tmp_path, small_model, data):
    for name in listed(data):
        write(tmp_path / "raw" / name, RAW[name][0])
    settings = [
        f"data={data}",
        "paths.raw=raw",
        f"data.tokenizer={small_model}",
        "data.dir=out",
        "data.max_rejected=0.4",  # some have a faulty row of three
    ]
    code, _, err = script("prepare", *settings)
    assert code == 0, err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["sources"]) == listed(data)
    for name, facts in manifest["sources"].items():
        assert texts_in(tmp_path / "out" / "pairs" / f"{name}.parquet") == sorted(RAW[name][1]), name
        assert facts["read"] == facts["kept"] + facts["duplicates"] + sum(facts["rejected"].values())
        assert facts["kept"] == len(RAW[name][1])


@pytest.mark.parametrize("key", [key for key in RAW if isinstance(key, tuple)], ids=lambda key: f"{key[0]}-{key[1]}")
def test_the_other_forms_of_a_source_give_the_same_kind_of_pairs(tmp_path, key):
    (name, place), (files, texts) = key, RAW[key]
    write(tmp_path / name, files)
    source = load_source(name).in_folder(tmp_path)
    assert source.files == load_source(name).forms[place]["files"]
    make_pairs(source, locate(source, tmp_path), tmp_path / "pairs.parquet", tmp_path / "work", max_rejected=0.5)
    assert texts_in(tmp_path / "pairs.parquet") == sorted(texts)


def test_two_forms_in_one_folder_are_refused_and_where_there_is_none_all_are_named(tmp_path):
    source = load_source("stackoverflow")
    write(tmp_path / "stackoverflow", {"notes.txt": b"nothing"})
    with pytest.raises(UserError, match=r"no file 'stackoverflow\.com-Posts\.jsonl\*' or '\*\*/\*Posts\.xml\*' in"):
        locate(source.in_folder(tmp_path), tmp_path)
    for key in ("stackoverflow", ("stackoverflow", 0)):
        write(tmp_path / "stackoverflow", RAW[key][0])
    with pytest.raises(UserError, match=r"holds files '.*jsonl\*' and files '.*Posts\.xml\*', two forms of the same"):
        source.in_folder(tmp_path)
