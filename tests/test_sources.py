"""Sources: the 33 of Table 1 and the fine-tuning sets as configuration, and what a user's own folder is taken for."""

import csv
import json
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gte.data.prepare import read_recipe
from gte.data.records import Pair, Rejected, Triple
from gte.data.sources import FOLDER, Raw, Source, infer_sources, load_source, locate, source_files
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


def test_without_a_folder_the_hub_is_asked_and_its_refusal_is_one_line(monkeypatch, tmp_path):
    source = load_source("yahoo_title_answer")
    (raw,) = locate(source, tmp_path)
    assert raw.name == "hub:sentence-transformers/yahoo-answers/title-answer-pair/train" and raw.path is None
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        return iter([{"title": "q", "answer": "d"}, {"title": "q", "answer": ""}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(source.read(raw)) == [Pair("q", "d", 1), Rejected("empty document", 2)]
    assert asked == [(
        ("sentence-transformers/yahoo-answers", "title-answer-pair"),
        {"data_files": None, "split": "train", "streaming": True},
    )]  # fmt: skip

    def offline(*_, **__):
        raise ConnectionError("Couldn't reach it\nand a long explanation")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError) as error:
        list(source.read(raw))
    line = str(error.value)
    assert "\n" not in line and "yahoo_title_answer" in line and "yahoo_answers_title_answer.jsonl.gz" in line


def make_folder(folder: Path) -> None:
    (folder / "auto.jsonl").write_text(json.dumps({"query": "q", "pos": "d", "neg": ["n"]}))
    (folder / "lists.jsonl").write_text(json.dumps(["q", "d"]))
    (folder / "named.jsonl").write_text(json.dumps({"id": "x", "title": "q", "body": "d"}))
    (folder / "other.jsonl").write_text(json.dumps({"n": 1, "left": "q", "right": "d"}))
    (folder / "plain.tsv").write_text("q\td\tthird\n")
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


def test_header_can_be_stated_where_names_do_not_tell(tmp_path):
    (tmp_path / "a.tsv").write_text("left\tright\nq\td\n")
    for header, pairs in ((None, 2), (False, 2), (True, 1)):
        (source,) = infer_sources(tmp_path, header)
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
