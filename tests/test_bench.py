"""The benchmarks measure what they say and write it with commit and machine."""

import json

import pytest

from gte.benchmarks import prepare

SMALL = ["benchmark.hidden_size=64", "benchmark.num_hidden_layers=1", "benchmark.rounds=1", "benchmark.max_length=32"]


@pytest.fixture
def bench(script, tmp_path):
    def run(*arguments) -> list[dict]:
        code, out, err = script("bench", *arguments, "out=bench")
        assert code == 0, err
        results = json.loads((tmp_path / "bench" / "results.json").read_text())
        assert results["commit"] and results["machine"]["cores"] and results["benchmark"]["_target_"]
        assert all(row["variant"] in out for row in results["rows"])
        return results["rows"]

    return run


def test_the_loss_benchmark_writes_time_and_memory(bench):
    rows = bench(
        "benchmark=loss", "benchmark.n=64", "benchmark.width=16", "benchmark.rounds=1",
        "+benchmark.memory_of=[[ours,4096,64]]",
    )  # fmt: skip
    assert {"ours", "dense"} <= {row["variant"] for row in rows if "ratio" in row}
    assert [row["peak_mb"] > 0 for row in rows if "peak_mb" in row] == [True]


def test_the_encode_benchmark_compares_equal_embeddings(bench, prepared):
    pytest.importorskip("sentence_transformers")
    rows = bench("benchmark=encode", f"benchmark.data={prepared}", "benchmark.texts=64", *SMALL)
    ours, *others = rows
    assert ours["variant"] == "ours fp32" and ours["ratio"] == 1 and {"padded fp32"} <= {r["variant"] for r in others}
    assert all(row["texts_per_s"] > 0 and row["peak_mb"] > 50 and 0 < row["mfu"] < 2 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch", ["null", "8"])
def test_the_train_benchmark_trains_every_variant_on_the_same_texts(bench, prepared, mini_batch):
    pytest.importorskip("accelerate")
    rows = bench(
        "benchmark=train", f"benchmark.data={prepared}", "benchmark.pairs=32", "benchmark.steps=2",
        f"benchmark.mini_batch={mini_batch}", "benchmark.precisions=[fp32]", *SMALL,
    )  # fmt: skip
    assert [row["variant"] for row in rows] == ["ours fp32", "sentence_transformers fp32", "padded fp32"]
    assert rows[0]["padding"] == 0 < rows[1]["padding"] and all(row["peak_mb"] > 50 for row in rows)


def test_the_checkpoint_benchmark_says_how_long_training_waits(bench):
    none, *others = bench(
        "benchmark=checkpoint", "benchmark.parameters=1200000", "benchmark.steps=4", "benchmark.every=2"
    )
    assert none["variant"] == "none" and none["stall"] == 0 < none["seconds"] and none["megabytes"] == 14.4
    assert [row["variant"] for row in others] == ["ours", "ours, waiting", "lightning", "lightning async"]
    assert all(0 < row["stall"] < row["seconds"] <= row["whole"] for row in others)


def test_variants_that_embed_differently_are_refused(script, prepared, monkeypatch, tmp_path):
    monkeypatch.setattr("gte.benchmarks.encode.padded", lambda encoder, texts: encoder.encode(texts)[::-1])
    with pytest.raises(Exception, match="padded fp32 embeds in another way than ours"):
        script("bench", "benchmark=encode", f"benchmark.data={prepared}", "benchmark.texts=64", *SMALL, "out=bench")


def test_the_preparation_benchmark_measures_variants_that_keep_the_same_pairs(bench):
    pytest.importorskip("duckdb", reason="pip install -r requirements-bench.txt")
    settings = ["rows=3000", "rounds=1", "pairs=[ours,duckdb]", "tokens=[ours tokens,encode_batch tokens]"]
    rows = bench("benchmark=prepare", *(f"benchmark.{each}" for each in settings))
    assert [row["variant"] for row in rows] == ["ours", "duckdb", "ours tokens", "encode_batch tokens"]
    ours, theirs, tokens, _ = rows
    assert ours["rows"] == 3_000 and 2_000 < ours["kept"] == theirs["kept"] == tokens["rows"] < 2_700
    assert all(row["seconds"] > 0 < row["cpu_s"] and row["peak_mb"] > 20 for row in rows)


def test_a_variant_that_keeps_other_pairs_is_no_peer(monkeypatch):
    def other(module, variant, raw, out, tokenizer):
        return {"seconds": 1.0, "rows": 10, "digest": variant}

    monkeypatch.setattr("gte.benchmarks.measure.in_child", other)
    with pytest.raises(RuntimeError, match="the variants do not give the same unique pairs"):
        prepare.run(rows=10, rounds=1, pairs=("ours", "duckdb"), tokens=())


def test_the_evaluation_benchmark_scores_alike_and_says_what_each_took(bench, small_model, tmp_path):
    from sentence_transformers import SentenceTransformer
    from test_evaluation import write_retrieval, write_sts

    from gte.export import export

    export(small_model, tmp_path / "model", "model")
    assert SentenceTransformer(str(tmp_path / "model")).max_seq_length == 64
    write_sts(tmp_path / "data" / "STSBenchmark")
    write_retrieval(tmp_path / "data" / "SciFact")
    paths = [f"benchmark.checkpoint={tmp_path / 'model'}", "benchmark.data_dir=data", "benchmark.rounds=1"]
    rows = bench("benchmark=evaluation", *paths)
    names = [(name, variant) for name in ("STSBenchmark", "SciFact") for variant in ("ours", "mteb+st")]
    assert [(row["task"], row["variant"]) for row in rows] == names
    for ours, theirs in (rows[:2], rows[2:]):
        assert abs(ours["score"] - theirs["score"]) < 0.05 and ours["ratio"] == 1
        assert theirs["ratio"] == theirs["seconds"] / ours["seconds"]


def test_the_sampler_benchmark_compares_loaders_of_equal_batches(bench, script, prepared):
    small = [f"benchmark.data={prepared}", "benchmark.steps=3", "benchmark.peer_steps=2", "benchmark.rounds=1"]
    rows = bench(
        "benchmark=sampler", "benchmark.pairs=100", "benchmark.max_length=12", "benchmark.workers=[0,1]", *small
    )
    variants = [row["variant"] for row in rows]
    assert variants == ["mixture", "mixture and collate"] + [
        f"{name}, {count} workers" for name in ("ours", "datasets, ids", "datasets, texts") for count in (0, 1)
    ]
    assert all(row["pairs_per_s"] > 0 and row["sources"] == 2 and 0 < row["tokens_per_pair"] <= 24 for row in rows)
    assert rows[2]["ratio"] == 1
    line = script.refused("bench", "benchmark=sampler", *small, "out=none")
    assert "has 16384 rows; set benchmark.pairs=400" in line


def test_a_loader_that_reads_other_rows_is_refused(script, prepared, monkeypatch):
    monkeypatch.setattr("gte.benchmarks.sampler.offset_rows", lambda ours, step: list(range(100)))
    with pytest.raises(Exception, match="datasets, ids reads other ids than ours"):
        script("bench", "benchmark=sampler", f"benchmark.data={prepared}", "benchmark.pairs=100", "out=bench")
