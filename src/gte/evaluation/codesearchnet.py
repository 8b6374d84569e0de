"""CodeSearchNet (Section 4.4): mean reciprocal rank of a docstring's own code.

Among all codes of test and dev (Table 7), and among the 1,000 of its block (Table 13).

Shapes: N queries, M candidates, D width.
"""

import numpy as np
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType

from gte.errors import UserError
from gte.evaluation.folder import SAME_SPLIT, Folder
from gte.evaluation.hub_rows import hub_rows

LANGUAGES = {"Ruby": "ruby", "JavaScript": "javascript", "Go": "go", "Python": "python", "Java": "java", "PHP": "php"}
FIELDS = {"docstring": "text", "code": "text"}
NAMES = {f"CodeSearchNet{name}": language for name, language in LANGUAGES.items()}


def mean_reciprocal_rank(q_ND: np.ndarray, d_MD: np.ndarray, rows: int = 1024) -> float:
    """Mean of 1 / rank of d_i among all d for query q_i, `rows` queries at a time.

    A tie counts half a place: a model that embeds everything alike gets the score of chance, not a perfect one.
    """
    reciprocal = []
    for start in range(0, len(q_ND), rows):
        scores = q_ND[start : start + rows] @ d_MD.T
        own = scores[np.arange(len(scores)), np.arange(start, start + len(scores))][:, None]
        above, equal = (scores > own).sum(1), (scores == own).sum(1) - 1
        reciprocal.append(1 / (1 + above + equal / 2))
    return float(np.concatenate(reciprocal).mean())


def blocked_reciprocal_rank(q_ND: np.ndarray, d_ND: np.ndarray, size: int = 1000, seed: int = 0) -> float:
    """The same among blocks of `size` shuffled pairs; an incomplete last block is left out, as in CodeSearchNet."""
    order = np.random.default_rng(seed).permutation(len(q_ND))
    blocks = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return float(np.mean([mean_reciprocal_rank(q_ND[block], d_ND[block]) for block in blocks]))


class CodeSearchNet(AbsTask):
    """One language: `<language>_test.jsonl` {docstring, code}, and for more candidates `<language>_dev.jsonl`.

    From the hub: CodeXGLUE's cleaned copy. Rows of `test` are asked, all rows of test and dev are candidates.
    """

    folder_name = "CodeSearchNet"
    language: str

    def __init__(self, folder: Folder | None = None, split: str | None = None):
        super().__init__()
        self.folder, self.chosen_split = folder, split or "test"
        self.notes: list[str] = []
        if folder is not None:
            folder.require(f"{self.language}_{self.chosen_split}")

    def load_data(self, num_proc: int | None = None, **_) -> None:
        if self.data_loaded:
            return
        asked = self.pairs(self.chosen_split)
        others = self.pairs("dev" if self.chosen_split == "test" else "test")
        if not others:
            self.notes.append(f"the {len(asked)} codes of {self.chosen_split} are the only candidates")
        queries, codes = [row["docstring"] for row in asked], [row["code"] for row in asked + others]
        self.dataset = {"default": {self.chosen_split: (queries, codes)}}
        self.data_loaded = True

    def pairs(self, split: str) -> list[dict]:
        """Rows {docstring, code} of a split; none where the folder does not have it."""
        if self.folder is None:
            return hub_rows(self, "validation" if split == "dev" else split, self.language)
        names = SAME_SPLIT if split in SAME_SPLIT else (split,)
        found = [path for name in names if (path := self.folder.find(f"{self.language}_{name}"))]
        return self.folder.rows(found[0], FIELDS) if found else []

    def _evaluate_subset(self, model, data_split, **_) -> dict[str, float]:
        queries, codes = data_split
        if not hasattr(model, "embed"):
            raise UserError(f"{self.metadata.name} ranks by embeddings; this model has none")
        q_ND = model.embed(queries, model.prompt(self.metadata, PromptType.query))
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
