"""Every shape that a task's folder may have, by the split that is scored, and the line that a wrong one gives."""

import gzip
import json
from pathlib import Path

import datasets
import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from evaluations import WIDTH, KnownEncoder, evaluate
from task_folders import write_retrieval, write_rows, write_sts

from gte.errors import UserError
from gte.evaluation.bm25 import BM25
from gte.evaluation.local import number_labels
from gte.evaluation.model import EncoderModel
from gte.evaluation.suite import Suite, plan, run_suite
from gte.evaluation.tasks import make_task

E = np.eye(WIDTH)


def scored(folder: Path, encoder=None, split: str | None = None) -> dict[str, float]:
    task = make_task(folder.name, folder, split)
    task.load()
    return task.run(EncoderModel(encoder or KnownEncoder()))


def scored_by(model, folder: Path) -> dict[str, float]:
    task = make_task(folder.name, folder)
    task.load()
    return task.run(model)


def write_everything(folder: Path, suffix: str) -> None:
    """One task of each kind that MTEB's English benchmark has, under names that mteb knows."""
    write_retrieval(folder / "SciFact", documents=40, suffix=suffix)
    write_rows(
        folder / "STS22" / "en" / f"test{suffix}", [{"sent1": f"a{i}", "sent2": f"b{i}", "score": i} for i in range(9)]
    )
    pairs = {
        "sent1": [f"a{i}" for i in range(9)],
        "sent2": [f"b{i}" for i in range(9)],
        "labels": [i % 2 for i in range(9)],
    }
    write_rows(folder / "TwitterURLCorpus" / f"test{suffix}", [pairs])
    for split in ("train", "validation", "test"):
        rows = [{"id": i, "text": f"{split} {i}", "label": f"kind {i % 3}", "label_text": "x"} for i in range(30)]
        write_rows(folder / "MTOPDomainClassification" / "en" / f"{split}{suffix}", rows)
        write_rows(
            folder / "EmotionClassification" / f"{split}{suffix}", [row | {"label": row["id"] % 3} for row in rows]
        )
    sets = [{"sentences": [f"{k} {i}" for i in range(12)], "labels": [i % 3 for i in range(12)]} for k in range(2)]
    write_rows(folder / "TwentyNewsgroupsClustering" / f"test{suffix}", sets)
    write_rows(folder / "ArxivClusteringS2S" / f"test{suffix}", sets)
    ranked = [{"query": f"ask {i}", "positive": [f"yes {i}"], "negative": [f"no {i}", f"not {i}"]} for i in range(4)]
    write_rows(folder / "AskUbuntuDupQuestions" / f"test{suffix}", ranked)
    write_rows(folder / "SciDocsRR" / f"validation{suffix}", ranked)
    write_rows(folder / "SciDocsRR" / f"test{suffix}", ranked[:2])
    write_rows(folder / "MindSmallReranking" / f"test{suffix}", ranked)
    texts = {"text": "t", "human_summaries": ["h1", "h2"], "machine_summaries": ["m1", "m2", "m3"]}
    write_rows(folder / "SummEval" / f"test{suffix}", [texts | {"relevance": [1.0, 2.5, 4], "coherence": [1, 1, 1]}])


def test_labels_are_read_by_column_and_not_row_by_row(tmp_path, monkeypatch):
    rows = [{"text": f"text {i}", "label": i % 5} for i in range(400)]
    for split in ("train", "test"):
        write_rows(tmp_path / "Classes" / f"{split}.jsonl", rows)
    task = make_task("Classes", tmp_path / "Classes")
    task.load()
    decoded, iterate, read = [], datasets.Dataset.__iter__, datasets.Dataset._getitem

    def each(data):
        for row in iterate(data):
            decoded.append(row)
            yield row

    def one(data, key, **kwargs):
        decoded.append(key)
        return read(data, key, **kwargs)

    monkeypatch.setattr(datasets.Dataset, "__iter__", each)
    monkeypatch.setattr(datasets.Dataset, "_getitem", one)
    assert task.run(EncoderModel(KnownEncoder()))["accuracy"] > 0
    assert 0 < len(decoded) < 2000  # row by row 166,083: each of ten experiments draws from all and compares all


def test_every_kind_of_mteb_task_is_scored_from_its_folder_and_nothing_is_compiled(tmp_path, monkeypatch):
    from mteb import similarity_functions

    compiled = []
    monkeypatch.setattr(similarity_functions, "_use_torch_compile", lambda: True)  # as on a card of capability 9.0
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    similarity_functions.cos_sim(torch.ones(1, 2), torch.ones(1, 2))
    assert compiled.pop() and not compiled
    write_everything(tmp_path / "data", ".jsonl.gz")
    results = evaluate(tmp_path, tmp_path / "data")
    entry = results["models"]["model"]
    assert not compiled and similarity_functions._use_torch_compile()
    assert not entry["failed"] and len(entry["tasks"]) == 11
    assert {task["type"] for task in entry["tasks"].values()} == {
        *("Retrieval", "STS", "PairClassification", "Classification", "Clustering", "Reranking", "Summarization")
    }
    assert all(task["split"] == "test" and task["data"].startswith("sha256:") for task in entry["tasks"].values())


def test_pairs_in_lists_score_as_pairs_in_rows(tmp_path):
    rows = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2} for i in range(30)]
    write_rows(tmp_path / "Rows" / "test.jsonl", rows)
    lists = {key: [row[key] for row in rows] for key in rows[0]}
    write_rows(tmp_path / "Lists" / "test.jsonl", [lists])
    assert scored(tmp_path / "Rows") == scored(tmp_path / "Lists")
    write_rows(tmp_path / "Lists" / "test.jsonl", [lists | {"label": [1]}])
    with pytest.raises(UserError, match="a row's lists are not of one length"):
        scored(tmp_path / "Lists")


def test_reranking_in_the_shape_of_retrieval_scores_as_in_rows(tmp_path):
    ranked = [{"query": f"ask {i}", "positive": [f"yes {i}"], "negative": [f"no {i}", f"not {i}"]} for i in range(6)]
    write_rows(tmp_path / "AskUbuntuDupQuestions" / "test.jsonl", ranked)
    by_rows = scored(tmp_path / "AskUbuntuDupQuestions")
    other = tmp_path / "other" / "AskUbuntuDupQuestions"
    texts = {f"{text}": text for row in ranked for text in (*row["positive"], *row["negative"])}
    write_rows(other / "corpus.jsonl", [{"_id": key, "text": text} for key, text in texts.items()])
    write_rows(other / "queries.jsonl", [{"_id": row["query"], "text": row["query"]} for row in ranked])
    qrels = [{"query-id": row["query"], "corpus-id": row["positive"][0], "score": 1} for row in ranked]
    write_rows(other / "qrels" / "test.jsonl.gz", qrels)
    listed = [{"query-id": row["query"], "corpus-ids": row["positive"] + row["negative"]} for row in ranked]
    write_rows(other / "top_ranked.jsonl", listed)
    by_files = scored(other)
    assert 0 < by_rows["map_at_1000"] < 100
    assert by_files["map_at_1000"] == pytest.approx(by_rows["map_at_1000"])
    write_rows(other / "top_ranked.jsonl", listed[1:])
    with pytest.raises(UserError, match="1 queries have no candidates, ask 0 the first"):
        scored(other)
    write_rows(other / "top_ranked.jsonl", [*listed[1:], {"query-id": "ask 0", "corpus-ids": ["gone"]}])
    with pytest.raises(UserError, match="1 candidates are not in the corpus, gone the first"):
        scored(other)


def test_a_query_of_several_texts_counts_by_its_best_one_where_mteb_merges_them(tmp_path):
    vectors = {"far": E[1], "near": E[0], "yes": E[0], "no": E[1] + E[2] / 2}
    rows = [{"query": ["far", "near"], "positive": ["yes"], "negative": ["no"]}] * 2
    write_rows(tmp_path / "MindSmallReranking" / "test.jsonl", rows)
    scores = scored(tmp_path / "MindSmallReranking", KnownEncoder(vectors))
    assert scores["map_at_1000"] == 75  # each text a query: ranks 2 and 1
    assert scores["max_over_subqueries_map_at_1000"] == 100  # by hand: yes 1.0 over no 0.89
    one = [
        {"query": "far", "positive": ["yes"], "negative": ["no"]},
        {"query": "near", "positive": ["yes"], "negative": ["no"]},
    ]
    write_rows(tmp_path / "MindSmallReranking" / "test.jsonl", one)
    scores = scored(tmp_path / "MindSmallReranking", KnownEncoder(vectors))
    assert scores["max_over_subqueries_map_at_1000"] == 75  # rows stay apart


def test_the_split_that_is_scored_is_mtebs_or_the_chosen_one(tmp_path):
    gold = write_sts(tmp_path / "STSBenchmark")
    assert len(set(gold)) == 40
    rows = [{"sentence1": f"x {i}", "sentence2": f"y {i}", "score": i} for i in range(10)]
    write_rows(tmp_path / "STSBenchmark" / "dev.jsonl.gz", rows)
    write_rows(tmp_path / "OnlyDev" / "validation.jsonl", rows)
    test, dev = scored(tmp_path / "STSBenchmark"), scored(tmp_path / "STSBenchmark", split="dev")
    assert test["cosine_spearman"] != dev["cosine_spearman"]
    assert scored(tmp_path / "STSBenchmark", split="validation") == dev  # another name for dev
    assert scored(tmp_path / "OnlyDev") == dev  # a task of one's own with one split
    results = run_suite(
        {"model": "checkpoint"},
        suite := Suite("test"),
        plan(suite, tmp_path, ["STSBenchmark"], split="dev"),
        tmp_path / "out",
        load_model=lambda checkpoint: EncoderModel(KnownEncoder()),
        say=lambda line: None,
    )
    task = results["models"]["model"]["tasks"]["STSBenchmark"]
    assert task["split"] == "dev" and task["main_score"] == pytest.approx(dev["cosine_spearman"], abs=2e-3)
    (tmp_path / "STSBenchmark" / "test.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"lacks test.jsonl.*there are dev.jsonl.gz; another split is scored with split="
    ):
        make_task("STSBenchmark", tmp_path / "STSBenchmark")


def test_a_query_without_a_relevant_document_counts_0_as_in_mteb(tmp_path):
    folder = tmp_path / "Task"
    relevant = write_retrieval(folder)
    before = scored(folder)
    lines = (folder / "qrels" / "test.tsv").read_text()
    more = "unasked\td1\t0\nabsent\td1\t1\n" + f"{next(iter(relevant))}\tgone\t1\n"
    (folder / "qrels" / "test.tsv").write_text(lines + "unasked\td1\t0\n")
    assert scored(folder)["ndcg_at_10"] == pytest.approx(before["ndcg_at_10"] * 3 / 4, abs=2e-3)
    (folder / "qrels" / "test.tsv").write_text(lines + more)
    task = make_task("Task", folder)
    task.load()
    assert task.notes == [
        "1 of 5 queries have no text and are left out",
        "1 of 4 queries have no document with a score above 0, and count 0",
        "1 judged documents are not in the corpus, gone the first",
    ]
    after = task.run(EncoderModel(KnownEncoder()))
    assert after["recall_at_100"] < before["recall_at_100"] * 3 / 4  # by the document that nobody can find
    (folder / "qrels" / "test.tsv").write_text("q0\td3\t0\nq1\td7\t-1\n")
    with pytest.raises(UserError, match=r"no query of qrels/test has a relevant document, one with a score above 0"):
        scored(folder)


def test_a_folder_scores_as_mtebs_own_loader_and_search_on_the_same_data(tmp_path):
    """Graded relevance, a query without a relevant document, equal documents: the oracle is mteb from data to score."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.models.search_wrappers import SearchEncoderWrapper

    folder = tmp_path / "Task"
    write_retrieval(folder)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for i in range(100, 120):
        rows[i]["text"] = rows[i - 97]["text"]  # of one vector
    write_rows(folder / "corpus.jsonl", rows)
    with (folder / "qrels" / "test.tsv").open("a") as stream:
        stream.write("unasked\td1\t0\n")
    task = make_task("Task", folder)
    task.load()
    data = task.parts[0].dataset["default"]["test"]
    ours = task.run(EncoderModel(KnownEncoder()))
    theirs = type("Theirs", (AbsTaskRetrieval,), {"metadata": task.parts[0].metadata})()
    theirs.dataset, theirs.data_loaded = {"default": {"test": data}}, True
    wrapped = SearchEncoderWrapper(EncoderModel(KnownEncoder()))
    found = theirs.evaluate(wrapped, "test", encode_kwargs={"show_progress_bar": False})["default"]
    for metric in ("ndcg_at_10", "map_at_100", "recall_at_100", "mrr_at_10"):
        assert ours[metric] == pytest.approx(100 * found[metric], abs=1e-4)


def write_clusters(folder: Path, texts: int) -> dict[str, list[list[str]]]:
    """A clustering's folder of three rows with labels of two levels; returns its columns as the hub has them."""
    labels = [f"{'abc'[i % 3]}.{'xyzw'[i // 3 % 4]}" for i in range(texts)]
    sentences = [f"{label} {i}" for i, label in enumerate(labels)]
    cuts = [slice(0, texts // 2), slice(texts // 2, texts - 5), slice(texts - 5, texts)]
    columns = {"sentences": [sentences[cut] for cut in cuts], "labels": [labels[cut] for cut in cuts]}
    write_rows(
        folder / "test.jsonl", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )
    return columns


@pytest.mark.parametrize(
    "name",
    [
        "ArXivHierarchicalClusteringS2S",
        "StackExchangeClustering.v2",
        "StackExchangeClusteringP2P.v2",
        "TwentyNewsgroupsClustering.v2",
    ],
)
def test_a_clustering_of_the_second_protocol_scores_as_mtebs_own_class_on_the_same_data(tmp_path, name):
    columns = write_clusters(tmp_path / name, texts=2_200)  # more than the 2,048 that some of them draw
    theirs = mteb.get_task(name)
    theirs.dataset, theirs.data_loaded = DatasetDict({"test": Dataset.from_dict(columns)}), True
    theirs.dataset_transform()
    found = theirs.evaluate(EncoderModel(KnownEncoder()), "test", encode_kwargs={})["default"]
    ours = scored(tmp_path / name)
    assert 0 < ours["v_measure"] < 100 and ours["v_measure"] == pytest.approx(100 * found["v_measure"], abs=1e-6)


def test_a_clustering_of_fewer_texts_than_mteb_draws_is_scored_on_all_levels(tmp_path):
    write_clusters(tmp_path / "ArXivHierarchicalClusteringP2P", texts=120)
    task = make_task("ArXivHierarchicalClusteringP2P", tmp_path / "ArXivHierarchicalClusteringP2P")
    task.load()
    assert task.parts[0].dataset["test"]["labels"][:3] == [["a", "x"], ["b", "x"], ["c", "x"]]
    assert 0 < task.run(EncoderModel(KnownEncoder()))["v_measure"] <= 100


def test_a_document_id_that_comes_twice_is_an_error(tmp_path):
    write_retrieval(tmp_path / "Task")
    with (tmp_path / "Task" / "corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "d3", "text": "again"}) + "\n")
    with pytest.raises(UserError, match=r"corpus.jsonl: 1 of 151 rows have an _id that an earlier row has"):
        scored(tmp_path / "Task")


@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
@pytest.mark.parametrize("score", ["0.5", "1.5", "0.9", "nan", "1e400", "3000000000"])
def test_a_relevance_that_is_no_whole_number_is_one_line(tmp_path, suffix, score):
    folder = tmp_path / "Task"
    write_retrieval(folder)
    if suffix == "jsonl":
        (folder / "qrels" / "test.tsv").unlink()
        row = f'{{"query-id": "q0", "corpus-id": "d3", "score": {score.replace("nan", "NaN")}}}\n'
    else:
        row = f"q0\td3\t{score}\n"
    (folder / "qrels" / f"test.{suffix}").write_text(row)
    with pytest.raises(UserError, match=rf"test.{suffix}:1: .*must be a whole number.*multiply all scores alike"):
        scored(folder)
    (folder / "qrels" / f"test.{suffix}").write_text(
        row.replace(score.replace("nan", "NaN"), "2.0").replace("nan", "2.0")
    )
    assert scored(folder)["ndcg_at_10"] >= 0  # 2.0 is a whole number


@pytest.mark.parametrize(
    ("file", "row", "expected"),
    [
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', "queries.jsonl:5: _id q1 is that of a row above"),
        ("qrels/test.tsv", "q0\td3\t0", "test.tsv:17: query q0 and document d3 have a score above already"),
        ("top_ranked.jsonl", '{"query-id": "q1", "corpus-ids": ["d1"]}', "top_ranked.jsonl:4: query-id q1 is that of"),
    ],
)
def test_an_id_that_comes_twice_is_one_line(tmp_path, file, row, expected):
    folder = tmp_path / "Task"
    relevant = write_retrieval(folder)
    write_rows(folder / "top_ranked.jsonl", [{"query-id": q, "corpus-ids": ["d1", "d3"]} for q in relevant])
    assert scored(folder)
    with (folder / file).open("a") as stream:
        stream.write(row + "\n")
    with pytest.raises(UserError) as error:
        scored(folder)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_query_that_nothing_is_found_for_counts_0_in_every_path(tmp_path):
    """BM25 finds nothing by unknown words; left out of the results, such a query would raise the mean."""
    folder = tmp_path / "Task"
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": f"granite {i}"} for i in range(5)])
    queries = [{"_id": "known", "text": "granite 3"}, {"_id": "unknown", "text": "velvet"}]
    write_rows(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("known\td3\t1\nunknown\td2\t1\n")
    assert scored_by(BM25(), folder)["ndcg_at_10"] == 50
    write_rows(folder / "top_ranked.jsonl", [{"query-id": q["_id"], "corpus-ids": ["d2", "d3"]} for q in queries])
    reranked = scored_by(BM25(), folder)
    assert reranked["ndcg_at_10"] == 50 and reranked["map_at_1000"] == 50
    assert scored_by(EncoderModel(KnownEncoder()), folder)["recall_at_100"] == 100  # the candidates are the only ones


@pytest.mark.parametrize(
    ("first", "second"), [("ham", "spam"), (0, 2), (5, 7), (0, 1), (False, True), (-1, 1), ("no", "2"), ("a", 2)]
)
def test_two_classes_score_alike_whatever_their_labels_are(tmp_path, first, second):
    folders = [tmp_path / "Given", tmp_path / "Plain"]
    for folder, labels in zip(folders, ((first, second), (0, 1)), strict=True):
        for split, count in (("train", 40), ("test", 30)):
            rows = [{"text": f"{split} {i}", "label": labels[i % 3 == 0]} for i in range(count)]
            write_rows(folder / f"{split}.jsonl", rows)
    given, plain = map(scored, folders)
    if str(first) < str(second):
        assert given == plain and {"accuracy", "f1", "ap"} <= given.keys()
    else:
        assert given["accuracy"] == plain["accuracy"]


@pytest.mark.parametrize(
    ("given", "numbered"), [([1, 2, 1], [1, 2, 1]), ([3, 2, 3], [1, 0, 1]), ([0, 2, 3], [0, 2, 3])]
)
def test_two_labels_are_numbered_where_none_of_them_is_1(given, numbered):
    splits = DatasetDict(test=Dataset.from_dict({"text": [*"abc"], "label": given}))
    number_labels(splits, "label", "test")
    assert splits["test"]["label"][:] == numbered


def test_true_and_false_are_1_and_0_beside_numbers(tmp_path):
    for name, on, off in (("Given", True, False), ("Plain", 1, 0)):
        for split, labels in (("train", (on, 0)), ("test", (1, off))):
            rows = [{"text": f"{split} {i}", "label": labels[i % 3 == 0]} for i in range(30)]
            write_rows(tmp_path / f"{name}Classes" / f"{split}.jsonl", rows)
        rows = [{"text": f"text {i}", "label": (on, 1, 0, off)[i % 4]} for i in range(40)]
        write_rows(tmp_path / f"{name}Groups" / "test.jsonl", rows)
    for kind in ("Classes", "Groups"):
        assert scored(tmp_path / f"Given{kind}") == scored(tmp_path / f"Plain{kind}")


def test_a_test_set_of_two_of_three_classes_is_scored(tmp_path):
    write_rows(tmp_path / "T" / "train.jsonl", [{"text": f"a {i}", "label": "xyz"[i % 3]} for i in range(30)])
    write_rows(tmp_path / "T" / "test.jsonl", [{"text": f"b {i}", "label": "xz"[i % 2]} for i in range(30)])
    assert 0 <= scored(tmp_path / "T")["accuracy"] <= 100


@pytest.mark.parametrize(("yes", "no"), [("yes", "no"), ("True", "False"), (True, False), ("1", "0"), ("Yes", 0)])
def test_pair_labels_that_say_yes_or_no_score_as_1_and_0(tmp_path, yes, no):
    for name, labels in (("Given", (no, yes)), ("Plain", (0, 1))):
        pairs = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": labels[i % 3 == 0]} for i in range(30)]
        write_rows(tmp_path / name / "test.jsonl", pairs)
    assert scored(tmp_path / "Given") == scored(tmp_path / "Plain")


@pytest.mark.parametrize("labels", [["red", "blue", "green"], ["a", 2, 2]])
def test_clusters_of_text_labels_score_as_numbered_ones(tmp_path, labels):
    for name, own in (("Given", labels), ("Plain", [labels.index(label) for label in labels])):
        write_rows(tmp_path / name / "test.jsonl", [{"text": f"text {i}", "label": own[i % 3]} for i in range(30)])
    assert scored(tmp_path / "Given")["v_measure"] == pytest.approx(scored(tmp_path / "Plain")["v_measure"])


PAIR = {"sentence1": "a", "sentence2": "b"}
WITHOUT_CONTRAST = [
    ({"test.jsonl": [PAIR | {"score": 3} for _ in range(5)]}, "the gold scores are 3.0 in every row"),
    ({"test.jsonl": [PAIR | {"label": 1} for _ in range(5)]}, "the labels are 1 in every row"),
    (
        {"test.jsonl": [PAIR | {"label": "related"}]},
        'label "related" does not say whether the two texts belong together',
    ),
    ({"test.jsonl": [PAIR | {"label": 2}, PAIR | {"label": 0}]}, "label 2 does not say whether"),
    (
        {"train.jsonl": [{"text": "a", "label": "x"}] * 5, "test.jsonl": [{"text": "a", "label": "y"}]},
        'train.jsonl: the labels are "x" in every row',
    ),
    ({"test.jsonl": [{"text": f"a{i}", "label": 4} for i in range(5)]}, 'the labels are "4" in every row'),
    (
        {"test.jsonl": [{"query": "q", "positive": [], "negative": ["n"]}] * 3},
        "none of its 3 rows has both positives and negatives",
    ),
    (
        {"test.jsonl": [{"text": "t", "human_summaries": ["h"], "machine_summaries": ["m", "n"], "relevance": [2, 2]}]},
        "in every row the relevance scores are all equal",
    ),
]


@pytest.mark.parametrize(("files", "expected"), WITHOUT_CONTRAST)
def test_data_that_no_model_can_be_told_apart_by_are_one_line(tmp_path, files, expected):
    for name, rows in files.items():
        write_rows(tmp_path / "Task" / name, rows)
    with pytest.raises(UserError) as error:
        scored(tmp_path / "Task")
    assert expected in str(error.value) and "\n" not in str(error.value) and "train it" not in str(error.value)


def test_a_reranking_row_without_positives_or_negatives_is_left_out_as_in_mteb(tmp_path):
    rows = [{"query": f"ask {i}", "positive": [f"yes {i}"], "negative": [f"no {i}", f"not {i}"]} for i in range(4)]
    bare = [{"query": "x", "positive": [], "negative": ["n"]}, {"query": "y", "positive": ["p"], "negative": []}]
    write_rows(tmp_path / "Sound" / "test.jsonl", rows)
    write_rows(tmp_path / "Task" / "test.jsonl", [rows[0], bare[0], *rows[1:], bare[1]])
    task = make_task("Task", tmp_path / "Task")
    task.load()
    assert task.notes == ["2 of 6 rows have no positives or no negatives and are left out"]
    assert task.run(EncoderModel(KnownEncoder())) == scored(tmp_path / "Sound")
    queries = task.parts[0].dataset["default"]["test"]["queries"]["id"]
    assert list(queries) == [f"test_query{i}_0" for i in range(4)]


def test_a_corpus_is_read_once_and_lies_on_disk(tmp_path):
    write_retrieval(tmp_path / "Task", documents=60)
    task = make_task("Task", tmp_path / "Task")
    task.load()
    corpus = task.parts[0].dataset["default"]["test"]["corpus"]
    assert corpus[:2] == {"id": ["d0", "d1"], "title": ["", ""], "text": ["document 0", "document 1"]}
    files = [Path(file["filename"]) for file in corpus.cache_files]
    assert len(files) == 1 and files[0].exists()
    del task, corpus
    assert not files[0].exists()


def test_suite_local_runs_every_folder_and_other_suites_say_what_they_leave(tmp_path):
    write_sts(tmp_path / "Mine")
    write_sts(tmp_path / "STS12")
    write_rows(tmp_path / "SST2" / "test.jsonl", [{"text": "good", "label": 1}])
    write_rows(tmp_path / "CodeSearchNet" / "php_test.jsonl", [{"docstring": "d", "code": "c"}])
    local = plan(Suite("local", folder=str(tmp_path), hub=False))
    assert set(local.run) == {"Mine", "STS12", "SST2", "SST2Prompted", "CodeSearchNetPHP"} and not local.skipped
    sts = plan(Suite("sts", ["STS12", "STS13"]), tmp_path)
    assert set(sts.run) == {"STS12"} and set(sts.skipped) == {"STS13", *local.run} - {"STS12"}
    with pytest.raises(UserError, match="suite=local is what a folder holds: pass data_dir="):
        plan(Suite("local", hub=False))


def test_the_papers_own_protocols_read_the_hub_as_well_as_a_folder(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    asked = []

    class Api:
        def dataset_info(self, path):
            return type("Info", (), {"sha": f"revision of {path}"})

    def load_dataset(path, config, *, split, revision):
        asked.append((path, config, split, revision))
        rows = {"SetFit/sst2": [{"text": f"{split} {i}", "label": i % 2, "label_text": "x"} for i in range(8)]}
        code = [{"docstring": f"d {split} {i}", "code": f"c {split} {i}", "url": "u"} for i in range(8)]
        return datasets.Dataset.from_list(rows.get(path, code))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("SST2", "CodeSearchNetRuby"):
        task = make_task(name, None)
        task.load()
        assert task.data.startswith("hub:revision of ") and task.run(EncoderModel(KnownEncoder()))
    assert [(config, split) for _, config, split, _ in asked] == [
        (None, "test"),
        ("ruby", "test"),
        ("ruby", "validation"),
    ]
    rows = [{"docstring": f"d test {i}", "code": f"c test {i}"} for i in range(8)]
    write_rows(tmp_path / "ruby_test.jsonl", rows)
    write_rows(tmp_path / "ruby_valid.jsonl", [{"docstring": "", "code": f"c validation {i}"} for i in range(8)])
    local = make_task("CodeSearchNetRuby", tmp_path)
    local.load()
    assert local.run(EncoderModel(KnownEncoder())) == task.run(EncoderModel(KnownEncoder()))


@pytest.mark.parametrize(
    ("name", "file", "rows", "expected"),
    [
        ("Task", "test.jsonl", [{"colour": "red"}], "the fields of its first row (colour) fit no kind of task"),
        ("STS12", "test.jsonl", [{"sentence1": "a", "sentence2": "b", "score": "3"}], 'must be a number, got "3"'),
        (
            "SummEval",
            "test.jsonl",
            [{"text": "t", "human_summaries": [], "machine_summaries": ["m"], "relevance": [1]}],
            "not empty",
        ),
        (
            "AskUbuntuDupQuestions",
            "test.jsonl",
            [{"query": 3, "positive": ["a"], "negative": ["b"]}],
            "a text or a list of texts",
        ),
        ("Banking77Classification", "test.jsonl", [{"text": "a", "label": 1}], "lacks train.jsonl"),
        ("SST2", "test.jsonl", [{"text": "a", "label": 2}], "labels must be 0 (negative) or 1 (positive)"),
        ("MSMARCO", "queries.jsonl", [{"_id": "q", "text": "a"}], "lacks corpus.jsonl"),
        (
            "FloresBitextMining",
            "test.jsonl",
            [{"text": "a"}],
            "is a BitextMining task, which is not read from a folder",
        ),
    ],
)
def test_a_wrong_row_or_file_is_one_line(tmp_path, name, file, rows, expected):
    write_rows(tmp_path / name / file, rows)
    with pytest.raises(UserError) as error:
        plan(Suite("test", folder=str(tmp_path)))
        scored(tmp_path / name)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_gzip_is_one_line(tmp_path):
    (tmp_path / "STS12").mkdir()
    (tmp_path / "STS12" / "test.jsonl.gz").write_bytes(b"plain text")
    with pytest.raises(UserError, match=r"test.jsonl.gz: cannot be read after line 0"):
        scored(tmp_path / "STS12")
    with gzip.open(tmp_path / "STS12" / "test.jsonl.gz", "wt") as stream:
        stream.write("\n\n")
    with pytest.raises(UserError, match="has no rows"):
        scored(tmp_path / "STS12")
