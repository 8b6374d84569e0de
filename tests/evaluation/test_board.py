"""Suites are mteb's own lists, what is written for its board is what mteb writes, means count a suite's own tasks."""

import json
from dataclasses import replace
from statistics import mean

import mteb
import pytest
import torch
import yaml
from conftest import shared_dir
from evaluations import KnownEncoder, suite_of
from huggingface_hub import ModelCard
from mteb.models.model_meta import ModelMeta
from mteb.results import ModelResult, TaskResult
from task_folders import write_retrieval, write_rows, write_sts

from gte.data.sources import source_files
from gte.errors import UserError, did_you_mean
from gte.evaluation.board import SCORED_TOO, check_stated, model_meta, newer, parts_of, task_results
from gte.evaluation.local import english_subset, eval_split
from gte.evaluation.model import EncoderModel, load_model
from gte.evaluation.suite import Plan, Suite, plan, run_suite
from gte.evaluation.tasks import Task, known
from gte.models.card import hub_results, metadata, own_sources
from gte.models.load import history
from gte.results.paper import averages
from gte.results.table import as_markdown, as_text, cells

BOARD = {
    "mteb_v2": "MTEB(eng, v2)",
    "nano": "NanoBEIR",
    "code": "MTEB(Code, v1)",
    "long": "LongEmbed",
    "bright": "BRIGHT(v1.1)",
    "mteb": "MTEB(eng, v1)",
    "beir": "BEIR",
}


@pytest.mark.parametrize("name", BOARD)
def test_a_suite_has_the_tasks_subsets_and_splits_of_mtebs_own_list(name):
    official = {task.metadata.name: task for task in mteb.get_benchmark(BOARD[name]).tasks}
    suite = suite_of(name)
    assert suite.benchmark == BOARD[name] and len(suite.tasks) == len(set(suite.tasks))
    assert set(suite.tasks) == set(official)
    assert {*suite.subsets, *suite.splits} <= set(official)
    for task, its in official.items():
        if its.is_aggregate:
            continue
        assert set(suite.subsets.get(task, [english_subset(known(task))])) == set(its.hf_subsets), task
        assert set(suite.splits.get(task, [eval_split(known(task))])) == set(its.eval_splits), task


def fabricated(name: str) -> tuple[dict, dict, ModelResult]:
    """A full result of a suite with a score of its own for every part: our entry, kinds, and mteb's model result."""
    suite, tasks, kinds, results = suite_of(name), {}, {}, []
    for number, task in enumerate(suite.tasks):
        its = known(task)
        kinds[task] = its.metadata.type
        subsets = suite.subsets.get(task, [english_subset(its)])
        splits = suite.splits.get(task, [eval_split(its)])
        scores, parts = {}, []
        for i, split in enumerate(splits):
            for j, subset in enumerate(subsets):
                value = (number * 7 + i * 3 + j) % 97 / 100
                scores.setdefault(split, {})[subset] = {"main_score": value}
                parts.append({"split": split, "subset": subset, "score": 100 * value})
        tasks[task] = {"main_score": mean(part["score"] for part in parts), "parts": parts}
        results.append(TaskResult.from_task_results(its, scores, evaluation_time=1))
    meta = {"model_name": "me/model", "model_revision": "1"}
    return {"tasks": tasks}, kinds, ModelResult(**meta, task_results=results)


@pytest.mark.parametrize("name", ["mteb_v2", "code", "long", "bright"])
def test_the_means_are_those_of_mtebs_board(name):
    entry, kinds, theirs = fabricated(name)
    ours = averages(entry, kinds, suite_of(name).groups)
    board = mteb.get_benchmark(BOARD[name])._get_model_score(theirs)
    names = {"Mean(Task)": "all", "Mean(TaskType)": "types"}
    if name == "code":
        coir = mteb.get_benchmark("CoIR")._get_model_score(theirs)
        board["CoIR"] = coir["Mean(Task)"]
    assert len(board) >= 3
    for key, value in board.items():
        own = ours[names.get(key, key.rpartition("::")[2])]
        assert own["mean"] == pytest.approx(100 * value, abs=2e-3), key
        assert own["tasks"] == own["of"]


def test_a_task_of_several_splits_and_subsets_is_scored_on_each_and_a_missing_one_is_named(tmp_path):
    for split in ("test_256", "test_512"):
        write_retrieval(tmp_path / "data" / "LEMBNeedleRetrieval", split=split)
    for language, documents in (("go", 35), ("ruby", 150)):
        write_retrieval(tmp_path / "data" / "CodeSearchNetRetrieval" / language, documents)
    suite = Suite(
        "test",
        ["LEMBNeedleRetrieval", "CodeSearchNetRetrieval"],
        splits={"LEMBNeedleRetrieval": ["test_256", "test_512"]},
        subsets={"CodeSearchNetRetrieval": ["go", "ruby"]},
    )
    results = evaluate(tmp_path, suite, tmp_path / "data")
    needle, code = (results["models"]["model"]["tasks"][name] for name in suite.tasks)
    assert [part["split"] for part in needle["parts"]] == ["test_256", "test_512"]
    assert [part["subset"] for part in code["parts"]] == ["go", "ruby"]
    assert code["parts"][0]["score"] != code["parts"][1]["score"]
    assert code["main_score"] == pytest.approx(mean(part["score"] for part in code["parts"]), abs=2e-3)
    assert not code["parts"][0]["whole"]  # of six
    more = replace(suite, subsets={"CodeSearchNetRetrieval": ["go", "ruby", "php"]})
    with pytest.raises(UserError, match="CodeSearchNetRetrieval lacks the part php"):
        evaluate(tmp_path, more, tmp_path / "data")


def evaluate(tmp_path, suite, data, only=None, split=None, out="out", **options) -> dict:
    todo = plan(suite, data, only, split)
    load = {"load_model": lambda checkpoint: EncoderModel(KnownEncoder())}
    return run_suite({"model": "checkpoint"}, suite, todo, tmp_path / out, say=lambda line: None, **load, **options)


def test_own_tasks_and_other_splits_are_marked_and_in_no_mean_of_the_suite(tmp_path):
    for name in ("STS12", "STS13", "MyPairs"):
        write_sts(tmp_path / "data" / name)
    write_rows(
        tmp_path / "data" / "STS13" / "dev.jsonl",
        [{"sentence1": str(i), "sentence2": "x", "score": i} for i in range(9)],
    )
    suite = Suite("sts", ["STS12", "STS13", "STS14"])
    results = evaluate(tmp_path, suite, tmp_path / "data", only=["STS12", "MyPairs"])
    entry = results["models"]["model"]
    score = entry["tasks"]["STS12"]["main_score"]
    assert entry["tasks"]["MyPairs"]["main_score"] == score  # equal rows: a mean with it would not show
    assert entry["averages"]["STS"] == {"mean": score, "tasks": 1, "of": 3}
    assert [entry["tasks"][name]["counted"] for name in ("STS12", "MyPairs")] == [True, False]
    assert cells(results)[0] == ["model", "STS12 Spearman", "MyPairs* Spearman"]
    assert "1 of 10" in as_markdown(results) and "2 of 10" not in as_markdown(results)
    assert all("* not a task of suite=sts" in text for text in (as_text(results), as_markdown(results)))
    on_dev = evaluate(tmp_path, suite, tmp_path / "data", only=["STS13"], split="dev", out="dev")
    assert not on_dev["models"]["model"]["averages"] and cells(on_dev)[0] == ["model", "STS13* Spearman"]
    local = evaluate(tmp_path, Suite("local", folder=str(tmp_path / "data")), tmp_path / "data", out="local")
    assert local["models"]["model"]["averages"]["STS"]["tasks"] == 3  # a folder's suite is what it holds


def test_map_is_trec_evals_and_every_table_that_prints_it_says_so(tmp_path):
    relevant = write_retrieval(tmp_path / "data" / "AskUbuntuDupQuestions")
    ranked = [{"query-id": query, "corpus-ids": [f"d{i}" for i in range(150)]} for query in [*relevant, "unasked"]]
    write_rows(tmp_path / "data" / "AskUbuntuDupQuestions" / "top_ranked.jsonl", ranked)
    write_sts(tmp_path / "data" / "STS12")
    results = evaluate(tmp_path, Suite("mteb", ["AskUbuntuDupQuestions"]), tmp_path / "data")
    encoder, by_all, by_fewer = KnownEncoder(), [], []
    for query, found in relevant.items():
        scores = {
            f"d{i}": float(encoder.vector(f"query {query}") @ encoder.vector(f"document {i}")) for i in range(150)
        }
        hits = [document in found for document in sorted(scores, key=scores.get, reverse=True)[:10]]
        precisions = sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit)
        by_all.append(precisions / len(found))
        by_fewer.append(precisions / min(10, len(found)))
    score = results["models"]["model"]["tasks"]["AskUbuntuDupQuestions"]["scores"]["map_at_10"]
    assert score == pytest.approx(100 * mean(by_all), abs=2e-3) and mean(by_all) != mean(by_fewer)
    assert all("divided by all of its relevant documents" in text for text in (as_text(results), as_markdown(results)))
    assert "relevant documents" not in as_text(evaluate(tmp_path, Suite("sts", ["STS12"]), tmp_path / "data", out="b"))


def test_near_names_other_versions_and_a_missing_hub_are_one_line_each(tmp_path, monkeypatch):
    assert did_you_mean("sts12", ["STS12", "STS13"]) == ", did you mean STS12?"
    sts, v2 = suite_of("sts"), suite_of("mteb_v2")
    for suite, only, line in (
        (sts, ["sts12"], "unknown task sts12, did you mean STS12?"),
        (v2, ["Touche2020"], "tasks=Touche2020 is another version than suite=mteb_v2 has: name Touche2020Retrieval.v3"),
        (v2, ["SummEval"], "is another version than suite=mteb_v2 has: name SummEvalSummarization.v2"),
        (suite_of("mteb"), ["STS22.v2"], "tasks=STS22.v2 is another version than suite=mteb has: name STS22"),
        (v2, ["Banking77Classification.v2"], "has: name Banking77Classification"),
    ):
        with pytest.raises(UserError) as error:
            plan(suite, only=only)
        assert line in str(error.value) and "\n" not in str(error.value)
    assert newer("STS12") is None and newer("ArxivClusteringP2P") == "ArXivHierarchicalClusteringP2P"
    assert list(plan(sts, only=["SciFact"]).run) == ["SciFact"]  # no version of one of its own: as an own task
    monkeypatch.setattr("gte.evaluation.board.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    nano = suite_of("nano")
    offline = {"load_model": pytest.fail, "out": tmp_path / "out", "say": print}
    with pytest.raises(UserError, match=r"suite=nano needs the hub, .* for the data of .* and 10 more; pass data_dir="):
        run_suite({"a": "a"}, nano, plan(nano), **offline)


def test_the_result_file_is_the_one_that_mteb_writes_for_the_same_model_and_data(script, minilm, tmp_path):
    """mteb's own loop over a SentenceTransformer of the same weights, its cache and its classes."""
    from sentence_transformers import SentenceTransformer

    data = shared_dir("data/eval") / "STS17"
    arguments = [f"checkpoint={{me/mini: {minilm}}}", "suite=sts", f"data_dir={data.parent}", "tasks=[STS17]"]
    code, out, err = script("eval", *arguments, "precision=fp32", "out=out", "board={license: apache-2.0}")
    assert code == 0, err
    task = Plan({"STS17": data}, {}).task("STS17").parts[0]
    mteb.evaluate(SentenceTransformer(str(minilm)), task, cache=mteb.ResultCache(tmp_path / "mteb"))
    (theirs,) = (tmp_path / "mteb" / "results").glob("*/*/STS17.json")
    (ours,) = (tmp_path / "out" / "results").glob("me__mini/*/STS17.json")
    assert f"{ours.parent}" in out.replace("out/results", str(tmp_path / "out/results"))
    ours_json, theirs_json = (json.loads(file.read_text()) for file in (ours, theirs))
    assert ours_json.keys() == theirs_json.keys() and ours_json["mteb_version"] == theirs_json["mteb_version"]
    (one,), (two,) = (content["scores"]["test"] for content in (ours_json, theirs_json))
    assert one.keys() == two.keys()
    for key, value in two.items():
        assert one[key] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value), key
    assert ours_json["dataset_revision"].startswith("sha256:")  # of local files nobody says what they are
    cache = mteb.ResultCache(tmp_path / "out")
    (loaded,) = cache.load_results(models=["me/mini"], tasks=["STS17"], include_remote=False).model_results
    assert loaded.task_results[0].get_score() == pytest.approx(theirs_json["scores"]["test"][0]["main_score"], abs=1e-4)
    meta = ModelMeta.model_validate_json_resolved((ours.parent / "model_meta.json").read_text())
    assert (meta.name, meta.license, meta.embed_dim, meta.revision) == ("me/mini", "apache-2.0", 384, ours.parent.name)
    assert meta.n_parameters == 22713216 and meta.training_datasets is None and meta.openness["open license"]


def test_the_model_meta_says_what_the_history_says_and_no_more(run, script, tmp_path):
    folder, _ = run
    write_sts(tmp_path / "data" / "STS12")
    content = torch.load(folder / "checkpoints" / "last.ckpt")
    content["history"][0]["sources"] = {
        **{"msmarco": {}, "nli": {}, "my_pairs": {}},
        **{"lighton_ft_fever": {}, "lighton_curated_quora": {}},  # by the names of open data as by the paper's
    }
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: a licence of its own\n---\n# base\n")
    content["history"][0]["model"] = {"name_or_path": str(base)}
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    arguments = ["checkpoint=run", "suite=sts", "data_dir=data", "precision=fp32", "out=out"]
    code, out, err = script("eval", *arguments)
    assert code == 0 and "board.training_datasets what of my_pairs" in out, err
    (file,) = (tmp_path / "out" / "results").glob("local__run/*/model_meta.json")
    meta = ModelMeta.model_validate_json_resolved(file.read_text())
    assert meta.training_datasets == {"MSMARCO", "FEVER", "QuoraRetrieval"} and meta.languages is None
    assert {"MSMARCOHardNegatives", "FEVERHardNegatives"} <= meta.get_training_datasets()  # mteb adds its own
    assert meta.license is None and meta.open_weights is None and meta.public_training_code is None
    for key, line in (
        ("licence: mit", "board.licence is not read, did you mean license"),
        ("license: mine", "board.license=mine: mteb does not take it"),
        ("release_date: soon", "board.release_date=soon: mteb does not take it"),
    ):
        assert line in script.refused("eval", *arguments, f"board={{{key}}}")
    del content["history"][0]["sources"]["my_pairs"]
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    model = load_model(str(folder), "fp32", None, "cpu", progress=False)
    assert model_meta("run", str(folder), model, {}).languages == ["eng-Latn"]
    content["history"][0]["sources"]["msmarco"] = {"category": "local"}  # a file of that name
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    meta = model_meta("run", str(folder), model, {})
    assert meta.languages is None and meta.training_datasets == {"FEVER", "QuoraRetrieval"}
    check_stated({"public_training_code": "https://example.org/code", "training_datasets": ["STS12"]})


def test_every_scored_source_is_one_of_ours_and_every_set_is_mtebs():
    assert SCORED_TOO.keys() <= source_files().keys()
    assert all(known(name) is not None for names in SCORED_TOO.values() for name in names)


def ran(task: Task) -> Task:
    task.load()
    task.run(EncoderModel(KnownEncoder()))
    return task


def test_the_hubs_result_files_are_mtebs_own_entries(tmp_path):
    """As if the data had come from the hub: mteb's private writer of .eval_results is the oracle."""
    write_sts(tmp_path / "STS13")
    write_retrieval(tmp_path / "CodeSearchNetRetrieval" / "go")
    tasks = Plan(
        {"STS13": tmp_path / "STS13", "CodeSearchNetRetrieval": tmp_path / "CodeSearchNetRetrieval"},
        {},
        subsets={"CodeSearchNetRetrieval": ["go"]},
    )
    run, written = {}, {}
    for name in tasks.run:
        task = ran(tasks.task(name))
        for part in task.parts:
            part.folder = None
        run[name] = {"source": "hub", "parts": parts_of(task)}
        (written[name],) = task_results(task, 1.0)
    scores = {
        "tasks": run,
        "created": "2026-01-02T03:04:05+00:00",
        "mteb": "2.26.0",
        "precision": "fp32",
        "commit": "c",
    }
    files = hub_results(scores)
    assert files.keys() == run.keys()
    for name, text in files.items():
        theirs = yaml.safe_load(written[name]._to_hf_benchmark_result().to_yaml())
        ours = yaml.safe_load(text)
        facts = [{(e["dataset"]["id"], e["dataset"]["task_id"], e["value"]) for e in side} for side in (ours, theirs)]
        assert facts[0] == facts[1] and ours[0]["dataset"]["revision"] == theirs[0]["dataset"]["revision"]
        assert len(ours) == {"STS13": 2, "CodeSearchNetRetrieval": 1}[name]  # the whole has a score of its own
    write_rows(
        tmp_path / "STS13" / "dev.jsonl", [{"sentence1": str(i), "sentence2": "x", "score": i} for i in range(9)]
    )
    for name, split, none in (("STS13", "test", False), ("STS13", "dev", True), ("Mine", "test", True)):
        (part,) = parts_of(ran(Plan({name: tmp_path / "STS13"}, {}, split=split).task(name)))
        assert (part["dataset"] is None) == none, (name, split)
    scores["tasks"]["STS13"]["source"] = "folder"
    assert "STS13" not in hub_results(scores)


def test_the_card_names_data_sets_base_model_and_a_language_that_is_known(tmp_path):
    def card(stages: list, language: str | list | None = None):
        return ModelCard(f"---\n{metadata('me/model', None, 'mit', stages, language).strip()}\n---\n").data

    stage = {"stage": {"init_from": None}, "model": {"name_or_path": "google-bert/bert-base-uncased"}}
    ours, mine = {"npr": {}, "arxiv": {}}, {"npr": {"category": "news"}, "faq": {"category": "local"}}
    found = card([stage | {"sources": ours}, stage | {"sources": {"npr": {}}}])
    assert found.language == "en" and found.datasets == ["sentence-transformers/npr"]
    assert found.base_model == "google-bert/bert-base-uncased"
    assert card([stage | {"sources": {"our_triples": {"category": "news"}}}]).language == "en"
    for sources in (mine, {"mine": {}}, {"npr": {"category": "local"}}):  # a file may have the name of a source
        found = card([stage | {"sources": ours}, stage | {"sources": sources}])
        assert found.language is None and found.datasets == ["sentence-transformers/npr"]
        assert card([stage | {"sources": sources}], "fr").language == "fr"
    assert card([stage | {"sources": {"npr": {"category": "local"}}}], ["en", "de"]).datasets is None
    assert card([]).language is None and card([], ["en", "de"]).language == ["en", "de"]


def test_a_model_of_ones_own_files_has_no_language_but_the_one_that_is_said(run, script):
    assert own_sources(history(run[0]))
    assert script("export", f"checkpoint={run[0]}", "out=silent")[0] == 0
    assert ModelCard.load("silent/README.md").data.language is None
    assert script("export", f"checkpoint={run[0]}", "out=said", "language=[en,de]")[0] == 0
    assert ModelCard.load("said/README.md").data.language == ["en", "de"]
    assert "language" in script.refused("export", f"checkpoint={run[0]}", "out=no", "language=French")
