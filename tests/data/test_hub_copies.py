"""A source's folder filled by `hf download` gives the files that the source would read from the hub, and no others."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gte.data import hub_files
from gte.data.hub_files import Pin
from gte.data.locate import locate
from gte.data.sources import Source, load_source, source_files
from gte.errors import UserError

ON_HUB = {name: source for name in source_files() if (source := load_source(name)).hub}
COMMIT = "a" * 40
PART = "00000-of-00001"


def own_files(source: Source) -> list[str]:
    """Paths as the data set has them for a source: of its patterns, or of its configuration, as the hub names those."""
    if source.hub_files is None:
        return [f"{source.hub_config}/{source.hub_split}-{PART}.parquet"]
    patterns = [source.hub_files] if isinstance(source.hub_files, str) else source.hub_files
    return [pattern.replace("*", PART) for pattern in patterns]


def data_set(hub: str) -> dict[str, str]:
    """The files of a whole data set by path: those of all sources in it, other splits and configurations, its card."""
    paths = {path for source in ON_HUB.values() if source.hub == hub for path in own_files(source)}
    paths |= {path.replace("train", split) for path in paths for split in ("validation", "dev", "test")}
    paths |= {path.replace("train-", "train_sft-") for path in paths} | {"queries.jsonl.gz", "notes/train.json"}
    configs = sorted({path.split("/")[0] for path in paths if "/" in path})
    paths |= {path.replace(config, f"{config}x", 1) for path in paths for config in configs}
    card = [
        {"config_name": config, "data_files": [{"split": "train", "path": f"{config}/train-*"}]} for config in configs
    ]
    head = yaml.safe_dump({"configs": card})
    return dict.fromkeys(paths, "x") | {"README.md": f"---\n{head}---\n", ".gitattributes": "x"}


def write(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def download(folder: Path, files: dict[str, str]) -> None:
    """What `hf download --local-dir` leaves: the files, and what the client notes of each."""
    write(folder, files)
    notes = dict.fromkeys((f".cache/huggingface/download/{path}.metadata" for path in files), f"{COMMIT}\netag\n1.0\n")
    write(folder, notes | {".cache/huggingface/download/old.parquet": "x", ".cache/huggingface/.gitignore": "*"})


def located(source: Source, raw: Path) -> list[str]:
    """The files that the source reads of its folder, companions included."""
    raws = locate(source.in_folder(raw), raw)
    return sorted({one.name for raw in raws for one in (raw, *raw.companions)})


@pytest.mark.parametrize("carded", [True, False], ids=["with its card", "without"])
@pytest.mark.parametrize("name", ON_HUB)
def test_a_copy_of_the_data_set_gives_the_files_that_the_source_reads_from_the_hub(tmp_path, name, carded):
    source, own = ON_HUB[name], sorted(own_files(ON_HUB[name]))
    files = data_set(source.hub)
    sizes = {path: len(text) for path, text in files.items()}
    pinned = Pin(source.hub, "main", COMMIT, sizes)
    card = pinned.file("README.md").place(tmp_path)
    write(card.parent, {card.name: files["README.md"]})  # as if downloaded
    of_hub = hub_files.find(pinned, source.hub_config, source.hub_split, source.hub_files, tmp_path)
    assert set(own) <= {file.path for file in of_hub} < set(files)
    if not carded:
        files.pop("README.md")
    download(tmp_path / name, files)
    assert located(source, tmp_path) == sorted(file.path for file in of_hub)
    if name != "lighton_curated":  # its pattern is the whole data set; its groups are sources
        assert [file.path for file in of_hub] == own


def test_the_copies_really_hold_what_is_others():
    """Else the test above would not see a source that reads all that its folder holds."""
    for name, source in ON_HUB.items():
        others = set(data_set(source.hub)) - set(own_files(source))
        assert len(others) > 4, name
        if source.hub_config:
            assert {
                f"{source.hub_config}/validation-{PART}.parquet",
                f"{source.hub_config}x/train-{PART}.parquet",
            } < others
    assert {source.hub_config is None for source in ON_HUB.values()} == {True, False}


def test_a_copy_of_other_files_alone_is_refused_with_the_command_that_gets_its_own(tmp_path):
    download(tmp_path / "nomic_gooaq", {f"data/npr-{PART}.parquet": "x"})
    download(tmp_path / "lighton_npr", {f"paq/train-{PART}.parquet": "x", f"npr/test-{PART}.parquet": "x"})
    download(tmp_path / "hotpotqa", {f"distractor/{split}-{PART}.parquet": "x" for split in ("train", "validation")})
    for name, words in {
        "nomic_gooaq": f"revision {load_source('nomic_gooaq').revision} --include README.md 'data/gooaq-*.parquet' --l",
        "lighton_npr": f"hf download {load_source('lighton_npr').hub} --repo-type dataset --include README.md 'npr/tr",
        "hotpotqa": "--revision refs/convert/parquet --include README.md 'distractor/train/*.parquet' --local-dir",
    }.items():
        with pytest.raises(UserError) as told:
            located(ON_HUB[name], tmp_path)
        line = str(told.value)
        assert line.startswith(f"source {name}: no parquet file in {tmp_path / name} is named as its files in ")
        assert words in line and f"--local-dir {tmp_path / name}" in line and "\n" not in line


def test_a_card_in_the_folder_is_believed_before_the_usual_names(tmp_path):
    card = {"configs": [{"config_name": "npr", "data_files": [{"split": "train", "path": "en/npr_*.parquet"}]}]}
    files = {"README.md": f"---\n{yaml.safe_dump(card)}---\n", "en/npr_1.parquet": "x", "npr/train-0.parquet": "x"}
    download(tmp_path / "lighton_npr", files)
    assert located(ON_HUB["lighton_npr"], tmp_path) == ["en/npr_1.parquet"]
    with pytest.raises(UserError, match=r"source lighton_npr: the card .*README\.md has no configuration 'nprr', did"):
        located(replace(ON_HUB["lighton_npr"], hub_config="nprr"), tmp_path)
    (tmp_path / "lighton_npr" / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(UserError, match=r"source lighton_npr: the card .*README\.md cannot be read: ") as told:
        located(ON_HUB["lighton_npr"], tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("npr", ["train-0.parquet", "test-0.parquet", "validation-0.parquet"], ["train-0.parquet"]),
        ("npr", ["pair/train/0000.parquet", "pair/test/0000.parquet"], ["pair/train/0000.parquet"]),
        ("npr", ["0000.parquet"], ["0000.parquet"]),
        ("npr", ["export.parquet", "part-0.parquet"], ["export.parquet", "part-0.parquet"]),
        ("npr", ["a clone/pair/train-0.parquet", "a clone/old/train-0.parquet"], ["a clone/pair/train-0.parquet"]),
        ("nomic_gooaq", ["gooaq-0.parquet", "npr-0.parquet"], ["gooaq-0.parquet"]),
        ("webquestions", ["wq-train.jsonl", "wq-dev.jsonl", "wq-test.jsonl"], ["wq-train.jsonl"]),
    ],
)
def test_files_that_were_moved_converted_or_unpacked_are_told_by_the_same_names(tmp_path, name, files, expected):
    write(tmp_path / name, dict.fromkeys(files, "x"))
    assert located(ON_HUB[name], tmp_path) == expected
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in files:
            archive.write(tmp_path / name / file, file)
            archive.writestr(f".cache/{file}", "x")
            (tmp_path / name / file).unlink()
    (tmp_path / "all.zip").rename(tmp_path / name / "all.zip")
    assert located(ON_HUB[name], tmp_path) == [f"all.zip/{path}" for path in expected]
