"""CodeSearchNet (Section 4.4): mean reciprocal rank of a docstring's own code.

Among all codes of GraphCodeBERT's code base (Table 7), and among the 1,000 of its block (Table 13). The code base is
that of dev and test before GraphCodeBERT's filter, which only the queries pass: 4,360 codes of Ruby, not the 2,661 that
the cleaned copy has. Where it is not there, the candidates are fewer and the score is higher, which `notes` say.

Shapes: N queries, M candidates, D width.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType

from gte.data.task_folder import SAME_SPLIT, Folder
from gte.errors import UserError
from gte.evaluation.bm25 import BM25
from gte.evaluation.hub_rows import hub_rows
from gte.results.paper import FEWER

if TYPE_CHECKING:
    from gte.evaluation.model import EncoderModel


LANGUAGES = {"Ruby": "ruby", "JavaScript": "javascript", "Go": "go", "Python": "python", "Java": "java", "PHP": "php"}
FIELDS = {"docstring": "text", "code": "text", "code_tokens": "optional texts", "url": "optional text"}
CODEBASE_FIELDS = FIELDS | {"docstring": "optional text"}
CODEBASE = {"Ruby": 4_360, "JavaScript": 13_981, "Go": 28_120, "Python": 43_827, "Java": 40_347, "PHP": 52_660}
NAMES = {f"CodeSearchNet{name}": language for name, language in LANGUAGES.items()}


def mean_reciprocal_rank(q_ND: np.ndarray, d_MD: np.ndarray, rows: int = 256) -> float:
    """Compute the mean of 1 / rank of d_i among all documents for query q_i, by scores as `search` computes them.

    A tie counts half a rank: a model that embeds everything alike gets the score of chance, not a perfect one.

    Args:
        q_ND: float32 [N, D], unit vectors of the queries.
        d_MD: float32 [M, D], M >= N; row i is the document of query i.
        rows: queries at a time.
    Returns: from 0 to 1.
    Source: Section 4.4, Table 7.

    >>> q_ND = np.eye(3, dtype=np.float32)
    >>> mean_reciprocal_rank(q_ND, q_ND), mean_reciprocal_rank(q_ND, q_ND[[1, 0, 2]])
    (1.0, 0.6)
    """
    reciprocal = []
    d_DM = d_MD.T.astype(np.float64)
    for start in range(0, len(q_ND), rows):
        scores = (q_ND[start : start + rows].astype(np.float64) @ d_DM).astype(np.float32)
        own = scores[np.arange(len(scores)), np.arange(start, start + len(scores))][:, None]
        above, equal = (scores > own).sum(1), (scores == own).sum(1) - 1
        reciprocal.append(1 / (1 + above + equal / 2))
    return float(np.concatenate(reciprocal).mean())


def reciprocal_rank_by_words(bm25: BM25, q_N: np.ndarray, d_M: np.ndarray) -> float:
    """Compute the same of texts by BM25's scores; all documents without a word of the query score 0.

    Args:
        bm25: its words.
        q_N: the queries' texts.
        d_M: the documents' texts, M >= N; text i is the document of query i. Words are weighted by how rare they are
            among these.
    Returns: from 0 to 1.

    >>> reciprocal_rank_by_words(BM25(), ["red fox", "a car"], ["the car", "a red fox"])
    0.5
    """
    reciprocal = []
    for own, (numbers, scores) in enumerate(bm25.scores(list(q_N), list(d_M))):
        score = scores[numbers == own].sum()  # 0 where it is not found
        above = (scores > score).sum()
        equal = (scores == score).sum() + (score == 0) * (len(d_M) - len(numbers)) - 1
        reciprocal.append(1 / (1 + above + equal / 2))
    return float(np.mean(reciprocal))


def blocked_reciprocal_rank(
    q_N: np.ndarray, d_N: np.ndarray, size: int = 1000, seed: int = 0, rank: Callable = mean_reciprocal_rank
) -> float:
    """Compute the same among blocks of shuffled pairs; an incomplete last block is skipped, as in CodeSearchNet.

    Args:
        q_N: the queries, as `rank` takes them: unit vectors float32 [N, D].
        d_N: their documents, likewise.
        size: pairs of a block.
        seed: of the shuffle.
        rank: computes it of one block.
    Returns: from 0 to 1.
    Source: Table 13.

    >>> q_ND = np.eye(4, dtype=np.float32)
    >>> blocked_reciprocal_rank(q_ND, q_ND, size=2)
    1.0
    """
    order = np.random.default_rng(seed).permutation(len(q_N))
    blocks = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return float(np.mean([rank(q_N[block], d_N[block]) for block in blocks]))


def first_line(row: dict) -> str:
    """First line of the row's docstring."""
    return (row.get("docstring") or "").strip().split("\n")[0].strip()


def code_of(row: dict) -> str:
    """The row's code, or its tokens where the code holds the docstring that it is to be found by."""
    tokens = row.get("code_tokens")
    return " ".join(tokens) if tokens and first_line(row) and first_line(row) in row["code"] else row["code"]


def holds_docstring(row: dict) -> bool:
    """Whether the code that is embedded holds the first line of its docstring, of several words."""
    line = first_line(row)
    return len(line.split()) > 2 and line in code_of(row)


def split_codebase(asked: list[dict], codebase: list[dict], path: Path) -> tuple[list[dict], list[dict]]:
    """The rows of a code base that are the own ones of the queries, in their order, and all others.

    Raises UserError where a query's own code is not in it.
    """
    by_url = all(row.get("url") for row in asked + codebase)
    key = "url" if by_url else "code"
    found = {row[key]: row for row in reversed(codebase)}
    lacking = [row for row in asked if row[key] not in found]
    if lacking:
        raise UserError(
            f"{path} lacks the {'url' if by_url else 'code'} of {len(lacking)} of {len(asked)} queries, "
            f"{lacking[0][key][:60]!r} the first; they do not belong together"
        )
    own = {row[key] for row in asked}
    return [found[row[key]] for row in asked], [row for row in codebase if row[key] not in own]


class CodeSearchNet(AbsTask):
    """One language: `<language>_test.jsonl` {docstring, code, url?}, and the candidates.

    These are `<language>_codebase.jsonl` {code, url?}, GraphCodeBERT's file, in which a query's own code is the one of
    its url, or where rows have none of its text; without it the codes of test and of `<language>_dev.jsonl`. Folders as
    GraphCodeBERT has them, `<language>/test.jsonl`, are read too. From the hub: CodeXGLUE's cleaned copy, which has no
    code base. Instead of a code that holds its own docstring, as Python's do, its `code_tokens` are read.
    """

    folder_name = "CodeSearchNet"
    language: str
    _support_search = True  # mteb's question to a task, before it hands over a model that ranks without vectors

    def __init__(self, folder: Folder | None = None, split: str | None = None):
        super().__init__()
        self.folder, self.chosen_split = folder, split or "test"
        self.notes: list[str] = []
        if folder is not None and self.file(self.chosen_split) is None:
            folder.require(f"{self.language}_{self.chosen_split}")

    def file(self, name: str) -> Path | None:
        """`<language>_<name>.jsonl`, or as GraphCodeBERT has it `<language>/<name>.jsonl`, plain or compressed."""
        return self.folder.find(f"{self.language}_{name}") or self.folder.find(f"{self.language}/{name}")

    def load_data(self, num_proc: int | None = None, **_) -> None:
        """Read queries and candidates, once."""
        if self.data_loaded:
            return
        asked = self.pairs(self.chosen_split)
        base = self.folder and self.file("codebase")
        if base:
            own, others = split_codebase(asked, self.folder.rows(base, CODEBASE_FIELDS), base)
        else:
            own, others = asked, self.pairs("dev" if self.chosen_split == "test" else "test")
        wanted = CODEBASE[next(name for name, language in LANGUAGES.items() if language == self.language)]
        if len(own) + len(others) < wanted:
            alone = "test and dev" if others else f"{self.chosen_split} alone"
            count = f"{len(own) + len(others):,} codes, of {base.name if base else alone}"
            self.notes.append(f"{FEWER}: {count}, not {wanted:,}; the score is higher so")
        leaking = sum(map(holds_docstring, own))
        if leaking:
            self.notes.append(f"{leaking} of {len(own)} codes hold the docstring that they are searched by")
        queries, codes = [row["docstring"] for row in asked], [code_of(row) for row in own + others]
        self.dataset = {"default": {self.chosen_split: (queries, codes)}}
        self.data_loaded = True

    def pairs(self, split: str) -> list[dict]:
        """Rows {docstring, code, ...} of a split; none where the folder does not have it."""
        if self.folder is None:
            return hub_rows(self, "validation" if split == "dev" else split, self.language)
        names = SAME_SPLIT if split in SAME_SPLIT else (split,)
        found = [path for name in names if (path := self.file(name))]
        return self.folder.rows(found[0], FIELDS) if found else []

    def _evaluate_subset(
        self, model: "EncoderModel | BM25", data_split: tuple[list[str], list[str]], **_
    ) -> dict[str, float]:
        if isinstance(model, BM25):
            q_N, d_M = (np.array(texts, dtype=object) for texts in data_split)
            rank = partial(reciprocal_rank_by_words, model)
        else:
            q_N = model.embed_queries(data_split[0], model.prompt(self.metadata, PromptType.query))
            d_M = model.embed(data_split[1], model.prompt(self.metadata, PromptType.document))
            rank = mean_reciprocal_rank
        scores = {"mrr": rank(q_N, d_M)}
        if len(q_N) >= 1000:
            scores["mrr_1k"] = blocked_reciprocal_rank(q_N, d_M[: len(q_N)], rank=rank)
        return scores

    def _calculate_descriptive_statistics_from_split(self, split: str, **_):
        raise NotImplementedError  # abstract in mteb, never called here


def named(name: str, language: str) -> type[CodeSearchNet]:
    """Make the task of one language."""
    metadata = TaskMetadata(
        name=name,
        description="CodeSearchNet, docstring to code",
        dataset={"path": "google/code_x_glue_ct_code_to_text", "revision": "main"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="mrr",
    )
    return type(name, (CodeSearchNet,), {"metadata": metadata, "language": language})


TASKS = {name: named(name, language) for name, language in NAMES.items()}
