"""Rankings are exact: bm25s's own scores, and cosines by brute force, however the work is cut into blocks."""

from functools import partial

import numpy as np
import pytest
from word_pairs import make_pairs, plain, scores_of

from gte.data import ranking
from gte.data.mining import mine
from gte.data.ranking import Search, best, rank_bm25, rank_dense
from gte.evaluation.model import EncoderModel
from gte.models.load import load_encoder


def search(n: int, depth: int, **settings) -> Search:
    return Search([[] for _ in range(n)], [[] for _ in range(n)], depth, **settings)


@pytest.mark.parametrize("held", [1, 2_000, ranking.BM25_SCORES])
@pytest.mark.parametrize("depth", [1, 7, 1_000])
def test_bm25_ranks_are_those_of_bm25s(depth, held, monkeypatch):
    monkeypatch.setattr(ranking, "BM25_SCORES", held)
    queries, documents = make_pairs(1, 300)
    queries += ["nothing known", "the of", ""]
    found = list(rank_bm25(queries, documents, search(len(queries), depth)))
    assert found[-3:] == [[], [], []]
    for row, numbers in zip(scores_of(queries, documents), found, strict=True):
        order = np.lexsort((np.arange(len(row)), -row))
        assert numbers == [number for number in order if row[number] > 0][:depth]


def test_the_best_of_equal_scores_are_those_of_the_lowest_number():
    documents, scores = np.array([9, 2, 7, 4, 1]), np.array([1.0, 3.0, 1.0, 1.0, 2.0], np.float32)
    assert best(documents, scores, 3) == [2, 1, 4] and best(documents, scores, 9) == [2, 1, 4, 7, 9]


def embed(texts) -> np.ndarray:
    """A unit vector a text, drawn by the text itself."""
    rows = np.stack([np.random.default_rng(list(text.encode())).normal(size=6) for text in texts])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def lists(rng, n: int, m: int, longest: int) -> list[list[int]]:
    return [sorted(rng.choice(m, rng.integers(1, longest), replace=False).tolist()) for _ in range(n)]


MARGINS = [{}, {"margin": 0.3}, {"relative_margin": 0.5}, {"margin": 0.1, "relative_margin": 0.3}, {"margin": 0.0}]


def by_hand(scores: np.ndarray, wanted: Search, floor: float) -> list[list[int]]:
    """Oracle: every document of every query, one by one."""
    result = []
    for i, row in enumerate(scores):
        positive = min((row[number] for number in wanted.positives[i]), default=np.inf)
        limits = [positive - (wanted.margin or 0), positive - abs(positive) * (wanted.relative_margin or 0)]
        limit = min(limits) if wanted.limited else np.inf
        fit = [n for n in range(len(row)) if n not in wanted.excluded[i] and floor < row[n] <= limit]
        result.append(sorted(fit, key=lambda n: (-row[n], n))[: wanted.depth])
    return result


@pytest.mark.parametrize("margins", MARGINS, ids=str)
@pytest.mark.parametrize("blocks", [(3, 5, 7), (1_000, 1_000, 1_000)])
def test_dense_ranks_are_those_of_all_cosines_one_by_one(blocks, margins, monkeypatch):
    for name, size in zip(("DENSE_QUERIES", "DENSE_DOCUMENTS", "ENCODED"), blocks, strict=True):
        monkeypatch.setattr(ranking, name, size)
    queries, documents = [f"q{i}" for i in range(20)], [f"d{i}" for i in range(83)]
    rng = np.random.default_rng(0)
    positives = lists(rng, 20, 83, 4)
    excluded = [sorted({*one, *other}) for one, other in zip(positives, lists(rng, 20, 83, 20), strict=True)]
    wanted = Search(positives, excluded, 9, **margins)
    calls = []

    def counted(texts):
        calls.append(list(texts))
        return embed(texts)

    found = list(rank_dense(queries, documents, wanted, embed=counted))
    assert found == by_hand(embed(queries) @ embed(documents).T, wanted, -np.inf)
    assert sum(calls, []) == queries + documents and len(calls) == 1 + -(-83 // blocks[2])  # each text once
    assert {len(numbers) for numbers in found} == {9} if not margins else min(map(len, found)) < 9
    assert list(rank_dense([], documents, wanted, embed=embed)) == []


@pytest.mark.parametrize("sizes", [(50, 70), (4_096, 8_192)])
@pytest.mark.parametrize("margins", [{}, {"margin": 0.0}, {"relative_margin": 0.0}, {"margin": 0.02}], ids=str)
def test_equal_cosines_are_equal_at_the_limit_and_ranked_by_number(monkeypatch, margins, sizes):
    """Each document five times over: equal scores that plain float32 products tell apart by their last bits."""
    for name, size in zip(("DENSE_QUERIES", "DENSE_DOCUMENTS"), sizes, strict=True):
        monkeypatch.setattr(ranking, name, size)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 384))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    q_ND, d_MD = rows[:120], np.tile(rows[80:], (5, 1))
    vectors = {f"q{n}": row for n, row in enumerate(q_ND)} | {f"d{n}": row for n, row in enumerate(d_MD)}
    wanted = Search([[n] for n in range(120)], [[n] for n in range(120)], 600, **margins)
    queries, documents = list(vectors)[:120], list(vectors)[120:]
    found = list(
        rank_dense(queries, documents, wanted, embed=lambda texts: np.stack([vectors[text] for text in texts]))
    )
    exact = (q_ND.astype(np.float64) @ d_MD.astype(np.float64).T).astype(np.float32)
    assert found == by_hand(exact, wanted, -np.inf)
    near = margins.get("margin") != 0.02
    assert sum(set(range(n, 600, 120)) <= {n, *numbers} for n, numbers in enumerate(found)) == (120 if near else 0)


@pytest.mark.parametrize("margins", MARGINS, ids=str)
def test_bm25_leaves_out_what_is_excluded_or_above_the_margin(margins):
    queries, documents = make_pairs(7, 120)
    rng = np.random.default_rng(1)
    positives = lists(rng, 120, 120, 2)
    wanted = Search(positives, [sorted({*p, 3, 5}) for p in positives], 12, **margins)
    scores = scores_of(queries, documents)
    assert list(rank_bm25(queries, documents, wanted)) == by_hand(scores, wanted, 0)


def test_negatives_are_those_of_sentence_transformers_at_the_same_settings(minilm):
    """60 queries, some with several documents; texts distinct also up to case and space, which only we take as one."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    topics = ["tea", "rain", "iron", "music", "wheat", "glass", "horse", "river", "paper", "stone"]
    verbs = ["sells", "paints", "needs", "breaks", "finds", "brings"]
    queries = [f"who {verbs[i % 6]} {topics[i % 10]} number {i // 2}" for i in range(60)]
    queries += queries[:7]
    documents = [f"{topics[(3 * i) % 10]} and {topics[i % 10]} {verbs[i % 6]} {i}" for i in range(67)]
    assert len({plain(text) for text in documents}) == 67
    rank = partial(rank_dense, embed=EncoderModel(load_encoder(minilm)).embed)
    theirs = SentenceTransformer(str(minilm), device="cpu")
    different = set()
    for depth, skip, margin, relative_margin in (
        (6, 0, None, None), (20, 2, None, None), (60, 0, None, 0.05), (60, 0, 0.2, None), (60, 3, 0.1, 0.4),
    ):  # fmt: skip
        settings = {"depth": depth, "skip": skip, "margin": margin, "relative_margin": relative_margin}
        found = mine(queries, documents, rank=rank, draw="top", negatives=5, **settings).texts
        rows = mine_hard_negatives(
            Dataset.from_dict({"query": queries, "document": documents}), theirs, num_negatives=5, range_min=skip,
            range_max=depth, absolute_margin=margin, relative_margin=relative_margin, sampling_strategy="top",
            output_format="triplet", verbose=False,
        )  # fmt: skip
        expected = {(query, document): [] for query, document in zip(queries, documents, strict=True)}
        for row in rows:
            expected[row["query"], row["document"]].append(row["negative"])
        assert dict(zip(zip(queries, documents, strict=True), found, strict=True)) == expected, settings
        different.add(str(found))
    assert len(different) == 5  # each setting makes a difference
