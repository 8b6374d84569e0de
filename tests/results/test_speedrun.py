"""The recipe from random weights: its size, its sources, and a page that shows what its table holds."""

import csv

import yaml
from configs import composed
from conftest import ROOT, shared_dir
from transformers import BertConfig, BertModel

FOLDER = ROOT / "experiments/speedrun"
VOCABULARY = 30_000  # of `make speedrun`


def rows() -> list[dict[str, str]]:
    with open(FOLDER / "results.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_page_shows_every_task_and_score_of_the_table_and_how_far_each_target_is_missed():
    shown = [line.split("|") for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("|")]
    cells = {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in shown}
    keys = ("score", "metric", "target", "missed_by", "first_stage", "bm25", "all-MiniLM-L6-v2")
    assert rows() and all(cells[row["task"]] == [row[key] for key in keys] for row in rows())


def test_what_is_missed_is_the_target_less_the_score():
    asked = [row for row in rows() if row["target"]]
    assert {"STSBenchmark", "SciFact", "CodeSearchNetRuby"} <= {row["task"] for row in asked}
    for row in asked:
        missed = max(0.0, float(row["target"]) - float(row["score"]))
        assert abs(float(row["missed_by"]) - missed) < 0.011, row["task"]  # each is rounded by itself


def test_the_model_has_at_most_fifteen_million_parameters():
    model = composed("+experiment=speedrun").model
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=model.max_length, **{key: model[key] for key in sizes}
    )
    assert f"data.vocab_size={VOCABULARY}" in (ROOT / "Makefile").read_text()
    assert sum(weight.numel() for weight in BertModel(config).parameters()) <= 15_000_000


def test_the_second_stage_trains_the_model_of_the_first_on_sources_of_its_data():
    first, second = composed("+experiment=speedrun"), composed("+experiment=speedrun_finetune")
    assert {**second.model, "dropout": first.model.dropout} == {**first.model} and second.data.dir == first.data.dir
    assert set(second.sources) == set(second.data.weights) < set(first.data.weights)
    assert second.stage.max_length == first.model.max_length > first.stage.max_length


def test_every_source_of_both_corpora_has_a_weight():
    pairs = {path.name.removesuffix(".jsonl.gz") for path in shared_dir("data/pairs").glob("*.jsonl.gz")}
    demo = set(yaml.safe_load((ROOT / "conf/data/demo.yaml").read_text())["sources"])
    assert len(pairs) > 10 and set(composed("+experiment=speedrun").data.weights) == pairs | demo
