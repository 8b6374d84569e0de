"""Pairs that are held out become tasks of the same rows anywhere; ablations' pages show what their files hold."""

import gzip
import json
import sys

import pytest
from conftest import ROOT

from gte.data.task_folder import Folder
from gte.evaluation.local import read_retrieval

sys.path.insert(0, str(ROOT / "experiments"))

import held_out

EXPERIMENTS = ROOT / "experiments"


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path):
    for number, name in enumerate(held_out.KINDS.values()):
        rows = [{"query": f"what is thing {k} of {number}", "pos": f"it is {k} of {number}"} for k in range(20)]
        rows += [rows[3] | {"pos": "another"}, {"query": "a fifth one", "pos": "short"}]
        write(tmp_path / "data/pairs" / f"{name}.jsonl.gz", rows)
    code = [{"docstring": f"Adds {k}.", "code": f"def add{k}"} for k in range(3)]
    write(tmp_path / "data/eval/CodeSearchNet/ruby_test.jsonl.gz", code)
    for test in held_out.TESTS:
        (tmp_path / "data/eval" / test).mkdir()
        (tmp_path / "data/eval" / test / "test.jsonl").write_text(test)
    return tmp_path / "data"


def test_held_out_pairs_are_tasks_in_which_each_query_has_its_own_document(data, tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "SIZE", 15)
    held_out.main(data, tmp_path / "out")
    found, notes = read_retrieval(Folder(tmp_path / "out/HeldArxiv"), "test")
    assert not notes and len(found["queries"]) == len(found["corpus"]) == 15
    asked = dict(zip(found["queries"]["id"], found["queries"]["text"], strict=True))
    documents = dict(zip(found["corpus"]["id"], found["corpus"]["text"], strict=True))
    for query, judged in found["relevant_docs"].items():
        (document,) = judged
        number = asked[query].split()[3]
        assert documents[document] in (f"it is {number} of 0", "another")  # thing 3 has two, of which one is asked for
    assert "short" not in documents.values()
    ruby, _ = read_retrieval(Folder(tmp_path / "out/Ruby"), "test")
    assert list(ruby["corpus"]["text"]) == ["def add0", "def add1", "def add2"]
    assert (tmp_path / "out/SciFact/test.jsonl").read_text() == "SciFact"


def test_the_same_pairs_are_held_out_in_any_order_of_the_file(data, tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "SIZE", 15)
    held_out.main(data, tmp_path / "one")
    file = data / "pairs/arxiv_title_abstract.jsonl.gz"
    write(file, list(held_out.read(file))[::-1])
    held_out.main(data, tmp_path / "two")
    texts = [(tmp_path / name / "HeldArxiv/corpus.jsonl").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1] and texts[0].count("\n") == 15


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.rglob("table.md")), ids=lambda file: file.parent.name)
def test_the_page_of_an_ablation_shows_each_row_of_its_table(file):
    folder = next(parent for parent in file.parents if (parent / "README.md").exists())
    page = (folder / "README.md").read_text()
    missing = [row for row in file.read_text().splitlines() if row not in page]
    assert not missing
