"""Embeddings kept on disk, exact search in blocks, several processes: all give what one pass over everything gives."""

import errno
import math
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from datasets import Dataset
from evaluations import WIDTH, KnownEncoder, evaluate
from task_folders import write_retrieval

from gte.errors import UserError
from gte.evaluation import model as model_module
from gte.evaluation.bm25 import BM25, document_texts
from gte.evaluation.cache import VectorCache, text_keys
from gte.evaluation.model import EncoderModel, load_model
from gte.nearest import best_documents, from_keys, order_keys


def vectors(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    keys = text_keys([f"{seed} {i}" for i in range(count)])
    return keys, np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def test_what_was_added_is_read_back_by_another_process_up_to_the_limit(tmp_path):
    keys, x_ND = vectors(50)
    first = VectorCache(4, tmp_path, limit_bytes=(4 * 4 + 16) * 40)
    first.add(keys[:30], x_ND[:30])
    first.add(keys[30:], x_ND[30:])
    assert len(first) == 40 and first.full
    for cache in (first, VectorCache(4, tmp_path)):
        rows = cache.find(keys[::-1])
        assert (rows[:10] == -1).all() and len(cache) == 40  # the last ten came too late
        np.testing.assert_array_equal(cache.read(rows[10:]), x_ND[:40][::-1])


def test_two_writers_do_not_mix_up_their_rows(tmp_path):
    (a_keys, a), (b_keys, b) = vectors(20, seed=1), vectors(20, seed=2)
    one, two = VectorCache(4, tmp_path), VectorCache(4, tmp_path)
    for start in (0, 10):
        one.add(a_keys[start : start + 10], a[start : start + 10])
        two.add(b_keys[start : start + 10], b[start : start + 10])
    for cache, keys, x_ND in ((one, a_keys, a), (two, b_keys, b)):
        np.testing.assert_array_equal(cache.read(cache.find(keys)), x_ND)
    both = VectorCache(4, tmp_path)
    np.testing.assert_array_equal(both.read(both.find(np.append(b_keys, a_keys))), np.append(b, a, axis=0))


@pytest.mark.parametrize("file", ["keys.u64", "vectors.f32", "sums.u64"])
def test_what_a_killed_process_wrote_by_half_is_cut_off(tmp_path, file):
    keys, x_ND = vectors(10)
    VectorCache(4, tmp_path).add(keys[:8], x_ND[:8])
    with (tmp_path / file).open("ab") as stream:
        stream.write(b"half of a row, and one whole")
    again = VectorCache(4, tmp_path)
    assert len(again) == 8
    again.add(keys[8:], x_ND[8:])
    np.testing.assert_array_equal(VectorCache(4, tmp_path).read(again.find(keys)), x_ND)


def test_a_bit_flipped_anywhere_is_noticed_or_its_vector_is_not_found(tmp_path):
    keys, x_ND = vectors(6)
    VectorCache(4, tmp_path).add(keys, x_ND)
    outcomes = set()
    for file in sorted(tmp_path.iterdir()):
        intact = file.read_bytes()
        for bit in range(0, 8 * len(intact), 5):
            damaged = bytearray(intact)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            cache = VectorCache(4, tmp_path)
            rows = cache.find(keys)
            try:
                np.testing.assert_array_equal(cache.read(rows[rows >= 0]), x_ND[rows >= 0])
                assert file.name == "keys.u64" and (rows < 0).sum() == 1
                outcomes.add("not found")
            except UserError as error:
                assert f"is damaged: an embedding is not as it was written; remove {tmp_path}" in str(error)
                outcomes.add("noticed")
        file.write_bytes(intact)
    assert outcomes == {"not found", "noticed"}


def test_vectors_that_were_kept_before_there_were_checksums_are_used(tmp_path):
    keys, x_ND = vectors(10)
    VectorCache(4, tmp_path).add(keys[:8], x_ND[:8])
    (tmp_path / "sums.u64").unlink()
    cache = VectorCache(4, tmp_path)
    cache.add(keys[8:], x_ND[8:])
    assert len(VectorCache(4, tmp_path)) == 10
    np.testing.assert_array_equal(cache.read(cache.find(keys)), x_ND)


def test_a_full_disk_keeps_what_is_there_and_the_evaluation_goes_on(tmp_path, capsys):
    """By the limit of a file's size, as in test_refusing_disks: the vectors, of 16 bytes each, meet it first."""
    encoder = KnownEncoder()
    texts = [f"text {number}" for number in range(400)]
    folder = tmp_path / "kept"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model = EncoderModel(encoder, "fp32", cache=VectorCache(WIDTH, folder))
    first_ND = model.embed(texts[:20])
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * WIDTH * 30, limits[1]))
        for _ in range(2):
            assert len(model.embed(texts)) == 400
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    said = capsys.readouterr().err
    assert said.count("no space left on device: embeddings from here on are not kept; make room") == 1
    again = VectorCache(WIDTH, folder)
    assert len(again) == 20
    np.testing.assert_array_equal(again.read(again.find(text_keys(texts[:20]))), first_ND)


def test_an_interrupted_corpus_goes_on_where_it_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "KEPT_AFTER", 16)
    texts = [f"text {i}" for i in range(100)]

    class Killed(KnownEncoder):
        def encode(self, texts, **settings):
            if len(self.encoded) >= 48:
                raise KeyboardInterrupt
            return super().encode(texts, **settings)

    with pytest.raises(KeyboardInterrupt):
        EncoderModel(Killed(), cache=VectorCache(WIDTH, tmp_path)).embed(texts)
    encoder = KnownEncoder()
    found = EncoderModel(encoder, cache=VectorCache(WIDTH, tmp_path)).embed(texts)
    assert encoder.encoded == texts[48:]
    np.testing.assert_array_equal(found, np.stack([encoder.vector(text) for text in texts]))


def test_blocks_of_any_size_find_what_sorting_all_scores_finds(monkeypatch):
    rng = np.random.default_rng(0)
    q_ND, d_MD = (rng.normal(size=(n, 8)).astype(np.float32) for n in (13, 100))
    order = np.argsort(-(q_ND @ d_MD.T), axis=1)
    for size in (1, 7, 100):
        for scores in (3, 10**6):
            monkeypatch.setattr("gte.nearest.SCORES", scores * size)
            blocks = ((first, d_MD[first : first + size]) for first in range(0, 100, size))
            values, numbers = best_documents(q_ND, blocks, k=20)
            np.testing.assert_array_equal(numbers, order[:, :20])
            np.testing.assert_allclose(values, np.take_along_axis(q_ND @ d_MD.T, numbers, 1), rtol=1e-5)
    assert best_documents(q_ND, iter([(0, d_MD)]), k=1000)[0].shape == (13, 100)


def exact(q_ND: np.ndarray, d_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Oracle of the rule: sums without rounding, rounded to float32, and the order by score and then by row."""
    scores = np.array([[math.fsum(map(float.__mul__, q, d)) for d in d_MD.tolist()] for q in q_ND.tolist()])
    scores = scores.astype(np.float32)
    return scores, np.lexsort((np.broadcast_to(np.arange(len(d_MD)), scores.shape), -scores))


@pytest.mark.parametrize("kind", ["halves", "equal vectors", "all equal"])
def test_of_equal_scores_the_lowest_rows_are_found_however_the_work_is_cut(kind, monkeypatch):
    """Values rounded as in half precision tie in many places; topk or a sort alone return any of them."""
    rng = np.random.default_rng(0)
    q_ND, d_MD = (rng.normal(size=(n, 24)).astype(np.float32) for n in (11, 120))
    if kind == "halves":
        q_ND, d_MD = (np.round(2 * x_ND) / 2 for x_ND in (q_ND, d_MD))
    else:
        d_MD = d_MD[rng.integers(0, 1 if kind == "all equal" else 9, 120)]
    scores, order = exact(q_ND, d_MD)
    assert sum(len(np.unique(row)) < 110 for row in scores) == 11  # in each query there are ties
    for k in (1, 10, 120):
        for size in (1, 7, 64, 120):  # documents a block
            for held in (1, 10**6):  # scores at a time, so queries at a time
                monkeypatch.setattr("gte.nearest.SCORES", held)
                blocks = ((first, d_MD[first : first + size]) for first in range(0, 120, size))
                values, numbers = best_documents(q_ND, blocks, k)
                np.testing.assert_array_equal(numbers, order[:, :k])
                np.testing.assert_array_equal(values, np.take_along_axis(scores, numbers, 1))
    for query in range(11):  # a query alone finds what it finds among others
        alone = best_documents(q_ND[query : query + 1], [(0, d_MD)], 10)
        np.testing.assert_array_equal(alone[1][0], order[query, :10])


def test_keys_are_in_the_order_of_score_and_row_and_give_both_back():
    values = torch.tensor([[1.0, -1, 0, -0.0, -torch.inf, 3e-40, -2, 1, torch.inf, -3e-40]])
    numbers = torch.tensor([[3, 1, 7, 2, 4, 0, 5, 2**32 - 2, 6, 8]])
    back, back_numbers = from_keys(order_keys(values, numbers).sort(descending=True).values)
    expected = sorted(zip(values[0].tolist(), numbers[0].tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    assert list(zip(back[0].tolist(), back_numbers[0].tolist(), strict=True)) == expected


@pytest.mark.parametrize("ranked", [False, True])
def test_a_model_that_gives_all_texts_one_vector_finds_the_first_rows(ranked):
    from mteb import get_task

    corpus = Dataset.from_list([{"id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(70)])
    queries = Dataset.from_list([{"id": "q", "text": "query"}])
    settings = {"task_metadata": get_task("SciFact").metadata, "hf_split": "test", "hf_subset": "default"}
    same = dict.fromkeys([f"text {i}" for i in range(70)] + ["query"], np.ones(WIDTH) / 3)
    model = EncoderModel(KnownEncoder(same))
    model.index(corpus)
    backwards = {"q": [f"d{i}" for i in reversed(range(70))]} if ranked else None
    found = model.search(queries, top_k=9, top_ranked=backwards, **settings)["q"]
    assert list(found) == [f"d{i}" for i in range(9)] and len(set(found.values())) == 1


def test_a_cache_is_full_where_something_was_not_kept_and_one_beyond_its_limit_keeps_nothing_more(tmp_path):
    vectors_ND, size = np.ones((9, WIDTH), np.float32), 4 * WIDTH + 16
    cache = VectorCache(WIDTH, tmp_path, limit_bytes=9 * size)
    cache.add(text_keys([f"a {i}" for i in range(9)]), vectors_ND)
    assert len(cache) == 9 and not cache.full
    smaller = VectorCache(WIDTH, tmp_path, limit_bytes=5 * size)
    smaller.add(text_keys([f"b {i}" for i in range(9)]), vectors_ND)
    assert len(smaller) == 9 and smaller.full and not smaller.disk_full


def test_a_disk_that_fails_is_no_disk_that_is_full(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    cache = VectorCache(WIDTH, tmp_path)
    monkeypatch.setattr(cache, "append", fail)
    with pytest.raises(OSError, match="Input/output error"):
        cache.add(text_keys(["a"]), np.ones((1, WIDTH), np.float32))
    assert not cache.full


def test_a_full_cache_is_told_once_with_the_way_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model_module, "KEPT_AFTER", 10)
    cache = VectorCache(WIDTH, tmp_path, limit_bytes=(4 * WIDTH + 16) * 25)
    model = EncoderModel(KnownEncoder(), cache=cache)
    model.embed([f"text {i}" for i in range(20)])
    assert not capsys.readouterr().err
    model.embed([f"text {i}" for i in range(60)])
    model.embed([f"other {i}" for i in range(60)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"{tmp_path} is full" in lines[0] and "25 embeddings" in lines[0]
    assert "raise cache_gb=" in lines[0] and len(cache) == 25


def test_of_a_corpus_shorter_than_a_block_a_killed_run_keeps_something(tmp_path):
    texts = [f"text {i}" for i in range(2_000)]
    assert len(texts) < model_module.KEPT_AFTER

    class Killed(KnownEncoder):
        def encode(self, texts, **settings):
            if len(self.encoded) >= 1_500:
                raise KeyboardInterrupt
            return super().encode(texts, **settings)

    with pytest.raises(KeyboardInterrupt):
        EncoderModel(Killed(), cache=VectorCache(WIDTH, tmp_path)).embed(texts)
    assert len(VectorCache(WIDTH, tmp_path)) >= 1_500


@pytest.mark.parametrize("ranked", [False, True])
def test_search_finds_what_mtebs_own_search_finds(ranked, monkeypatch):
    from mteb import get_task
    from mteb.models.search_wrappers import SearchEncoderWrapper

    monkeypatch.setattr(model_module, "KEPT_AFTER", 16)
    rows = [{"id": f"d{i}", "title": f"title {i}" * (i % 2), "text": f" text {i}"} for i in range(70)]
    corpus = Dataset.from_list(rows)
    queries = Dataset.from_list([{"id": f"q{i}", "text": f"query {i}"} for i in range(9)])
    candidates = {f"q{i}": [f"d{j}" for j in range(i, 70, i + 2)] for i in range(9)} if ranked else None
    settings = {"task_metadata": get_task("SciFact").metadata, "hf_split": "test", "hf_subset": "default"}
    settings |= {"encode_kwargs": {"show_progress_bar": False}}
    found = []
    for search in (EncoderModel(KnownEncoder()), SearchEncoderWrapper(EncoderModel(KnownEncoder()))):
        search.index(corpus, **settings)
        found.append(search.search(queries, top_k=12, top_ranked=candidates, **settings))
    ours, theirs = found
    assert ours.keys() == theirs.keys() and all(len(documents) == 12 or ranked for documents in ours.values())
    for query, scores in theirs.items():
        assert ours[query] == pytest.approx(scores, abs=1e-6)
    assert document_texts(corpus[:2]) == ["text 0", "title 1  text 1"]


def test_bm25_ranks_a_querys_own_candidates():
    corpus = Dataset.from_dict({"id": list("abc"), "text": ["granite quarry", "velvet quarry", "copper kettle"]})
    queries = Dataset.from_dict({"id": ["q", "r"], "text": ["granite quarry", "umbrella"]})
    bm25 = BM25()
    bm25.index(corpus)
    found = bm25.search(queries, top_k=10, top_ranked={"q": ["b", "c"], "r": ["a"]})
    assert list(found["q"]) == ["b"] and found["r"] == {}
    assert found["q"]["b"] == pytest.approx(bm25.search(queries, top_k=10)["q"]["b"])


def test_scores_do_not_depend_on_the_block(tmp_path, monkeypatch):
    write_retrieval(tmp_path / "data" / "Task")
    scores = []
    for size in (7, 8192):
        monkeypatch.setattr(model_module, "KEPT_AFTER", size)
        results = evaluate(tmp_path, tmp_path / "data", out=str(size))
        scores.append(results["models"]["model"]["tasks"]["Task"]["scores"])
    assert scores[0] == scores[1]


def test_two_processes_embed_as_one(small_model):
    from gte.models.load import load_encoder, weights_checksum
    from gte.models.pool import EncoderPool

    texts = [f"a row of {i} words and then some" * (1 + i % 5) for i in range(45)]
    encoder = load_encoder(small_model)
    pool = EncoderPool(str(small_model), ["cpu", "cpu"], weights_checksum(encoder))
    try:
        found = EncoderModel(encoder, pool=pool).embed([*texts, texts[0]])
        assert len(pool.processes._processes) == 2
    finally:
        pool.close()
    np.testing.assert_allclose(found, encoder.encode([*texts, texts[0]]), atol=1e-6)


@pytest.mark.parametrize("later", ["other weights", "gone"])
def test_a_checkpoint_that_is_replaced_before_a_process_loads_it_gives_no_vector(small_model, tmp_path, later):
    from gte.models.load import load_encoder, weights_checksum
    from gte.models.pool import EncoderPool

    shutil.copytree(small_model, tmp_path / "model")
    encoder = load_encoder(tmp_path / "model")
    pool = EncoderPool(str(tmp_path / "model"), ["cpu", "cpu"], weights_checksum(encoder))
    message = "does not exist"
    shutil.rmtree(tmp_path / "model")
    if later == "other weights":
        message = "was replaced while it was being loaded"
        next(encoder.parameters()).data[0, 0] += 1
        encoder.save(tmp_path / "model")
    try:
        with pytest.raises(UserError, match=message):
            EncoderModel(encoder, pool=pool).embed(["one text"])
    finally:
        pool.close()


def test_prompts_of_an_evaluation_are_no_other_weights_to_its_processes(small_model):
    model = load_model(str(small_model), "fp32", None, ["cpu", "cpu"], False, prompts={"query": "q: "})
    model.pool.close()
    assert model.encoder.settings.prompts == {"query": "q: "}
