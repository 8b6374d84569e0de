"""The documents nearest to each query, by BM25 or by the cosine of an encoder's embeddings: exact, in bounded memory.

Shapes: N queries, M documents, D width.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import bm25s
import numpy as np
import torch
from scipy import sparse

from gte.nearest import best_documents

logging.getLogger("bm25s").setLevel(logging.WARNING)

BM25_SCORES = 2**24  # of queries with documents that share a term, held at a time: 200 MB
DENSE_QUERIES, DENSE_DOCUMENTS = 4_096, 8_192  # searched at a time
ENCODED = 65_536  # documents encoded at a time

Ranker = Callable[[Sequence[str], Sequence[str], "Search"], Iterator[list[int]]]
#   (queries, documents, search) -> for each query the numbers of the documents that `search` admits, best first


@dataclass(frozen=True)
class Search:
    """The search for each query's negatives: the `depth` best documents that may be one.

    Args:
        positives: numbers of each query's documents.
        excluded: numbers of the documents of each query that are never found, positives among them.
        depth: how many are looked for.
        margin: with s the lowest score of a query's positives, only scores up to s - margin count; None is no bound.
        relative_margin: only scores up to s - relative_margin |s| count (0.05 is NV-Retriever's TopK-PercPos of 95 %).

    >>> search = Search(positives=[[0]], excluded=[[0]], depth=2)
    >>> documents = ["a red fox", "a red car", "a blue car", "a red bus"]
    >>> next(rank_bm25(["the red fox"], documents, search))
    [1, 3]
    """

    positives: list[list[int]]
    excluded: list[list[int]]
    depth: int
    margin: float | None = None
    relative_margin: float | None = None

    @property
    def limited(self) -> bool:
        """Whether a margin bounds the scores."""
        return self.margin is not None or self.relative_margin is not None

    def limit(self, positive: float | np.ndarray):
        """The highest score that a negative may have beside the lowest of its query's positives, number or array."""
        return positive - np.maximum(self.margin or 0.0, (self.relative_margin or 0.0) * abs(positive))


class Bm25:
    """BM25 scores (bm25s: lucene, k1 1.5, b 0.75) of many queries at a time.

    Queries are not retrieved one by one but as one sparse product, queries x terms times terms x documents, which gives
    the same scores about 20 times as fast on 20,000 documents. Sums are of float64, rounded to float32: so they do not
    depend on the numbers of the terms, which a stemmer's set of words draws anew in each process.

    Args:
        documents: M texts.
        tokenize: `bm25s.tokenize` with the settings of its words; the same for documents and queries.

    >>> documents = Bm25(["a red fox", "a red car", "a blue car"])
    >>> ((numbers, scores),) = documents.scores(["fox"])
    >>> numbers.tolist(), bool(scores[0] > 0)
    ([0], True)
    """

    def __init__(self, documents: Sequence[str], tokenize: Callable = bm25s.tokenize):
        self.documents, self.tokenize = len(documents), partial(tokenize, show_progress=False)
        self.vocabulary: dict[str, int] = {}
        self.terms_M = sparse.csr_array((0, len(documents)))
        tokens = self.tokenize(list(documents))
        if any(len(ids) for ids in tokens.ids):
            index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
            index.index(tokens, show_progress=False)
            scores = index.scores
            self.vocabulary = index.vocab_dict
            self.terms_M = sparse.csr_array(
                (scores["data"].astype(np.float64), scores["indices"], scores["indptr"]),
                shape=(len(scores["indptr"]) - 1, len(documents)),
            )

    def scores(self, queries: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Score the documents that share a word with each query.

        Args:
            queries: N texts.
        Returns: an iterator, for each query the numbers of these documents, in no order, and float32 scores.
        """
        words = self.tokenize(list(queries), return_ids=False)
        counts_N = count_terms(words, self.vocabulary, self.terms_M.shape[0])
        found_N = counts_N.astype(bool) @ np.diff(self.terms_M.indptr)  # at most so many documents of each query
        start = 0
        while start < len(queries):
            stop = start + max(1, int(np.searchsorted(found_N[start:].cumsum(), BM25_SCORES, side="right")))
            product = counts_N[start:stop] @ self.terms_M
            for begin, end in pairwise(product.indptr):
                yield product.indices[begin:end], product.data[begin:end].astype(np.float32)
            start = stop


def rank_bm25(queries: Sequence[str], documents: Sequence[str], search: Search) -> Iterator[list[int]]:
    """Rank documents by BM25, only those that share a term with the query; equal scores by number.

    Args:
        queries: N texts.
        documents: M texts.
        search: what may be found, and how many.
    Returns: an iterator, for each query the numbers of the documents, best first.
    """
    barred_M, score_M = np.zeros(len(documents), bool), np.zeros(len(documents), np.float32)
    for query, (numbers, values) in enumerate(Bm25(documents).scores(queries)):
        excluded = search.excluded[query]
        barred_M[excluded] = True
        kept = ~barred_M[numbers]
        barred_M[excluded] = False
        if search.limited:
            score_M[numbers] = values
            kept &= values <= search.limit(score_M[search.positives[query]].min())
            score_M[numbers] = 0
        yield best(numbers[kept], values[kept], search.depth)


def count_terms(words: list[list[str]], vocabulary: dict[str, int], terms: int) -> sparse.csr_array:
    """Count each known term in each text: [texts, terms]."""
    numbers = [[vocabulary[word] for word in text if word in vocabulary] for text in words]
    ends = np.cumsum([0, *map(len, numbers)])
    columns = np.fromiter((number for text in numbers for number in text), np.int64, count=ends[-1])
    counts = sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(len(words), terms))
    counts.sum_duplicates()
    return counts


def best(documents: np.ndarray, scores: np.ndarray, depth: int) -> list[int]:
    """The documents of the `depth` highest scores, best first, ties by number."""
    return best_scores(documents, scores, depth)[0].tolist()


def best_scores(documents: np.ndarray, scores: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Select the documents of the `depth` highest scores, best first, equal scores by number.

    Args:
        documents: int [n], numbers of the documents.
        scores: float [n].
        depth: how many are wanted.
    Returns: (numbers, scores), at most depth of each.

    >>> best_scores(np.array([4, 7, 9]), np.array([0.5, 0.9, 0.9]), depth=2)[0].tolist()
    [7, 9]
    """
    if len(documents) > depth:
        least = np.partition(scores, -depth)[-depth]
        above = scores >= least
        documents, scores = documents[above], scores[above]
    order = np.lexsort((documents, -scores))[:depth]
    return documents[order], scores[order]


def rank_dense(
    queries: Sequence[str],
    documents: Sequence[str],
    search: Search,
    *,
    embed: Callable,
    embed_queries: Callable | None = None,
    device: str = "cpu",
) -> Iterator[list[int]]:
    """Rank documents by cosine, in float64 rounded to float32; equal scores by number.

    In memory are the queries' vectors and one block of scores; the documents' vectors, each computed once, lie in a
    temporary file of 4 D bytes a document, in TMPDIR.

    Args:
        queries: N texts.
        documents: M texts.
        search: what may be found, and how many.
        embed: texts -> unit vectors, float32 [n, D].
        embed_queries: the same for queries, if another.
        device: where the scores are computed.
    Returns: an iterator, for each query the numbers of the documents, best first.

    >>> def embed(texts):
    ...     return np.array([[text.count("a"), text.count("b")] for text in texts], np.float32)
    >>> next(rank_dense(["a"], ["b", "a", "a"], Search(positives=[[1]], excluded=[[1]], depth=2), embed=embed))
    [2, 0]
    """
    if not len(queries):
        return
    q_ND = (embed_queries or embed)(queries)
    with tempfile.TemporaryFile() as file:
        d_MD = np.memmap(file, np.float32, "w+", shape=(len(documents), q_ND.shape[1]))
        for start in range(0, len(documents), ENCODED):
            d_MD[start : start + ENCODED] = embed(documents[start : start + ENCODED])
        for start in range(0, len(queries), DENSE_QUERIES):
            chunk = slice(start, start + DENSE_QUERIES)
            yield from nearest(q_ND[chunk], d_MD, search.positives[chunk], search.excluded[chunk], search, device)


def embed_behind(embed: Callable, texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """Unit vectors [n, D] by `embed(texts, prompt)` of texts that have a prompt each."""
    by_prompt: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_prompt.setdefault(prompt, []).append(place)
    vectors = [embed([texts[place] for place in places], prompt) for prompt, places in by_prompt.items()]
    order = np.argsort(np.concatenate(list(by_prompt.values())))
    return np.concatenate(vectors)[order]


def nearest(
    q_ND: np.ndarray,
    d_MD: np.memmap,
    positives: list[list[int]],
    excluded: list[list[int]],
    search: Search,
    device: str = "cpu",
) -> list[list[int]]:
    """`search` for some queries whose lists of documents are given."""
    limit_N = np.full(len(q_ND), np.inf, np.float32)
    if search.limited:
        row, number = flatten(positives)
        scores = np.einsum("rd,rd->r", q_ND[row], d_MD[number], dtype=np.float64)
        np.minimum.at(limit_N, row, scores.astype(np.float32))  # as `best_documents` has them: equal ones are equal
        limit_N = search.limit(limit_N)
    limit_N1 = torch.from_numpy(limit_N)[:, None]
    row, number = flatten(excluded)

    def bar(scores_NM: torch.Tensor, query: int, document: int) -> None:
        limit = limit_N1[query : query + len(scores_NM)].to(scores_NM.device)
        scores_NM.masked_fill_(scores_NM > limit, -torch.inf)
        rows, columns = row - query, number - document
        here = (rows >= 0) & (rows < scores_NM.shape[0]) & (columns >= 0) & (columns < scores_NM.shape[1])
        scores_NM[torch.from_numpy(rows[here]), torch.from_numpy(columns[here])] = -torch.inf

    starts = range(0, len(d_MD), DENSE_DOCUMENTS)
    blocks = ((start, np.array(d_MD[start : start + DENSE_DOCUMENTS])) for start in starts)
    values_NK, numbers_NK = best_documents(q_ND, blocks, search.depth, device, bar)
    return [i[s > -np.inf].tolist() for s, i in zip(values_NK, numbers_NK, strict=True)]


def flatten(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Flatten lists into (number of the list, value) of every value."""
    return (
        np.repeat(np.arange(len(lists)), [len(values) for values in lists]),
        np.array([value for values in lists for value in values], np.int64),
    )
