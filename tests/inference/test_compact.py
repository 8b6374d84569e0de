"""Compact vectors: codes are those of sentence-transformers, what they stand for is near the vectors, files say how."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers.util.quantization import _dequantize_embeddings, quantize_embeddings
from task_folders import write_sts

from gte.encoder import Encoder
from gte.errors import UserError
from gte.inference.compact import DTYPES, Scheme, Vectors, read_vectors, scheme_for

WIDTH = 44  # no multiple of 8


def unit(rows: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    x_ND = np.random.default_rng(seed).normal(0.2, 1, size=(rows, width)) * np.linspace(0.2, 2, width)
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


def compact(x_ND: np.ndarray, dtype: str) -> Vectors:
    scheme = scheme_for(dtype, x_ND.min(0), x_ND.max(0))
    return Vectors(scheme.encode(x_ND), scheme)


@pytest.mark.parametrize("dtype", ["uint8", "binary", "ubinary"])
def test_codes_are_those_of_sentence_transformers(dtype):
    x_ND = unit(300)
    x_ND[::7, ::5] = 0
    theirs = quantize_embeddings(x_ND, precision=dtype)
    ours = compact(x_ND, dtype)
    assert ours.codes_MB.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.codes_MB, theirs)
    assert ours.nbytes == theirs.nbytes


def test_int8_has_one_scale_and_its_ranges_read_it_in_sentence_transformers():
    x_ND = unit(300)
    ours = compact(x_ND, "int8")
    assert np.abs(ours.codes_MB.astype(int)).max() == 127
    restored = ours.scheme.decode(ours.codes_MB)
    scale = np.abs(x_ND).max() / 127
    np.testing.assert_allclose(restored, ours.codes_MB * scale, rtol=1e-5)
    assert np.abs(restored - x_ND).max() <= scale * 0.501
    theirs = _dequantize_embeddings(ours.codes_MB, "int8", ours.scheme.ranges_2D)
    np.testing.assert_allclose(theirs, restored, atol=1e-6)
    q_ND = unit(9, seed=1)
    products = q_ND @ ours.codes_MB.T.astype(np.float32)  # as a program does that knows no ranges
    np.testing.assert_allclose(products * scale, q_ND @ restored.T, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_what_the_codes_stand_for_is_within_half_a_step(dtype):
    x_ND = unit(300)
    x_ND[:, 5] = 0.125  # a dimension without any range
    vectors = compact(x_ND, dtype)
    steps = vectors.scheme.steps_D
    assert (np.abs(vectors.scheme.decode(vectors.codes_MB) - x_ND) <= 0.501 * steps + 1e-7).all()
    beyond = vectors.scheme.decode(vectors.scheme.encode(3 * x_ND))  # cut to the ranges, not wrapped around
    clear = np.abs(x_ND) > 2 * steps
    assert clear[:, -1].any() and (np.sign(beyond) == np.sign(x_ND))[clear].all()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("rows", [unit(1), np.repeat(unit(1), 3, axis=0), 50 * unit(1), 0 * unit(2)])
def test_ranges_of_a_single_vector_tell_others_apart(dtype, rows):
    scheme = scheme_for(dtype, rows.min(0), rows.max(0))
    assert (scheme.steps_D > 0).all()
    others = unit(300, seed=1) * (np.linalg.norm(rows[0]) or 1)
    assert len(np.unique(scheme.encode(others), axis=0)) == 300
    np.testing.assert_allclose(scheme.decode(scheme.encode(rows)), rows, atol=scheme.steps_D.max() * 0.501)
    if dtype == "uint8":  # most are within, and what is kept of them is the vector
        kept = scheme.decode(scheme.encode(others))
        cosines = (kept * others).sum(1) / np.linalg.norm(kept, axis=1) / np.linalg.norm(others, axis=1)
        assert np.median(cosines) > 0.998


@pytest.mark.parametrize("dtype", DTYPES)
def test_search_finds_what_sorting_all_scores_finds_and_ties_go_to_the_lowest_row(dtype, monkeypatch):
    d_ND = unit(200)
    d_ND[150:] = d_ND[20:70]  # equal vectors
    q_ND, vectors = unit(7, seed=1), compact(d_ND, dtype)
    scores = (q_ND.astype(np.float64) @ vectors.scheme.decode(vectors.codes_MB).T.astype(np.float64)).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(200), scores.shape), -scores))[:, :30]
    for block in (7, 8_192):
        monkeypatch.setattr("gte.inference.compact.BLOCK", block)
        monkeypatch.setattr("gte.inference.compact.DECODED", block)
        values, rows = vectors.search(q_ND, 30, rescored=200)
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_array_equal(values, np.take_along_axis(scores, order, 1))
    assert vectors.search(q_ND, 1_000)[1].shape == (7, 200)


def test_the_nearest_bits_are_those_of_the_lowest_hamming_distance_and_the_best_are_ranked_again(monkeypatch):
    monkeypatch.setattr("gte.inference.compact.QUERIES", 3)
    d_ND, q_ND = unit(300), unit(7, seed=1)
    ours = compact(d_ND, "binary")
    distance = ((q_ND > 0)[:, None] != (d_ND > 0)).sum(-1)
    order = np.lexsort((np.broadcast_to(np.arange(300), distance.shape), distance))
    np.testing.assert_array_equal(ours.search(q_ND, 20, rescored=0)[1], order[:, :20])
    values, rows = ours.search(q_ND, 20, rescored=8)
    np.testing.assert_array_equal(rows[:, 8:], order[:, 8:20])
    asymmetric = q_ND @ np.where(d_ND > 0, 1, -1).T / np.sqrt(WIDTH)
    for query in range(7):
        assert rows[query, :8].tolist() == sorted(order[query, :8], key=lambda row: -asymmetric[query, row])
    assert (np.diff(values) <= 0).all()
    for width in (3, 30, 64, 70):  # codes of less than half a word, of half a one, of one and of more
        d_ND, q_ND = unit(30, width), unit(4, width, seed=1)
        distance = ((q_ND > 0)[:, None] != (d_ND > 0)).sum(-1)
        order = np.lexsort((np.broadcast_to(np.arange(30), distance.shape), distance))
        np.testing.assert_array_equal(compact(d_ND, "binary").search(q_ND, 20, rescored=0)[1], order[:, :20])


def write_texts(folder, name="a.txt", rows=40) -> None:
    (folder / name).write_text("".join(f"{'many words ' * (row % 5)}number {row}\n" for row in range(rows)))


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_any_dtype_is_read_back_as_what_embed_was_given(script, small_model, tmp_path, dtype, suffix):
    write_texts(tmp_path)
    out = tmp_path / f"e.{suffix}"
    command = ["embed", f"checkpoint={small_model}", "in=a.txt", f"out=e.{suffix}", "precision=fp32", "truncate_dim=20"]
    code, said, err = script(*command, f"dtype={dtype}")
    assert code == 0 and f"20 dimensions, fp32, kept as {dtype}" in said, err
    full_ND = Encoder.from_pretrained(small_model).encode(
        (tmp_path / "a.txt").read_text().splitlines(), normalize=False
    )
    expected_ND = full_ND[:, :20] / np.linalg.norm(full_ND[:, :20], axis=1, keepdims=True)
    vectors = read_vectors(out)
    assert (vectors.scheme.dtype, vectors.scheme.width, len(vectors)) == (dtype, 20, 40)
    theirs = quantize_embeddings(expected_ND, precision=dtype) if dtype != "int8" else vectors.codes_MB
    if dtype == "float32":
        np.testing.assert_allclose(vectors.codes_MB, expected_ND, atol=1e-6)
    else:
        assert (vectors.codes_MB != theirs).mean() < 0.01  # a value at the edge of two codes
    restored = vectors.scheme.decode(vectors.codes_MB)
    assert (restored * expected_ND).sum(1).min() > (0.5 if dtype.endswith("binary") else 0.995)
    beside = tmp_path / "e.npy.json"
    assert beside.exists() == (suffix == "npy" and dtype != "float32")
    assert script(*command, "dtype=float32")[0] == 0 and not beside.exists()  # no scheme of other vectors stays behind
    np.testing.assert_allclose(read_vectors(out).codes_MB, expected_ND, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_codes_without_what_reads_them_are_one_line(script, small_model, tmp_path, dtype):
    write_texts(tmp_path)
    for suffix in ("npy", "parquet"):
        assert script("embed", f"checkpoint={small_model}", "in=a.txt", f"out=e.{suffix}", f"dtype={dtype}")[0] == 0
    (tmp_path / "e.npy.json").rename(tmp_path / "other.json")
    pq.write_table(pq.read_table("e.parquet").replace_schema_metadata(), "e.parquet")
    for file, reason in (("e.npy", "e.npy.json is not beside it"), ("e.parquet", "its metadata are gone")):
        with pytest.raises(UserError, match=f"codes, and what they mean .* is not known: {reason}") as error:
            read_vectors(tmp_path / file)
        assert "\n" not in str(error.value)
        line = script.refused("embed", f"checkpoint={small_model}", "in=a.txt", "out=f.npy", f"ranges={file}",
                              f"dtype={dtype}")  # fmt: skip
        assert reason in line


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": "uint8"}, "do not belong together"),
        ({"dimensions": 31}, "does not say how its codes are read"),
        ({"rows": 3}, "do not belong together"),
        ({"dtype": "int4"}, "does not say how its codes are read"),
        ({"low": None}, "does not say how its codes are read"),
        ({"low": [float("nan")] * 32}, "does not say how its codes are read"),
    ],
)
def test_a_scheme_of_other_codes_is_one_line(script, small_model, tmp_path, change, reason):
    write_texts(tmp_path)
    assert script("embed", f"checkpoint={small_model}", "in=a.txt", "out=e.npy", "dtype=int8")[0] == 0
    beside = tmp_path / "e.npy.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | change))
    with pytest.raises(UserError, match=reason):
        read_vectors(tmp_path / "e.npy")


def test_vectors_of_two_files_are_compared_by_the_ranges_of_the_first(script, small_model, tmp_path):
    write_texts(tmp_path, rows=60)
    write_texts(tmp_path, "b.txt", rows=7)
    command = ["embed", f"checkpoint={small_model}", "precision=fp32", "dtype=int8"]
    assert script(*command, "in=b.txt", "out=narrow.npy")[0] == 0
    code, said, _ = script(*command, "in=a.txt", "out=wide.npy", "ranges=narrow.npy")
    narrow, wide = read_vectors("narrow.npy"), read_vectors("wide.npy")
    np.testing.assert_array_equal(wide.scheme.ranges_2D, narrow.scheme.ranges_2D)
    np.testing.assert_array_equal(wide.codes_MB[:7], narrow.codes_MB)
    x_ND = Encoder.from_pretrained(small_model).encode((tmp_path / "a.txt").read_text().splitlines())
    low, high = narrow.scheme.ranges_2D
    outside = ((x_ND < low) | (x_ND > high)).any(1).sum()
    assert code == 0 and (f"{outside} reach beyond the ranges given" in said) == (outside > 0)
    line = script.refused(*command, "in=a.txt", "out=x.npy", "ranges=narrow.npy", "truncate_dim=8")
    assert "is of int8 with 32 dimensions, not of int8 with 8" in line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["dtype=int4"], "dtype=int4 is not one of float32, int8, uint8, binary, ubinary, did you mean int8"),
        (["truncate_dim=33"], "truncate_dim=33 must be from 1 to 32, the model's dimensions"),
        (["truncate_dim=0"], "truncate_dim=0 must be at least 1 and whole, or null"),
        (["truncate_dim=half"], "truncate_dim=half must be at least 1 and whole, or null"),
        (["dtype=int8", "ranges=nowhere.npy"], "nowhere.npy holds no vectors that can be read"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_one_line(script, small_model, tmp_path, options, reason):
    write_texts(tmp_path)
    assert reason in script.refused("embed", f"checkpoint={small_model}", "in=a.txt", "out=e.npy", *options)


def test_a_scheme_of_zeros_reads_zeros():
    vectors = compact(np.zeros((3, 8), np.float32), "int8")
    assert not vectors.scheme.decode(vectors.codes_MB).any() and isinstance(vectors.scheme, Scheme)


def test_blocks_of_mapped_vectors_are_memory_that_pytorch_takes_without_a_warning(tmp_path):
    np.save(tmp_path / "a.npy", unit(9))
    vectors = read_vectors(tmp_path / "a.npy")
    assert not vectors.codes_MB.flags.writeable and all(block.flags.writeable for _, block in vectors.blocks())
    assert vectors.search(unit(9)[:2], 1)[1].tolist() == [[0], [1]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_query_and_no_vector_find_nothing(dtype):
    vectors, q_ND = compact(unit(9), dtype), unit(4, seed=1)
    for found in vectors.search(q_ND[:0], 5):
        assert found.shape == (0, 5)
    for found in Vectors(vectors.codes_MB[:0], vectors.scheme).search(q_ND, 5):
        assert found.shape == (4, 0)


def test_the_table_of_widths_and_precisions_is_what_reduced_vectors_score(script, small_model, tmp_path):
    """The oracle reduces the vectors by hand and ranks every document; encoding is done once for all cells."""
    rng = np.random.default_rng(0)
    words = ["one", "two", "many", "words", "row", "some", "more", "them", "query", "document", "text", "number"]
    texts = [" ".join(rng.choice(words, 6)) for _ in range(60)]
    folder = tmp_path / "tasks" / "Mine"
    queries = [" ".join(reversed(text.split()[1:])) for text in texts[::4]]
    write_retrieval(folder, texts, queries)
    write_sts(tmp_path / "tasks" / "Pairs")
    code, said, err = script(
        "eval", f"checkpoint={{A: {small_model}, BM25: bm25}}", "suite=local", "data_dir=tasks", "precision=fp32",
        "widths=[32,8]", "precisions=[fp32,int8,binary]", "out=out",
    )  # fmt: skip
    assert code == 0, err
    header, *table = [line.split(",") for line in (tmp_path / "out" / "compact.csv").read_text().splitlines()]
    assert header == ["model", "width", "precision", "bytes", "Mine nDCG@10", "Pairs Spearman", "MB", "ms a query"]
    found = {(row[1], row[2]): row for row in table if row[0] == "A"}
    assert {key: row[3] for key, row in found.items()} == {
        ("32", "fp32"): "128", ("32", "int8"): "32", ("32", "binary"): "4",
        ("8", "fp32"): "32", ("8", "int8"): "8", ("8", "binary"): "1",
    }  # fmt: skip
    assert table[-1][:4] == ["BM25", "", "", ""]
    assert ["A", "32", "int8", "32"] in [line.split()[:4] for line in said.splitlines()]
    full_ND = Encoder.from_pretrained(small_model).encode([*texts, *queries])
    checked = []
    for (width, precision), row in found.items():
        d_ND = full_ND[:, : int(width)] / np.linalg.norm(full_ND[:, : int(width)], axis=1, keepdims=True)
        d_ND, q_ND = d_ND[:60], d_ND[60:]
        if precision == "int8":
            scale = np.abs(d_ND).max() / 127
            d_ND = np.rint(d_ND / scale) * scale
        scores = q_ND @ d_ND.T
        if precision == "binary":  # ranked again: 40 of the nearest by Hamming distance
            distance = ((q_ND > 0)[:, None] != (d_ND > 0)).sum(-1)
            near = np.lexsort((np.broadcast_to(np.arange(60), distance.shape), distance))[:, :40]
            scores = q_ND @ np.where(d_ND > 0, 1, -1).T
            for query in range(len(q_ND)):
                scores[query, np.setdiff1d(np.arange(60), near[query])] = -np.inf
        ranks = np.array([(scores[i] > scores[i, 4 * i]).sum() for i in range(15)])
        own = [scores[i, 4 * i] for i in range(15)]
        ties = np.array([np.isfinite(own[i]) and np.isclose(scores[i], own[i]).sum() > 1 for i in range(15)])
        ndcg = np.where(ranks < 10, 100 / np.log2(ranks + 2), 0)
        if ties.any():
            continue
        assert float(row[4]) == pytest.approx(ndcg.mean(), abs=0.01), (width, precision)
        checked.append((width, precision))
    assert len({row[4] for row in found.values()}) > 3  # width and precision make a difference
    results = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    asked = [model["tasks"]["Mine"]["texts"] for label, model in results.items() if label != "BM25"]
    assert len(asked) == 6 and all(float(row[7]) > 0 for row in found.values())
    assert {("32", "fp32"), ("8", "fp32"), ("32", "int8")} <= set(checked)


def write_retrieval(folder, texts: list[str], queries: list[str]) -> None:
    """A corpus in which every fourth document answers a query."""
    (folder / "qrels").mkdir(parents=True)
    rows = "".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts))
    (folder / "corpus.jsonl").write_text(rows)
    rows = "".join(json.dumps({"_id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(queries))
    (folder / "queries.jsonl").write_text(rows)
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{4 * i}\t1\n" for i in range(len(queries))))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["widths=[64]"], "widths: 64 is not from 1 to 32, the model's dimensions"),
        (["widths=[0]"], "widths=[0] must be a list of whole numbers, [384,256], or null"),
        (["widths=[half]"], "widths=['half'] must be a list of whole numbers"),
        (["precisions=[fp16]"], "precisions: fp16 is not one of fp32, int8, uint8, binary, ubinary"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_one_line(script, small_model, tmp_path, options, reason):
    write_sts(tmp_path / "tasks" / "Pairs")
    line = script.refused("eval", f"checkpoint={small_model}", "suite=local", "data_dir=tasks", *options)
    assert reason in line
