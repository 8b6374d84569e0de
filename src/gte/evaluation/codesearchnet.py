"""CodeSearchNet (Section 4.4): mean reciprocal rank of a docstring's own code.

Among all codes of GraphCodeBERT's code base (Table 7), and among the 1,000 of its block (Table 13). The code base is
that of dev and test before GraphCodeBERT's filter, which only the queries pass: 4,360 codes of Ruby, not the 2,661 that
the cleaned copy has. Where it is not there, the candidates are fewer and the score is higher, which `notes` say.

Shapes: N queries, M candidates, D width.
"""

from pathlib import Path

import numpy as np
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType

from gte.data.task_folder import SAME_SPLIT, Folder
from gte.errors import UserError
from gte.evaluation.hub_rows import hub_rows
from gte.results.paper import FEWER

LANGUAGES = {"Ruby": "ruby", "JavaScript": "javascript", "Go": "go", "Python": "python", "Java": "java", "PHP": "php"}
FIELDS = {"docstring": "text", "code": "text", "code_tokens": "optional texts", "url": "optional text"}
CODEBASE_FIELDS = FIELDS | {"docstring": "optional text"}
CODEBASE = {"Ruby": 4_360, "JavaScript": 13_981, "Go": 28_120, "Python": 43_827, "Java": 40_347, "PHP": 52_660}
NAMES = {f"CodeSearchNet{name}": language for name, language in LANGUAGES.items()}


def mean_reciprocal_rank(q_ND: np.ndarray, d_MD: np.ndarray, rows: int = 256) -> float:
    """Mean of 1 / rank of d_i among all d for query q_i, `rows` queries at a time, by scores as `search` computes them.

    A tie counts half a place: a model that embeds everything alike gets the score of chance, not a perfect one.
    """
    reciprocal = []
    d_DM = d_MD.T.astype(np.float64)
    for start in range(0, len(q_ND), rows):
        scores = (q_ND[start : start + rows].astype(np.float64) @ d_DM).astype(np.float32)
        own = scores[np.arange(len(scores)), np.arange(start, start + len(scores))][:, None]
        above, equal = (scores > own).sum(1), (scores == own).sum(1) - 1
        reciprocal.append(1 / (1 + above + equal / 2))
    return float(np.concatenate(reciprocal).mean())


def blocked_reciprocal_rank(q_ND: np.ndarray, d_ND: np.ndarray, size: int = 1000, seed: int = 0) -> float:
    """The same among blocks of `size` shuffled pairs; an incomplete last block is left out, as in CodeSearchNet."""
    order = np.random.default_rng(seed).permutation(len(q_ND))
    blocks = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return float(np.mean([mean_reciprocal_rank(q_ND[block], d_ND[block]) for block in blocks]))


def first_line(row: dict) -> str:
    """Of the row's docstring."""
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

    def _evaluate_subset(self, model, data_split, **_) -> dict[str, float]:
        queries, codes = data_split
        if not hasattr(model, "embed"):
            raise UserError(f"{self.metadata.name} ranks by embeddings; this model has none")
        q_ND = model.embed_queries(queries, model.prompt(self.metadata, PromptType.query))
        d_MD = model.embed(codes, model.prompt(self.metadata, PromptType.document))
        scores = {"mrr": mean_reciprocal_rank(q_ND, d_MD)}
        if len(queries) >= 1000:
            scores["mrr_1k"] = blocked_reciprocal_rank(q_ND, d_MD[: len(q_ND)])
        return scores

    def _calculate_descriptive_statistics_from_split(self, split, **_):
        raise NotImplementedError  # abstract in mteb, never called here


def named(name: str, language: str) -> type[CodeSearchNet]:
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
