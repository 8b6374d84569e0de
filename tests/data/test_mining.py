"""Hard negatives: near the query by BM25, and never one of its positives."""

import gzip
import json
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
from word_pairs import make_pairs, plain, scores_of

from gte import ticker
from gte.data.locate import locate
from gte.data.mining import mine, mine_files
from gte.data.own_files import infer_sources
from gte.data.ranking import rank_dense
from gte.errors import UserError
from gte.evaluation.model import EncoderModel
from gte.models.load import load_encoder


def test_negatives_are_documents_of_others_and_never_equal_to_a_positive_or_the_query():
    queries, documents = make_pairs(0, 600)
    queries[5] = documents[9]  # a query that is itself a document
    positives = defaultdict(set)
    for query, document in zip(queries, documents, strict=True):
        positives[plain(query)].add(plain(document))
    assert max(map(len, positives.values())) > 5 and len(set(map(plain, documents))) < len(set(documents))
    found = mine(queries, documents, negatives=8, depth=30).texts
    assert len(found) == 600 and np.mean([len(texts) for texts in found]) > 7
    for query, texts in zip(queries, found, strict=True):
        assert set(texts) <= set(documents) and len({plain(text) for text in texts}) == len(texts) <= 8
        assert not {plain(text) for text in texts} & (positives[plain(query)] | {plain(query)})


def test_negatives_come_from_the_ranks_asked_for_best_first():
    queries, documents = make_pairs(2, 900)
    corpus = list({plain(text): text for text in reversed(documents)}.values())  # first of equal ones
    scores = dict(zip(map(plain, corpus), scores_of(queries[:40], corpus).T, strict=True))
    every = mine(queries, documents, negatives=1_000, depth=1_000).texts
    window = mine(queries, documents, negatives=10, skip=5, depth=15).texts
    sample = mine(queries, documents, negatives=4, skip=5, depth=15).texts
    for i in range(40):
        values = [scores[plain(text)][i] for text in every[i]]
        assert len(values) > 15 and values == sorted(values, reverse=True) and values[-1] > 0
        assert window[i] == every[i][5:15]
        assert len(sample[i]) == 4 and [text for text in window[i] if text in sample[i]] == sample[i]
    assert len({tuple(window[i].index(text) for text in sample[i]) for i in range(40)}) > 10  # drawn, not cut off


def test_mining_is_a_function_of_its_arguments():
    queries, documents = make_pairs(3, 200)
    first = mine(queries, documents, negatives=3, seed=1).texts
    assert (
        first
        == mine(queries, documents, negatives=3, seed=1).texts
        != mine(queries, documents, negatives=3, seed=2).texts
    )
    assert mine(queries, documents, negatives=3, seed=1, asked=range(50)).texts == first[:50]
    assert queries[0] in queries[1:] or any(queries.count(query) > 1 for query in queries)
    for i, query in enumerate(queries):
        assert first[i] == first[queries.index(query)]


def test_too_few_candidates_give_what_there_is():
    assert mine(["red fox", "blue"], ["red fox runs", "red car"], negatives=5).texts == [["red car"], []]
    assert mine(["a"], ["the"], negatives=5).texts == [[]]
    assert mine([], [], negatives=5).texts == []


def write(path, rows) -> None:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def triples(path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


ANSWERS = [  # an answer, a text, whether the text holds it
    ("Paris", "In PARIS, at night", True),
    ("Paris", "Parisian nights", False),
    ("New York", "of new   york's boroughs", True),
    ("New York", "a new city, York", False),
    ("U.S.", "the U.S. army", True),
    ("u s", "the U.S. army", False),
    ("café", "a cafe\u0301 in town", True),
    ("café", "a cafe in town", False),
    ("3.5", "of 3.5 metres", True),
    ("3.5", "of 13.5 metres", False),
    ("  ", "any text  at all", False),
]


@pytest.mark.parametrize(("answer", "text", "held"), ANSWERS)
def test_a_document_with_an_answer_among_its_tokens_is_no_negative(answer, text, held):
    queries, documents = ["which text", "another text"], ["the text meant", text + " text"]
    found = mine(queries, documents, answers=[[answer], []])
    assert found.texts == [[] if held else [documents[1]], [documents[0]]]
    assert found.answered == held and mine(queries, documents, answers=[[], [answer]]).answered == 0


def test_answers_of_all_rows_of_a_query_count_and_ranks_stay_what_they_were():
    queries = ["red one", "RED  one", *(f"other {i}" for i in range(30))]
    documents = ["red one first", "red one second", *(f"red one number {i}" for i in range(30))]
    settings = {"draw": "top", "negatives": 6, "skip": 1, "depth": 9}
    plainly = mine(queries, documents, **settings).texts
    answers = [[plainly[0][1].split()[-1]], [plainly[0][3].split()[-1]], *([] for _ in range(30))]
    found = mine(queries, documents, answers=answers, **settings)
    ranks = mine(queries, documents, **settings | {"negatives": 8}).texts[0]
    assert found.texts[0] == found.texts[1] == [text for text in ranks if text not in (plainly[0][1], plainly[0][3])]
    assert found.texts[2:] == plainly[2:] and found.answered == 2


def test_filled_groups_hold_as_many_different_texts_as_asked_for_and_none_that_is_barred():
    queries, documents = make_pairs(5, 200)
    corpus = [f"nothing in common {i}" for i in range(40)]
    answers = [["word1"] if i % 3 == 0 else [] for i in range(200)]
    positives, answered = defaultdict(set), defaultdict(set)
    for query, document, words in zip(queries, documents, answers, strict=True):
        positives[plain(query)].add(plain(document))
        answered[plain(query)].update(words)
    mined = mine(queries, documents, corpus=corpus, answers=answers, negatives=9, depth=4, fill=True)
    bare = mine(queries, documents, corpus=corpus, answers=answers, negatives=9, depth=4)
    assert mined.random == sum(9 - len(texts) for texts in bare.texts) > 900 and bare.random == 0
    drawn = set()
    for query, texts, found in zip(queries, mined.texts, bare.texts, strict=True):
        assert texts[: len(found)] == found and len({plain(text) for text in texts}) == len(texts) == 9
        assert not {plain(text) for text in texts} & (positives[plain(query)] | {plain(query)})
        assert not any(word in plain(text).split() for text in texts for word in answered[plain(query)])
        drawn |= set(texts[len(found) :])
    assert len(set(corpus) & drawn) > 30 and len(drawn) > 150
    again = mine(queries, documents, corpus=corpus, answers=answers, negatives=9, depth=4, fill=True)
    other = mine(queries, documents, corpus=corpus, answers=answers, negatives=9, depth=4, fill=True, seed=1)
    assert again.texts == mined.texts != other.texts
    assert mine(["a", "b"], ["x", "y"], negatives=5, fill=True).texts == [["y"], ["x"]]  # all there is


@pytest.mark.parametrize(
    "settings",
    [
        {"negatives": 0},
        {"skip": -1},
        {"depth": 5, "skip": 5},
        {"draw": "best"},
        {"margin": -1},
        {"relative_margin": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(UserError, match="|".join(settings)):
        mine(["a"], ["b"], **settings)


def test_files_of_pairs_become_sources_of_triples_and_every_row_is_accounted_for(tmp_path):
    queries, documents = make_pairs(4, 100)
    write(tmp_path / "one.jsonl", [[q, d] for q, d in zip(queries[:60], documents[:60], strict=True)] + ["no json\n"])
    rows = [{"query": q, "pos": d, "neg": ["old"]} for q, d in zip(queries[60:], documents[60:], strict=True)]
    write(tmp_path / "two.jsonl", rows)
    write(tmp_path / "more.jsonl", [{"title": "word1", "text": "word2 more"}, {"title": "word3"}, {"text": ""}])
    out = tmp_path / "out"
    names = [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]
    said = "\n".join(
        mine_files(names, out, corpus=[str(tmp_path / "more.jsonl")], corpus_field=["title", "text"], negatives=2)
    )
    assert "one: read 61, kept 60, rejected 1 (invalid JSON 1)" in said and "two: read 40, kept 40, rejected 0" in said
    assert "more: read 3, kept 2, rejected 1 (empty query 1)" in said
    assert "two.jsonl.gz: 40 triples" in said and "40 rows had negatives of their own, which are not in it" in said
    assert sorted(path.name for path in out.iterdir()) == [".mined.json", "one.jsonl.gz", "two.jsonl.gz"]
    found = triples(out / "one.jsonl.gz") + triples(out / "two.jsonl.gz")
    documents = [text.strip() for text in documents]
    assert [row["query"] for row in found] == queries and [row["pos"] for row in found] == documents
    corpus = ["word1: word2 more", "word3"]
    assert [row["neg"] for row in found] == mine(queries, documents, corpus=corpus, negatives=2).texts
    assert any(text in corpus for row in found for text in row["neg"])
    first = [(out / f"{name}.jsonl.gz").read_bytes() for name in ("one", "two")]
    list(mine_files(names, out, corpus=[str(tmp_path / "more.jsonl")], corpus_field=["title", "text"], negatives=2))
    assert first == [(out / f"{name}.jsonl.gz").read_bytes() for name in ("one", "two")]
    list(mine_files(names, tmp_path / "few", rows=7))
    assert [len(triples(tmp_path / "few" / f"{name}.jsonl.gz")) for name in ("one", "two")] == [7, 7]
    sources = infer_sources(out)
    assert [len(list(source.read(raw))) for source in sources for raw in locate(source, out)] == [60, 40]


def test_answers_come_from_the_raw_rows(tmp_path):
    rows = [
        {"query": "which place lies north", "pos": "place Bergen", "who": ["x", "Oslo"]},
        {"query": "which place lies south", "pos": "place Oslo", "who": "bergen"},
        {"query": "which place lies east", "pos": "place Kiruna"},
    ]
    write(tmp_path / "a.jsonl", rows)
    said = "\n".join(mine_files([str(tmp_path / "a.jsonl")], tmp_path / "out", answers="who", draw="top"))
    negatives = [row["neg"] for row in triples(tmp_path / "out" / "a.jsonl.gz")]
    assert negatives == [["place Kiruna"], ["place Kiruna"], ["place Bergen", "place Oslo"]]
    assert "2 documents left out for an answer in them" in said
    write(tmp_path / "b.jsonl", [*rows, {"query": "q", "pos": "p", "who": {"text": "z"}}])
    assert "rejected 1 (wrong type of answers 1)" in next(
        mine_files([str(tmp_path / "b.jsonl")], tmp_path / "out", answers="who")
    )


@pytest.mark.parametrize(
    ("names", "options", "line"),
    [
        (["none.jsonl"], {}, r"there is no file .*none.jsonl"),
        (["a.txt"], {}, r"must end in"),
        (["a.jsonl", "b/a.jsonl"], {}, r"a.jsonl.gz would be written over; mine it apart"),
        (["out/a.jsonl.gz"], {}, r"out/a.jsonl.gz would be written over"),
        (["a.jsonl"], {"corpus": ["none.tsv"]}, r"there is no file .*none.tsv"),
        (["a.jsonl"], {"corpus": ["c.csv"], "corpus_field": "body"}, r"c.csv has no column 'body'; it has: id, text"),
        (["a.jsonl"], {"corpus": ["a.jsonl"], "corpus_field": "body"}, r"a has no row that can be used"),
        (["a.jsonl"], {"answers": "answers"}, r"answers=answers: no row has an answer there"),
        (["a.jsonl"], {"negatives": 0}, r"negatives=0 must be at least 1"),
        (["a.jsonl"], {}, r"none of the 1 pairs found a negative; nothing was written: a smaller margin="),
    ],
)
def test_inputs_that_cannot_be_meant_are_refused_in_one_line_and_nothing_is_written(tmp_path, names, options, line):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "c.csv").write_text("id,text\n1,word\n")
    for folder in (tmp_path, tmp_path / "b", tmp_path / "out"):
        folder.mkdir(exist_ok=True)
        write(folder / "a.jsonl", [{"query": "q", "pos": "d"}])
    (tmp_path / "out" / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    before = (tmp_path / "out" / "a.jsonl.gz").read_bytes()
    options = options | {key: [str(tmp_path / name) for name in options[key]] for key in ("corpus",) if key in options}
    with pytest.raises(UserError, match=line) as error:
        list(mine_files([str(tmp_path / name) for name in names], tmp_path / "out", **options))
    assert "\n" not in str(error.value)
    assert (tmp_path / "out" / "a.jsonl.gz").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jsonl", "a.jsonl.gz"]


def test_the_script_mines_with_an_encoder_as_with_bm25(script, small_model, tmp_path):
    queries, documents = make_pairs(6, 40)
    write(tmp_path / "pairs.jsonl", [[query, document] for query, document in zip(queries, documents, strict=True)])
    code, out, err = script("mine", "in=pairs.jsonl", "out=lexical", "negatives=3")
    assert code == 0 and "lexical/pairs.jsonl.gz: 40 triples" in out, err
    dense = ["in=[pairs.jsonl]", f"checkpoint={small_model}", "negatives=3", "draw=top", "precision=fp32", "depth=3"]
    code, out, err = script("mine", *dense, "out=dense")
    assert code == 0 and "pairs: read 40, kept 40, rejected 0" in out, err
    documents = [text.strip() for text in documents]
    assert [row["neg"] for row in triples(tmp_path / "lexical" / "pairs.jsonl.gz")] == mine(
        queries, documents, negatives=3
    ).texts
    model = EncoderModel(load_encoder(small_model))
    expected = mine(queries, documents, negatives=3, draw="top", depth=3, rank=partial(rank_dense, embed=model.embed))
    assert [row["neg"] for row in triples(tmp_path / "dense" / "pairs.jsonl.gz")] == expected.texts
    assert "gone/run does not exist" in script.refused("mine", "in=pairs.jsonl", "out=x", "checkpoint=./gone/run")
    assert "draw=best is unknown" in script.refused("mine", "in=pairs.jsonl", "out=x", "draw=best")


def test_long_mining_says_that_it_is_under_way(script, tmp_path, monkeypatch):
    rows = [{"query": f"question {n}", "pos": f"answer number {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["mine", "in=pairs.jsonl", "out=mined", "negatives=3"]
    assert "mining" not in script(*command)[2]
    monkeypatch.setattr(ticker, "EVERY", 0.001)
    assert "mining: 0 s" in script(*command)[2]


def test_a_source_is_mined_by_its_name_with_the_answers_that_it_states(tmp_path):
    rows = [
        {
            "question": "which place lies north",
            "answers": ["Oslo"],
            "positive_ctxs": [{"title": "a", "text": "place Bergen"}],
        },
        {
            "question": "which place lies south",
            "answers": ["Pisa"],
            "positive_ctxs": [{"title": "b", "text": "place Oslo"}],
        },
    ]
    rows = [row | {"negative_ctxs": [], "hard_negative_ctxs": []} for row in rows]
    (tmp_path / "raw" / "nq").mkdir(parents=True)
    (tmp_path / "raw" / "nq" / "biencoder-nq-train.json").write_text(json.dumps(rows))
    said = "\n".join(mine_files(["nq"], tmp_path / "out", raw=tmp_path / "raw"))
    assert "nq: read 2, kept 2, rejected 0" in said and "1 documents left out for an answer in them" in said
    assert [row["neg"] for row in triples(tmp_path / "out" / "nq.jsonl.gz")] == [[], ["a: place Bergen"]]
    with pytest.raises(UserError, match=r"reddit_post_comment joins rows of its files; prepare it first"):
        list(mine_files(["reddit_post_comment"], tmp_path / "out", raw=tmp_path / "raw"))
