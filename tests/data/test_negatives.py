"""Hard negatives: none is a text of its own row, and the rules of documents hold for them, however rows are read."""

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from gte.data import pairs
from gte.data.columnar.read import read_columns
from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.pairs import make_pairs
from gte.data.prepare import prepare
from gte.data.recipe import Recipe
from gte.data.records import Fields, Rejected, Triple, records
from gte.data.sources import Source

OWN = "text of its own pair"
SPELT = [str.upper, str.title, lambda text: text.replace(" ", "\u3000 \n"), lambda text: f" {text} ", str]
WORDS = ["İstanbul", "ΟΔΟΣ", "\u212aelvin", "two words", "é clair", "两个", "x"]
FIELDS = {"query": "query", "document": "pos", "negatives": "neg"}


def plain(text: str) -> str:
    """The oracle's text: lower case, one blank for any white space."""
    return re.sub(r"\s+", " ", text.lower()).strip()


def make_rows(rng: random.Random, count: int, several: bool) -> list[dict]:
    """Rows of which many negatives are their query or a document of theirs in another spelling."""
    rows = []
    for number in range(count):
        query = f"{rng.choice(WORDS)} q{number % 90}"
        texts = [f"{rng.choice(WORDS)} d{number % 70} {place}" for place in range(rng.randint(1, 3) if several else 1)]
        negatives = [f"{rng.choice(WORDS)} n{rng.randrange(9)}" for _ in range(rng.randrange(4))]
        if rng.random() < 0.3:
            negatives.insert(rng.randrange(len(negatives) + 1), rng.choice(SPELT)(rng.choice([query, *texts])))
        rows.append({"query": query, "pos": texts if several else texts[0], "neg": negatives})
    return rows


def expected(rows: list[dict]) -> tuple[dict, int]:
    """The negatives of each pair, of all its rows, and how many are a text of their row, once a pair."""
    found: dict[tuple[str, str], list[str]] = {}
    own_count = 0
    for row in rows:
        texts = row["pos"] if isinstance(row["pos"], list) else [row["pos"]]
        own = {plain(text) for text in (row["query"], *texts)}
        for text in texts:
            kept = found.setdefault((row["query"], text), [])
            for negative in row["neg"]:
                if plain(negative) in own:
                    own_count += 1
                elif negative not in kept:
                    kept.append(negative)
    return found, own_count


def kept_pairs(path: Path) -> dict:
    rows = pd.read_parquet(path)
    lists = ([] if one is None else list(one) for one in rows["negatives"])
    return dict(zip(zip(rows["query"], rows["document"], strict=True), lists, strict=True))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_no_negative_is_a_text_of_its_own_row_up_to_case_and_white_space(tmp_path, monkeypatch, suffix, several):
    monkeypatch.setattr(pairs, "BUCKET_BYTES", 2_000)
    rows = make_rows(random.Random(several), 600, several)
    (tmp_path / "raw").mkdir()
    if suffix == "jsonl":
        (tmp_path / "raw" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame(rows).to_parquet(tmp_path / "raw" / "a.parquet")
    source = Source("s", "web", ("pretrain",), suffix, files="a.*", folder=".", **FIELDS)
    found, own = expected(rows)
    batches = [one for raw in locate(source, tmp_path / "raw") for one in read_columns(source, raw)]
    assert any(len(one) > 100 and one.column("negatives").null_count < len(one) // 2 for one in batches
               if hasattr(one, "column")) != several  # fmt: skip
    tally = make_pairs(source, locate(source, tmp_path / "raw"), tmp_path / "pairs", tmp_path / "work", max_rejected=0)
    assert kept_pairs(tmp_path / "pairs") == found and tally.dropped == {OWN: own} and own > 150


def test_a_pair_keeps_the_negatives_that_are_no_text_of_its_row():
    row = {"query": "How to build item3", "pos": ["Item3 Is built by step3"],
           "neg": ["how to build ITEM3", "item3 is built by step3", "something else"]}  # fmt: skip
    (record,) = records(row, Fields(), 1)
    assert record.negatives == ["something else"] and record.dropped == (OWN, OWN)
    first, second = records({"query": "q", "pos": ["a", "b"], "neg": ["b"]}, Fields(), 1)
    assert not isinstance(first, Triple) and not isinstance(second, Triple) and first.dropped == (OWN,)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_null_among_negatives_is_as_an_empty_one(tmp_path, suffix):
    lists = [["n1", None], [None], None, ["n2"], ["", "n3", None], []]
    frame = pd.DataFrame({"query": [f"q {n}" for n in range(6)], "pos": [f"d {n}" for n in range(6)], "neg": lists})
    if suffix == "parquet":
        frame.to_parquet(tmp_path / "a.parquet")
    else:
        frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    source = Source("s", "web", ("pretrain",), suffix, files="a.*", folder=".", **FIELDS)
    tally = make_pairs(source, locate(source, tmp_path), tmp_path / "pairs", tmp_path / "work", max_rejected=0)
    found = {query: texts for (query, _), texts in kept_pairs(tmp_path / "pairs").items()}
    assert found == {"q 0": ["n1"], "q 1": [], "q 2": [], "q 3": ["n2"], "q 4": ["n3"], "q 5": []}
    assert not tally.rejected and not tally.dropped


def test_a_negative_of_no_text_is_still_a_fault_of_its_row():
    (record,) = records({"query": "q", "pos": "d", "neg": ["n", 1]}, Fields(), 1)
    assert record == Rejected("wrong type of negatives", 1)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lengths_and_replacements_of_documents_are_those_of_negatives(tmp_path, suffix):
    texts = ["short", "passage: of a good length", "passage: " + "long " * 20, "a fitting text"]
    rows = [
        {"query": f"a query {n}", "pos": f"its document {n}", "neg": texts if n % 2 else texts[:2] + texts[3:]}
        for n in range(40)
    ]
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "a.parquet") if suffix == "parquet" else frame.to_json(
        tmp_path / "a.jsonl", orient="records", lines=True
    )
    limits = {"min_document": 8, "max_document": 40}
    dropped = {"filtered: document over 40 characters": 20, "filtered: document under 8 characters": 40}
    for replace, prefix in (({}, "passage: "), ({"^passage: ": ""}, "")):
        source = Source("s", "web", ("pretrain",), suffix, files="a.*", folder=".", **FIELDS, **limits, replace=replace)
        tally = make_pairs(source, locate(source, tmp_path), tmp_path / "pairs", tmp_path / "work", max_rejected=0)
        assert set(map(tuple, kept_pairs(tmp_path / "pairs").values())) == {
            (f"{prefix}of a good length", "a fitting text")
        }
        assert tally.dropped == dropped


def test_mined_negatives_that_are_texts_of_their_pair_are_dropped_and_told(tmp_path):
    pairs_of = [("A query", "Its document"), ("Other query", "Other document")]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(json.dumps({"query": q, "pos": d}) for q, d in pairs_of))
    mined = [{"query": q, "pos": d, "neg": [q.upper(), d.lower(), f"near {d}"]} for q, d in pairs_of]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, mined)).encode()))
    (source,) = infer_sources(tmp_path / "raw")
    source = Source(**{**vars(source), "mined": str(tmp_path / "a.jsonl.gz")})
    said: list[str] = []
    prepare(Recipe("test", [source], tmp_path / "raw", vocab_size=300), tmp_path / "out", report=said.append)
    found = kept_pairs(tmp_path / "out" / "pairs" / "a.parquet")
    assert found == {(q, d): [f"near {d}"] for q, d in pairs_of}
    assert Counter(line.strip() for line in said)[f"dropped 4 negatives: {OWN}"] == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["sources"]["a"]["dropped"] == {OWN: 4}


def test_a_null_among_passages_is_as_one_without_a_text(tmp_path):
    passages = [None, {"title": "t", "text": "x"}, {"title": "t"}]
    row = {"question": "q", "positive_ctxs": [{"title": "d", "text": "y"}], "hard_negative_ctxs": passages}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    fields = {"query": "question", "document": "positive_ctxs", "negatives": "hard_negative_ctxs"}
    source = Source("s", "web", ("pretrain",), "passages", files="a.json", folder=".", **fields)
    (record,) = [record for raw in locate(source, tmp_path) for record in source.read(raw)]
    assert record[:3] == ("q", "d: y", ["t: x"])
