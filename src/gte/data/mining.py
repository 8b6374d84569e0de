"""Hard negatives by BM25: what a lexical search puts near a query that is not one of its documents.

The index is bm25s's. Queries are not retrieved one by one but as one sparse product, queries x terms times terms x
documents, which gives the same scores about 20 times as fast on 20,000 documents.
"""

import gzip
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import bm25s
import numpy as np
from scipy import sparse

from gte.data.records import Rejected
from gte.data.sources import infer_source, locate
from gte.errors import UserError

logging.getLogger("bm25s").setLevel(logging.WARNING)

CHUNK = 512  # queries whose scores are held at a time


def mine_bm25(
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    rows: int | None = None,
    negatives: int = 15,
    skip: int = 0,
    depth: int = 100,
    seed: int = 0,
) -> list[list[str]]:
    """For each of the first `rows` pairs (None: all), up to `negatives` documents of other pairs.

    They are drawn at random from the query's ranks [skip, depth) among all documents by BM25, where a rank counts only
    what may be a negative: no document of the same query text, none that equals such a document or the query itself up
    to case and white space, none without a term in common. Best first; equal queries get equal negatives, fewer where
    there are not enough. A function of the arguments.
    """
    corpus, document_of_pair = number_texts(documents)
    distinct, query_of_pair = number_texts(queries)
    excluded: list[set[int]] = [set() for _ in distinct]
    for query, document in zip(query_of_pair, document_of_pair, strict=True):
        excluded[query].add(document)
    known = {normalize(text): number for number, text in enumerate(corpus)}
    for number, query in enumerate(distinct):
        excluded[number].add(known.get(normalize(query), -1))
    asked = query_of_pair[:rows]
    distinct = distinct[: max(asked, default=-1) + 1]
    depths = [depth + len(numbers) for numbers in excluded[: len(distinct)]]
    draws = np.random.default_rng(seed)
    chosen: list[list[str]] = []
    for number, ranking in enumerate(rank_bm25(distinct, corpus, depths)):
        ranks = [document for document in ranking if document not in excluded[number]][skip:depth]
        picked = sorted(draws.permutation(len(ranks))[:negatives])
        chosen.append([corpus[ranks[rank]] for rank in picked])
    return [chosen[query] for query in asked]


def mine_file(path: Path, folder: Path, **settings) -> str:
    """Mines a file of pairs and writes folder/<stem>.jsonl.gz; returns a line that says what was done.

    `settings`: those of `mine_bm25`. Raises UserError for a file that is none of pairs.
    """
    source = infer_source(path)
    rejected: Counter[str] = Counter()
    pairs = []
    for raw in locate(source, path.parent):
        for record in source.read(raw):
            if isinstance(record, Rejected):
                rejected[record.reason] += 1
            else:
                pairs.append(record[:2])
    if not pairs:
        raise UserError(f"{path} holds no pair; its rows are rejected: {dict(rejected)}")
    queries, documents = zip(*pairs, strict=True)
    mined = mine_bm25(queries, documents, **settings)
    target = folder / f"{source.name}.jsonl.gz"
    unfinished = folder / f".{target.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with open(unfinished, "wb") as raw, gzip.GzipFile("", "wb", 3, raw, mtime=0) as file:
        for query, document, texts in zip(queries, documents, mined, strict=False):
            row = {"query": query, "pos": document, "neg": texts}
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    os.replace(unfinished, target)
    count = sum(map(len, mined))
    return f"{target}: {len(mined):,} triples, {count:,} negatives; {sum(rejected.values())} rows of {path} rejected"


def normalize(text: str) -> str:
    """The text in lower case with single spaces: texts that differ only there are the same text here."""
    return " ".join(text.lower().split())


def number_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct texts up to case and white space in order of appearance, and each text's number among them."""
    numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers))
    distinct, number_of = [], []
    for text in texts:
        number = numbers[normalize(text)]
        if number == len(distinct):
            distinct.append(text)
        number_of.append(number)
    return distinct, number_of


def rank_bm25(queries: Sequence[str], documents: Sequence[str], depths: Sequence[int]) -> Iterator[list[int]]:
    """For query i the at most depths[i] documents of the highest positive BM25 scores, best first, ties by number."""
    index = bm25s.BM25()
    tokens = bm25s.tokenize(list(documents), show_progress=False)
    if not any(len(ids) for ids in tokens.ids):
        yield from ([] for _ in queries)
        return
    index.index(tokens, show_progress=False)
    scores = index.scores
    shape = (len(scores["indptr"]) - 1, len(documents))
    terms_documents = sparse.csr_array((scores["data"], scores["indices"], scores["indptr"]), shape=shape)
    for start in range(0, len(queries), CHUNK):
        texts = list(queries[start : start + CHUNK])
        words = bm25s.tokenize(texts, return_ids=False, show_progress=False)
        found = count_terms(words, index.vocab_dict, shape[0]) @ terms_documents
        for row, (begin, end) in enumerate(pairwise(found.indptr), start):
            yield best(found.indices[begin:end], found.data[begin:end], depths[row])


def count_terms(words: list[list[str]], vocabulary: dict[str, int], terms: int) -> sparse.csr_array:
    """How often each known term stands in each text: [texts, terms]."""
    numbers = [[vocabulary[word] for word in text if word in vocabulary] for text in words]
    ends = np.cumsum([0, *map(len, numbers)])
    columns = np.fromiter((number for text in numbers for number in text), np.int64, count=ends[-1])
    counts = sparse.csr_array((np.ones(len(columns), np.float32), columns, ends), shape=(len(words), terms))
    counts.sum_duplicates()
    return counts


def best(documents: np.ndarray, scores: np.ndarray, depth: int) -> list[int]:
    """The documents of the `depth` highest scores, best first, ties by number."""
    if len(documents) > depth:
        least = np.partition(scores, -depth)[-depth]
        above = scores >= least
        documents, scores = documents[above], scores[above]
    return documents[np.lexsort((documents, -scores))][:depth].tolist()
