"""The benchmarks measure what they say and write it with commit and machine."""

import json
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gte.benchmarks import encode, loss, measure, prepare, texts, train
from gte.encoder import Encoder
from gte.errors import UserError
from gte.provenance import PACKAGES, versions

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
        "benchmark.memory_of=[[ours,4096,64]]",
    )  # fmt: skip
    assert {"ours", "dense"} <= {row["variant"] for row in rows if "ratio" in row}
    assert [row["peak_mb"] > 0 for row in rows if "peak_mb" in row] == [True]


@pytest.mark.slow
def test_the_encode_benchmark_compares_equal_embeddings(bench, prepared, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(measure, "matmul_size", lambda device: 256)  # seconds less a turn
    sizes = "benchmark.batch_sizes=[8,16]"
    rows = bench("benchmark=encode", f"benchmark.data={prepared}", "benchmark.texts=64", sizes, *SMALL)
    ours, *others = rows
    assert {row["batch_size"] for row in rows if row["variant"].startswith("sentence")} <= {8, 16}
    assert ours["variant"] == "ours fp32" and ours["ratio"] == 1 and {"padded fp32"} <= {r["variant"] for r in others}
    assert all(row["texts_per_s"] > 0 and row["peak_mb"] > 50 and 0 < row["mfu"] < 2 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch", ["null", "8"])
def test_the_train_benchmark_trains_every_variant_on_the_same_texts(bench, prepared, mini_batch):
    pytest.importorskip("accelerate")
    rows = bench(
        "benchmark=train", f"benchmark.data={prepared}", "benchmark.pairs=32", "benchmark.steps=2",
        f"benchmark.mini_batch={mini_batch}", "benchmark.precisions=[fp32,bf16]", *SMALL,
    )  # fmt: skip
    names = [f"{name} {each}" for each in ("fp32", "bf16") for name in ("ours", "sentence_transformers", "padded")]
    assert [row["variant"] for row in rows] == names
    assert rows[0]["padding"] == 0 < rows[1]["padding"] and all(row["peak_mb"] > 50 for row in rows)
    assert [row["ratio"] for row in rows if row["variant"].startswith("ours")] == [1, 1]
    assert rows[4]["ratio"] == pytest.approx(rows[4]["seconds"] / rows[3]["seconds"])
    assert np.ptp([row["first_loss"] for row in rows]) < 0.05 * rows[0]["first_loss"]


@pytest.mark.parametrize("architecture", texts.ARCHITECTURES)
def test_every_peer_trains_in_every_precision_that_ours_trains_in(prepared, monkeypatch, architecture):
    """The turns themselves are replaced: ours takes 1 s in fp32 and 0.5 s in bf16, a peer 3 s and 1 s."""
    asked = []

    def ours(job, settings, folder):
        asked.append(("ours", job["precision"], None))
        return {"seconds": {"fp32": 1.0, "bf16": 0.5}[job["precision"]], "loss": 5.0, "peak_mb": 1.0, "padding": 0.0}

    def peer(module, name, job):
        job = json.loads(job)
        asked.append((name, job["precision"], job["mini_batch"]))
        return {"seconds": {"fp32": 3.0, "bf16": 1.0}[job["precision"]], "loss": 5.01, "peak_mb": 1.0, "padding": 0.5}

    monkeypatch.setattr(train, "ours", ours)
    monkeypatch.setattr(train, "in_child", peer)
    monkeypatch.setattr(train, "matmul_rate", lambda *_: 1e10)
    given = dict(architecture=architecture, hidden_size=64, num_hidden_layers=1, pairs=16, steps=1, dropout=0.25)
    rows = train.run(str(prepared), **given, rounds=1, mini_batch=[4, 8], precisions=["fp32", "bf16"])
    theirs = [("sentence_transformers", 4), ("sentence_transformers", 8), ("padded", 4)]
    expected = [
        [("ours", each, None), *((name, each, portion) for name, portion in theirs)] for each in ("fp32", "bf16")
    ]
    assert asked == sum(expected, [])
    assert [row["ratio"] for row in rows] == [1, 3, 3, 3, 1, 2, 2, 2]  # never against ours in another precision
    assert rows[5]["variant"] == "sentence_transformers, portions of 4 bf16"
    assert {row["dropout"] for row in rows} == {0.25} and {row["architecture"] for row in rows} == {architecture}
    with pytest.raises(UserError, match=r"benchmark\.peers: gradcache is none of sentence_transformers, padded"):
        train.run(str(prepared), **given, peers=["gradcache"])
    with pytest.raises(UserError, match=r"benchmark\.architecture=t5 must be one of bert, modernbert"):
        train.run(str(prepared), **given | {"architecture": "t5"})


def test_variants_that_train_otherwise_are_refused_within_their_precision():
    train.check_first_losses({"ours fp32": 5.0, "padded fp32": 5.05, "ours bf16": 4.0, "padded bf16": 4.1}, 0.0)
    train.check_first_losses({"ours fp32": 5.0, "padded fp32": 9.0}, 0.1)
    for other in ("fp32", "bf16"):
        with pytest.raises(RuntimeError, match="do not train alike"):
            train.check_first_losses({f"ours {other}": 5.0, f"padded {other}": 5.5}, 0.0)


@pytest.mark.parametrize("architecture", texts.ARCHITECTURES)
def test_operations_are_those_that_pytorch_counts_and_a_window_takes_off(prepared, tmp_path, architecture):
    texts.write_model(tmp_path, str(prepared), architecture, 128, 4, 0.0)
    lm = Encoder.from_pretrained(tmp_path).lm.eval()
    lm.set_attn_implementation("eager")
    for length in (20, 200):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            lm(input_ids=torch.full((1, length), 7))
        window, width = 64, 128
        pairs = sum(abs(i - j) <= window for i in range(length) for j in range(length))
        local = 0 if architecture == "bert" else sum("sliding" in kind for kind in lm.config.layer_types)
        masked = local * 4 * width * (length**2 - pairs)  # eager attention computes what its mask then drops
        # PyTorch counts rotary angles too, one product of L frequencies a kind of layer: a ten thousandth
        found = measure.encoder_flops(np.array([length]), lm.config, backward=False)
        assert found == pytest.approx(counter.get_total_flops() - masked, rel=1e-3)
        assert (masked > 0) == (architecture == "modernbert" and length == 200)
        assert measure.encoder_flops(np.array([length] * 3), lm.config, backward=True) == 9 * found


def test_a_modernbert_is_the_same_to_its_peer(prepared, tmp_path):
    texts.write_model(tmp_path, str(prepared), "modernbert", 128, 4, 0.0)
    words = ["red green blue", "a small round one and an old flat one " * 20]
    ours = Encoder.from_pretrained(tmp_path, 128).encode(words)
    peer = texts.sentence_transformer(str(tmp_path), 128, "cpu")
    assert np.abs(ours - peer.encode(words, normalize_embeddings=True)).max() < 1e-5
    assert peer[0].auto_model.config.local_attention == 128 and peer[0].auto_model.config.num_hidden_layers == 4


def test_the_fastest_batch_size_of_a_peer_counts(monkeypatch):
    seconds, now = {32: 9.0, 256: 1.0, 1024: 5.0}, [0.0]

    def make(name, job):
        return lambda corpus: now.append(now[-1] + seconds[job["batch_size"]])

    monkeypatch.setattr(encode, "make", make)
    monkeypatch.setattr(encode, "time", SimpleNamespace(perf_counter=lambda: now[-1]))
    assert encode.fastest("sentence_transformers fp32", {}, ["a text"], list(seconds))[0] == 256


def test_the_losss_memory_is_that_of_the_device(monkeypatch):
    """On this machine's CPU, told to be a GPU: who is asked for what."""
    asked, real = [], loss.embeddings
    monkeypatch.setattr(loss, "embeddings", lambda n, width, device="cpu": real(n, width))
    monkeypatch.setattr(loss, "in_child", lambda *given: asked.append(given) or {"peak": 2**20})
    rows = loss.run(n=16, width=8, rounds=1, device="cuda", memory_of=[("ours", 64, 8)])
    assert asked == [("gte.benchmarks.loss", "ours", 64, 8, "cuda")]
    assert rows[-1] == {"variant": "ours", "n": 64, "width": 8, "device": "cuda", "peak_mb": 1.0}
    resets = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", resets.append)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 700)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 1000)
    assert loss.memory("ours", 64, 8, "cuda") == {"peak": 300} and resets == ["cuda"]


def test_a_gpus_rate_is_of_large_products_after_a_warm_up(monkeypatch):
    assert measure.matmul_size("cuda") == 8192 and measure.matmul_size("cpu") == 2048
    now = iter([0.0, 0.001] + [float(x) for pair in zip(range(1, 19, 3), range(4, 22, 3), strict=True) for x in pair])
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert measure.matmul_rate("cpu", size=10) == 2000 / 1.0  # 3 products in 3 s; the first turn was faster


def test_a_childs_path_comes_before_what_pythonpath_had(monkeypatch, tmp_path):
    (tmp_path / "elsewhere.py").write_text("import json, sys; import gte; print(json.dumps({'path': sys.path[1:3]}))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert measure.in_child("elsewhere")["path"] == [str(texts.Path(texts.__file__).parents[2]), str(tmp_path)]
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(RuntimeError, match="elsewhere"):
        measure.in_child("elsewhere")


def test_a_package_that_is_missing_has_no_version(monkeypatch, bench):
    def missing(name):
        if name in ("mteb", "bm25s"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("gte.provenance.version", missing)
    found = versions()
    assert set(found) == {"python", *PACKAGES} and found["torch"] == torch.__version__
    assert [name for name, number in found.items() if number is None] == ["mteb", "bm25s"]
    assert bench(
        "benchmark=loss", "benchmark.n=16", "benchmark.width=8", "benchmark.rounds=1", "benchmark.memory_of=[]"
    )


@pytest.mark.slow
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
    from task_folders import write_retrieval, write_sts

    from gte.models.export import export

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


def test_a_benchmark_that_cannot_be_made_is_one_line_before_a_model_is_loaded(script, monkeypatch, tmp_path):
    from task_folders import write_sts

    write_sts(tmp_path / "data" / "STSBenchmark")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("gte.benchmarks.evaluation.load_encoder", lambda _: pytest.fail("a model was loaded"))
    named = ["benchmark=evaluation", "benchmark.checkpoint=run", "benchmark.data_dir=data", "out=bench"]
    refused = {
        "no folder Nope under": [*named, "benchmark.tasks=[Nope]"],
        "benchmark.tasks=[] must be": [*named, "benchmark.tasks=[]"],
        "benchmark.precision=fp31 must be": [*named, "benchmark.precision=fp31"],
        "run is no model directory; src/export.py makes one": [*named, "benchmark.tasks=STSBenchmark"],
        "benchmark.rounds=0 must be at least 1": ["benchmark=checkpoint", "benchmark.rounds=0", "out=bench"],
        "benchmark.memory_of: theirs is none of ours, dense": ["benchmark.memory_of=[[theirs,8,8]]", "out=bench"],
        "add ours to benchmark.pairs": ["benchmark=prepare", "benchmark.pairs=[datasets]", "out=bench"],
    }
    if not torch.cuda.is_available():
        refused["benchmark.device=cuda: this machine has no CUDA"] = ["benchmark.device=cuda", "out=bench"]
    for line, arguments in refused.items():
        assert line in script.refused("bench", *arguments)
    assert not (tmp_path / "bench").exists()


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
