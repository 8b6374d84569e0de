"""BM25 as mteb sees a search model: the baseline of retrieval tasks."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gte.data.ranking import Bm25, best_scores
from gte.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def document_texts(rows: dict[str, list[str]]) -> list[str]:
    """Title and text of each document in one, as mteb joins them."""
    titles = rows.get("title", itertools.repeat(""))
    return [(f"{title} {text}" if title else text).strip() for title, text in zip(titles, rows["text"], strict=False)]


@dataclass(frozen=True)
class Words:
    """The words that BM25 counts.

    Args:
        stemmed: whether by the Snowball stemmer for English.
        shortest: letters of a word, at least.
    """

    stemmed: bool
    shortest: int = 1

    def __str__(self) -> str:
        """As a table names it."""
        return ("stemmed" if self.stemmed else "no stemmer") + ("" if self.shortest == 1 else ", mteb's")


BM25_WORDS = {  # checkpoint -> its words
    "bm25": Words(stemmed=False),
    "bm25-stemmed": Words(stemmed=True),
    "bm25-mteb": Words(stemmed=True, shortest=2),  # the baseline that mteb publishes; "vitamin C" loses its C
}


def stemmer():
    """The Snowball stemmer for English. UserError where the package is not installed."""
    try:
        import Stemmer
    except ImportError as error:
        raise UserError(
            "BM25 with a stemmer needs PyStemmer: pip install -r requirements-bm25.txt; checkpoint=bm25 does without"
        ) from error
    return Stemmer.Stemmer("english")


class BM25:
    """mteb's search protocol over bm25s: method lucene, k1 1.5, b 0.75, English stop words; equal scores by row.

    `variant` names the words that count in a table, `note` in a line.

    Args:
        words: the words that count.

    >>> from datasets import Dataset
    >>> model = BM25()
    >>> model.index(Dataset.from_dict({"id": ["d1", "d2"], "text": ["a red fox", "a blue car"]}))
    >>> list(model.search(Dataset.from_dict({"id": ["q1"], "text": ["fox"]}), top_k=1)["q1"])
    ['d1']
    """

    mteb_model_meta = None
    precision = "fp32"

    def __init__(self, words: Words = BM25_WORDS["bm25"]):
        self.words, self.variant = words, str(words)
        self.stemmer = stemmer() if words.stemmed else None
        self.texts = self.encoded = 0

    @property
    def note(self) -> str:
        """A line that says which words count, and which other choices there are."""
        letters = "of one letter too" if self.words.shortest == 1 else f"from {self.words.shortest} letters on"
        stems = "stems of words" if self.words.stemmed else "words as they stand"
        return f"{stems}, {letters}, without stop words; choose among {', '.join(BM25_WORDS)}"

    def tokenize(self, texts: list[str], **settings):
        """bm25s's tokens."""
        import bm25s

        pattern = rf"(?u)\b\w{{{self.words.shortest},}}\b"
        return bm25s.tokenize(texts, stopwords="en", stemmer=self.stemmer, token_pattern=pattern, **settings)

    def index(self, corpus: "Dataset", **_) -> None:
        """Keep a corpus to search in, as mteb's search protocol has it."""
        self.ids = list(corpus["id"])
        self.retriever = Bm25(document_texts(corpus[:]), self.tokenize)
        self.texts += len(self.ids)

    def search(
        self, queries: "Dataset", *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **_
    ) -> dict[str, dict[str, float]]:
        """Scores of the best `top_k` documents by query, of all or of its own candidates; ties by row.

        Documents that share no word with the query are not found. A query that nothing is found for is there, and
        empty: it counts as 0.
        """
        texts, results = list(queries["text"]), {}
        self.texts += len(texts)
        row_of = {} if top_ranked is None else {document: row for row, document in enumerate(self.ids)}
        for query, (rows, scores) in zip(queries["id"], self.retriever.scores(texts), strict=True):
            if top_ranked is not None:
                own = np.isin(rows, [row_of[name] for name in top_ranked.get(query, ())])
                rows, scores = rows[own], scores[own]
            rows, scores = best_scores(rows, scores, top_k)
            results[query] = {self.ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}
        return results

    def scores(self, queries: list[str], documents: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for each query the documents that share a word with it: their numbers, in no order, and scores."""
        self.texts += len(queries) + len(documents)
        return Bm25(documents, self.tokenize).scores(queries)

    def describe(self) -> dict:
        """The facts that identify the model in a result."""
        import bm25s

        words = f"stopwords=en words={self.words.shortest}+ stemmer={'snowball' if self.stemmer else 'none'}"
        return {
            "weights": f"bm25s {bm25s.__version__} lucene k1=1.5 b=0.75 {words}",
            "precision": self.precision,
            "variant": self.variant,
        }

    def cut(self) -> str:
        """Words are counted to a text's end."""
        return ""

    def close(self) -> None:
        """There is nothing to end."""
