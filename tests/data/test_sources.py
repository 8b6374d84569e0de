"""Sources: the 33 of Table 1 and the fine-tuning sets as configuration, and what a user's own folder is taken for."""

import csv
import gzip
import io
import json
import pickle
import random
import stat
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gte.data.columns import Wanted
from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.recipe import read_recipe
from gte.data.records import Pair, Rejected, Triple
from gte.data.sources import FOLDER, Raw, Source, load_source, source_files
from gte.errors import UserError

DATA = FOLDER.parent / "data"
# Table 1: category -> (sets, millions of pairs); its printed rows add up to 789M, its total says 788M
TABLE_1 = {
    "web": (3, 147), "academic": (5, 45), "hyperlink": (4, 106), "social": (2, 327), "knowledge": (2, 38),
    "community_qa": (7, 12), "news": (5, 3), "code": (2, 20), "others": (3, 91),
}  # fmt: skip


def in_folder(category: str) -> list[Source]:
    return [load_source(path.stem) for path in sorted((FOLDER / category).glob("*.yaml"))]


def test_the_source_folders_are_table_1():
    counts = {category: len(in_folder(category)) for category in TABLE_1}
    assert counts == {category: sets for category, (sets, _) in TABLE_1.items()} and sum(counts.values()) == 33
    for category, (_, millions) in TABLE_1.items():
        sources = in_folder(category)
        assert {source.category for source in sources} == {category}
        assert {source.stages for source in sources} == {("pretrain",)}
        assert abs(sum(source.pairs for source in sources) / 1e6 - millions) < 0.55, category
    assert round(sum(source.pairs for category in TABLE_1 for source in in_folder(category)) / 1e6) == 789


def test_the_fine_tuning_sets_are_the_papers_eleven():
    assert {source.name for source in in_folder("finetune")} == {
        "msmarco", "nq", "triviaqa", "webquestions", "hotpotqa", "nli", "fever", "quora", "stackexchange_duplicates",
        "medi", "berri",
    }  # fmt: skip
    assert {source.stages for source in in_folder("finetune")} == {("finetune",)}


def test_data_pretrain_and_finetune_name_these_sources_and_demo_its_own():
    def listed(name: str) -> list[str]:
        return yaml.safe_load((DATA / f"{name}.yaml").read_text())["sources"]

    assert sorted(listed("pretrain")) == sorted(source.name for c in TABLE_1 for source in in_folder(c))
    assert sorted([*listed("finetune"), "berri"]) == sorted(source.name for source in in_folder("finetune"))
    assert sorted(listed("demo")) == sorted(source.name for source in in_folder("demo"))


@pytest.mark.parametrize("name", source_files())
def test_a_source_says_what_it_is_and_where_it_comes_from(name):
    source, text = load_source(name), source_files()[name].read_text()
    assert text.startswith("# ") and source.licence != "unknown" and source.files
    assert source.hub or source.url or source_files()[name].parent.name == "demo"
    if source.pairs and source_files()[name].parent.name != "demo":
        comment = "".join(line for line in text.splitlines() if line.startswith("#"))
        assert ("Estimate:" in comment) == source.estimate
    assert list(yaml.safe_load(text))[:4] == ["name", "category", "stages", "reader"]


def test_source_names_are_unique_over_all_folders():
    assert len(source_files()) == len(list(FOLDER.rglob("*.yaml")))


def test_an_unknown_source_is_answered_with_close_names():
    with pytest.raises(UserError, match=r"unknown source 'wikihowto', did you mean .*wikihow"):
        load_source("wikihowto")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"quary": "q"}, "unknown key 'quary', did you mean query"),
        ({"stages": ["pretraining"]}, "unknown stage 'pretraining'"),
        ({"reader": None}, "the key 'reader' is missing"),
        ({"name": "other"}, "its name is 'other', the file's is 'mine'"),
        ({"hub": "json", "hub_files": "http://x.org/a.json"}, "hub is 'json', which is no owner/name"),
        ({"hub": "/etc/data"}, "hub is '/etc/data', which is no owner/name"),
        ({"hub": "../a"}, r"hub is '\.\./a', which is no owner/name"),
        ({"hub": "a/b", "hub_files": "http://x.org/a"}, "hub_files is 'http://x.org/a', which names no files"),
        ({"hub": "a/b", "hub_files": "file:///etc/passwd"}, "hub_files is 'file:///etc/passwd', which names no files"),
        ({"hub": "a/b", "hub_files": "/etc/passwd"}, "hub_files is '/etc/passwd', which names no files"),
        ({"hub": "a/b", "hub_files": "x/../../y"}, r"hub_files is 'x/\.\./\.\./y', which names no files"),
        ({"forms": [{"hub": "file:///a"}]}, "hub is 'file:///a', which is no owner/name"),
        ({"hub": "a/b", "hub_files": ["ok", "/etc/passwd"]}, "hub_files is '/etc/passwd', which names no files"),
        ({"hub": "a/b", "revision": "../c"}, r"revision is '\.\./c', which is no branch, tag or commit"),
        ({"url": "http://x.org"}, "url is 'http://x.org'; only https:// is taken"),
        ({"options": ["header"]}, "options must be a mapping, is \\['header'\\]"),
        ({"replace": {"(": ""}}, r"replace: '\(' is no regular expression"),
    ],
)
def test_a_faulty_source_file_is_named_with_its_fault(tmp_path, change, line):
    facts = {"name": "mine", "category": "web", "stages": ["pretrain"], "reader": "jsonl"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(facts))
    assert load_source("mine", tmp_path).query is None
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**facts, **change}))
    with pytest.raises(UserError, match=line) as error:
        load_source("mine", tmp_path)
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_missing_raw_files_are_asked_for_by_folder_and_pattern(tmp_path):
    source = load_source("msmarco_documents")
    with pytest.raises(
        UserError, match=rf"no folder {tmp_path}/msmarco_documents; .* 'msmarco-docs.tsv\*' there \(from http"
    ):
        locate(source, tmp_path)
    (tmp_path / "msmarco_documents").mkdir()
    with pytest.raises(UserError, match=r"no file 'msmarco-docs.tsv\*' in"):
        locate(source, tmp_path)
    (tmp_path / "msmarco_documents" / "msmarco-docs.tsv").write_text("id\turl\tt\tb\n")
    assert [raw.name for raw in locate(source, tmp_path)] == ["msmarco-docs.tsv"]
    with pytest.raises(UserError, match="source mine: no reader for the format 'floppy'; prepare reads"):
        locate(Source("mine", "web", ("pretrain",), "floppy"), tmp_path)


def zipped(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    """A zip of these members, of which `link` is a symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFLNK | 0o777 if name == link else stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return path


WORDS = Source("words", "web", ("pretrain",), "jsonl", files="**/*.jsonl*")
LINE = b'["q", "d"]\n'


def test_a_zip_counts_as_the_folder_that_it_holds(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "plain.jsonl").write_bytes(LINE)
    members = {
        "top/a.jsonl": LINE * 2,
        "top/b.jsonl.gz": gzip.compress(LINE * 3),
        "top/c.txt": b"",
        "__MACOSX/a.jsonl": b"x",
    }
    zipped(tmp_path / "words" / "sub" / "all.zip", members)
    raws = locate(WORDS, tmp_path)
    assert [raw.name for raw in raws] == ["plain.jsonl", "sub/all.zip/top/a.jsonl", "sub/all.zip/top/b.jsonl.gz"]
    assert [len(list(WORDS.read(raw))) for raw in raws] == [1, 2, 3]
    assert raws[1].bytes == 2 * len(LINE) and len({raw.stamp for raw in raws}) == 3
    assert list(WORDS.read(pickle.loads(pickle.dumps(raws[2])))) == list(WORDS.read(raws[2]))
    (tmp_path / "words" / "sub" / "a.jsonl").write_bytes(LINE * 2)  # unpacked beside it: read once
    assert [raw.name for raw in locate(WORDS, tmp_path)] == ["plain.jsonl", "sub/a.jsonl", "sub/all.zip/top/b.jsonl.gz"]
    table = io.BytesIO()
    pq.write_table(pa.table({"query": ["q"] * 5_000, "pos": [f"d{i}" for i in range(5_000)]}), table)
    zipped(tmp_path / "words" / "more.zip", {"t.parquet": table.getvalue()})
    (raw,) = locate(replace(WORDS, reader="parquet", files="*.parquet"), tmp_path)
    assert len(list(replace(WORDS, reader="parquet").read(raw))) == 5_000


@pytest.mark.parametrize(
    ("member", "link"),
    [("../a.jsonl", None), ("x/../../a.jsonl", None), ("/tmp/a.jsonl", None), ("a.jsonl", "a.jsonl")],
)
def test_a_zip_that_leads_outside_of_itself_is_refused_by_name(tmp_path, member, link):
    path = zipped(tmp_path / "words" / "all.zip", {"good.jsonl": LINE, member: b"/etc/passwd"}, link)
    with pytest.raises(UserError, match=rf"{path} holds '{member}', which leads outside of it") as error:
        locate(WORDS, tmp_path)
    assert "\n" not in str(error.value)
    assert len(locate(replace(WORDS, files="good*"), tmp_path)) == 1  # it is not asked for


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    if kind == "encrypted":
        data[local + 6] |= 1
        data[central + 8] |= 1
    elif kind == "of an unknown method":
        data[local + 8 : local + 10] = data[central + 10 : central + 12] = b"\x55\0"
    elif kind == "damaged":
        data[local + 60 : local + 70] = b"\xff" * 10
    path.write_bytes(bytes(data[: len(data) // 2] if kind == "cut" else data))


@pytest.mark.parametrize("kind", ["encrypted", "of an unknown method", "damaged", "cut"])
def test_a_zip_that_cannot_be_unpacked_is_one_line_or_one_rejection(tmp_path, kind):
    noise = random.Random(0).randbytes(3_000).hex()
    path = zipped(tmp_path / "words" / "all.zip", {"a.jsonl": json.dumps(["q", noise]).encode() + b"\n" + LINE})
    damage(path, kind)
    if kind == "damaged":
        (raw,) = locate(WORDS, tmp_path)
        assert list(WORDS.read(raw))[-1].reason == "damaged archive"
        return
    with pytest.raises(UserError, match=r"all\.zip is no whole zip|a\.jsonl cannot be unpacked: ") as error:
        list(WORDS.read(locate(WORDS, tmp_path)[0]))
    assert "\n" not in str(error.value)


def test_a_zip_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("gte.data.raw_lines.BOMB_BYTES", 2**16)
    zipped(tmp_path / "words" / "all.zip", {"a.jsonl": LINE * 200_000})
    *pairs, last = WORDS.read(locate(WORDS, tmp_path)[0])
    assert last == Rejected("archive bomb", len(pairs)) and 0 < len(pairs) < 200_000


def test_files_and_folders_that_lead_out_of_the_raw_folder_are_refused(tmp_path):
    raw, outside = tmp_path / "raw", tmp_path / "outside"
    (raw / "words").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.jsonl").write_bytes(LINE)
    zipped(outside / "secret.zip", {"a.jsonl": LINE})
    line = rf"source words: .*secret\.(jsonl|zip) leads to {outside}.*, outside of {raw}; .* paths.raw=FOLDER"
    for change in ({"files": "../../outside/*.jsonl"}, {"folder": "../outside"}, {"folder": str(outside)}):
        with pytest.raises(UserError, match=line):
            locate(replace(WORDS, **change), raw)
    with pytest.raises(UserError, match="is no glob within a folder"):
        locate(replace(WORDS, files=str(outside / "*.jsonl")), raw)
    for name in ("secret.jsonl", "secret.zip"):
        (raw / "words" / name).symlink_to(outside / name)
        with pytest.raises(UserError, match=line):
            locate(WORDS, raw)
        (raw / "words" / name).unlink()
    (raw / "linked").symlink_to(outside)
    with pytest.raises(UserError, match=line.replace("words", "words")):
        locate(replace(WORDS, folder="linked"), raw)
    (raw / "words" / "a.jsonl").write_bytes(LINE)
    (raw / "words" / "loop").symlink_to(raw / "words")
    (raw / "words" / "b.jsonl").symlink_to(raw / "words" / "a.jsonl")  # within the raw folder: as good as a copy
    assert [found.name for found in locate(WORDS, raw)] == ["a.jsonl", "b.jsonl"]


def test_an_option_that_a_reader_does_not_have_is_named_with_those_it_has(tmp_path):
    (tmp_path / "words").mkdir()
    with pytest.raises(UserError, match=r"source words: jsonl has no option 'delimiter'; it has: max_line"):
        locate(replace(WORDS, options={"delimiter": ";"}), tmp_path)


def test_without_a_folder_the_hub_is_asked_and_its_refusal_is_one_line(tmp_path):
    """The tests' hub is out of reach; test_hub_sources.py has others."""
    with pytest.raises(UserError) as error:
        locate(load_source("yahoo_title_answer"), tmp_path)
    line = str(error.value)
    assert line.startswith("source yahoo_title_answer: the hub did not give the files of sentence-transformers/yahoo-")
    assert "\n" not in line and "yahoo_answers_title_answer.jsonl*" in line


def make_folder(folder: Path) -> None:
    (folder / "auto.jsonl").write_text(json.dumps({"query": "q", "pos": "d", "neg": ["n"]}))
    (folder / "lists.jsonl").write_text(json.dumps(["q", "d"]))
    (folder / "named.jsonl").write_text(json.dumps({"id": "x", "title": "q", "body": "d"}))
    (folder / "other.jsonl").write_text(json.dumps({"n": 1, "left": "q", "right": "d"}))
    (folder / "plain.tsv").write_text("q\td\n")
    (folder / "headed.tsv").write_text("question\tanswer\nq\td\n")
    with open(folder / "quoted.csv", "w", newline="") as file:
        csv.writer(file).writerows([["sent0", "sent1", "hard_neg"], ["q", "d", "n"]])
    pq.write_table(pa.table({"document": ["d"], "query": ["q"]}), folder / "table.parquet")
    (folder / "notes.md").write_text("no pairs")


def test_a_users_folder_is_understood_file_by_file(tmp_path):
    make_folder(tmp_path)
    found = {}
    for source in infer_sources(tmp_path):
        (raw,) = locate(source, tmp_path)
        (found[source.name],) = source.read(raw)
        assert source.stages == ("pretrain", "finetune") and raw.path.name == raw.name
    assert set(found) == {"auto", "lists", "named", "other", "plain", "headed", "quoted", "table"}
    assert {(record.query, record.document) for record in found.values()} == {("q", "d")}
    assert Counter(type(record) for record in found.values()) == {Pair: 6, Triple: 2}


def test_a_zip_among_a_users_files_is_none_of_them(tmp_path):
    (tmp_path / "a.tsv").write_text("q\td\n")
    (tmp_path / "a.zip").write_bytes(b"no zip")
    (source,) = infer_sources(tmp_path)
    assert [raw.name for raw in locate(source, tmp_path)] == ["a.tsv"]


def test_header_can_be_stated_where_names_do_not_tell(tmp_path):
    (tmp_path / "a.tsv").write_text("left\tright\nq\td\n")
    for header, pairs in ((None, 2), (False, 2), (True, 1)):
        (source,) = infer_sources(tmp_path, Wanted(header=header))
        assert len(list(source.read(Raw("a.tsv", tmp_path / "a.tsv")))) == pairs


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "holds no .jsonl, .csv, .tsv or .parquet file"),
        ({"a.jsonl": '["q", "d"]', "a.tsv": "q\td"}, "two files for the source 'a'"),
        ({"a.jsonl": '{"only": "one"}'}, "a query and a document are needed"),
        ({"a.jsonl": "no json\n"}, "holds no JSON row"),
        ({"a.tsv": "one\n"}, "has one column"),
        ({"a.parquet": "no parquet"}, "a.parquet is no parquet file"),
    ],
)
def test_a_folder_that_is_not_understood_is_answered_with_one_line(tmp_path, files, line):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=line) as error:
        infer_sources(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no folder"):
        infer_sources(tmp_path / "nowhere")


def test_recipes_refuse_what_they_do_not_know(tmp_path):
    make_folder(tmp_path)
    data = {"name": "x", "dir": "y", "alpha": 0.5, "sources": None, "path": str(tmp_path)}
    assert len(read_recipe(data).sources) == 8
    assert [source.name for source in read_recipe({**data, "sources": ["plain"]}).sources] == ["plain"]
    for change, line in (
        ({"path": None}, "data.path=FOLDER"),
        ({"sources": ["nowhere"]}, "no file for 'nowhere'; it has: auto"),
        ({"vocabulary": 3}, "unknown key 'data.vocabulary'"),
        ({"path": None, "raw": tmp_path, "sources": ["nprr"]}, "unknown source 'nprr', did you mean npr"),
        ({"triples": {"t": {"from": "plain"}}}, "data.triples: .*'from'"),
    ):
        with pytest.raises(UserError, match=line):
            read_recipe({**data, **change})
