"""Hard negatives: near the query by BM25, and never one of its positives."""

import gzip
import json
import random
from collections import defaultdict

import bm25s
import numpy as np
import pytest

from gte.data.mining import best, mine_bm25, mine_file, rank_bm25
from gte.data.sources import infer_sources, locate
from gte.errors import UserError

WORDS = [f"word{i}" for i in range(60)]


def make_pairs(seed: int, count: int) -> tuple[list[str], list[str]]:
    """Queries that repeat, documents that share words with them, some documents equal up to case and space."""
    rng = random.Random(seed)
    queries, documents = [], []
    for _ in range(count):
        words = rng.choices(WORDS, k=3)
        queries.append(" ".join(words[: rng.choice([1, 3])]))
        document = " ".join(rng.sample(words, 3) + rng.choices(WORDS, k=rng.choice([0, 6])))
        document = rng.choice(documents) if documents and rng.random() < 0.2 else document
        documents.append(rng.choice([document, document.upper(), f" {document}  "]))
    return queries, documents


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def test_negatives_are_documents_of_others_and_never_equal_to_a_positive_or_the_query():
    queries, documents = make_pairs(0, 600)
    queries[5] = documents[9]  # a query that is itself a document
    positives = defaultdict(set)
    for query, document in zip(queries, documents, strict=True):
        positives[plain(query)].add(plain(document))
    assert max(map(len, positives.values())) > 5 and len(set(map(plain, documents))) < len(set(documents))
    found = mine_bm25(queries, documents, negatives=8, depth=30)
    assert len(found) == 600 and np.mean([len(texts) for texts in found]) > 7
    for query, texts in zip(queries, found, strict=True):
        assert set(texts) <= set(documents) and len({plain(text) for text in texts}) == len(texts) <= 8
        assert not {plain(text) for text in texts} & (positives[plain(query)] | {plain(query)})


def scores_of(queries: list[str], documents: list[str]) -> np.ndarray:
    """Oracle: bm25s itself, query by query."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
    rows = []
    for words in bm25s.tokenize(queries, return_ids=False, show_progress=False):
        known = [word for word in words if word in index.vocab_dict]
        rows.append(index.get_scores(known) if known else np.zeros(len(documents)))
    return np.array(rows)


@pytest.mark.parametrize("depth", [1, 7, 1_000])
def test_ranks_are_those_of_bm25s(depth):
    queries, documents = make_pairs(1, 700)
    queries += ["nothing known", "the of", ""]
    found = list(rank_bm25(queries, documents, [depth] * len(queries)))
    assert found[-3:] == [[], [], []]
    for row, ranking in zip(scores_of(queries, documents), found, strict=True):
        order = np.lexsort((np.arange(len(row)), -row))
        assert ranking == [number for number in order if row[number] > 0][:depth]


def test_negatives_come_from_the_ranks_asked_for_best_first():
    queries, documents = make_pairs(2, 900)
    corpus = list({plain(text): text for text in reversed(documents)}.values())  # first of equal ones
    scores = dict(zip(map(plain, corpus), scores_of(queries[:40], corpus).T, strict=True))
    every = mine_bm25(queries, documents, negatives=1_000, depth=1_000)
    window = mine_bm25(queries, documents, negatives=10, skip=5, depth=15)
    sample = mine_bm25(queries, documents, negatives=4, skip=5, depth=15)
    for i in range(40):
        values = [scores[plain(text)][i] for text in every[i]]
        assert len(values) > 15 and values == sorted(values, reverse=True) and values[-1] > 0
        assert window[i] == every[i][5:15]
        assert len(sample[i]) == 4 and [text for text in window[i] if text in sample[i]] == sample[i]
    assert len({tuple(window[i].index(text) for text in sample[i]) for i in range(40)}) > 10  # drawn, not cut off


def test_mining_is_a_function_of_its_arguments():
    queries, documents = make_pairs(3, 200)
    first = mine_bm25(queries, documents, negatives=3, seed=1)
    assert (
        first
        == mine_bm25(queries, documents, negatives=3, seed=1)
        != mine_bm25(queries, documents, negatives=3, seed=2)
    )
    assert mine_bm25(queries, documents, negatives=3, seed=1, rows=50) == first[:50]
    assert queries[0] in queries[1:] or any(queries.count(query) > 1 for query in queries)
    for i, query in enumerate(queries):
        assert first[i] == first[queries.index(query)]


def test_too_few_candidates_give_what_there_is():
    assert mine_bm25(["red fox", "blue"], ["red fox runs", "red car"], negatives=5) == [["red car"], []]
    assert mine_bm25(["a"], ["the"], negatives=5) == [[]]
    assert mine_bm25([], [], negatives=5) == []


def test_the_best_of_equal_scores_are_those_of_the_lowest_number():
    documents, scores = np.array([9, 2, 7, 4, 1]), np.array([1.0, 3.0, 1.0, 1.0, 2.0], np.float32)
    assert best(documents, scores, 3) == [2, 1, 4] and best(documents, scores, 9) == [2, 1, 4, 7, 9]


def test_a_file_of_pairs_becomes_a_source_of_triples(tmp_path):
    queries, documents = make_pairs(4, 100)
    lines = [json.dumps([query, document]) for query, document in zip(queries, documents, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*lines, "no json"]))
    said = mine_file(tmp_path / "pairs.jsonl", tmp_path / "out", negatives=2)
    assert "100 triples" in said and "1 rows of" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pairs.jsonl.gz"]
    rows = [
        json.loads(line) for line in gzip.decompress((tmp_path / "out" / "pairs.jsonl.gz").read_bytes()).splitlines()
    ]
    assert [row["query"] for row in rows] == queries
    assert [row["neg"] for row in rows] == mine_bm25(queries, [text.strip() for text in documents], negatives=2)
    (source,) = infer_sources(tmp_path / "out")
    (raw,) = locate(source, tmp_path / "out")
    assert len(list(source.read(raw))) == 100
    for name, line in (("none.jsonl", "there is no file"), ("a.txt", "must end in")):
        if name == "a.txt":
            (tmp_path / name).write_text("")
        with pytest.raises(UserError, match=line):
            mine_file(tmp_path / name, tmp_path / "out")
