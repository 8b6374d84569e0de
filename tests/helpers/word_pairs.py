"""Texts drawn from a few words, and the scores that BM25 gives them."""

import random

import bm25s
import numpy as np

WORDS = [f"word{i}" for i in range(60)]


def make_pairs(seed: int, count: int) -> tuple[list[str], list[str]]:
    """Queries that repeat, documents that share words with them, some documents equal up to case and space."""
    rng = random.Random(seed)
    queries, documents = [], []
    for _ in range(count):
        words = rng.choices(WORDS, k=3)
        queries.append(" ".join(words[: rng.choice([1, 3])]))
        document = " ".join(rng.sample(words, 3) + rng.choices(WORDS, k=rng.choice([0, 6])))
        document = rng.choice(documents) if documents and rng.random() < 0.2 else document
        documents.append(rng.choice([document, document.upper(), f" {document}  "]))
    return queries, documents


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def scores_of(queries: list[str], documents: list[str]) -> np.ndarray:
    """Oracle: bm25s itself, query by query."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
    rows = []
    for words in bm25s.tokenize(queries, return_ids=False, show_progress=False):
        known = [word for word in words if word in index.vocab_dict]
        rows.append(index.get_scores(known) if known else np.zeros(len(documents)))
    return np.array(rows)


def corpus(seed: int = 0, texts: int = 400) -> list[str]:
    rng = random.Random(seed)
    stems = ["token", "pair", "embed", "naïve", "search", "graph", "Größe", "loss", "日本", "x86", "don't", "re-rank"]

    def word() -> str:
        return rng.choice(stems) + rng.choice(["", "s", "ing", "ed", ",", "."])

    return [" ".join(word() for _ in range(20)) for _ in range(texts)]
