"""Zero-shot classification of SST-2 (Section 4.1, Table 4): the nearer of two verbalised labels by inner product."""

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskZeroShotClassification
from mteb.abstasks.task_metadata import TaskMetadata

from gte.errors import UserError
from gte.evaluation.folder import FIELDS, Folder

VERBALIZERS = {  # negative, positive: label 0, label 1
    "SST2": ("negative", "positive"),
    "SST2Prompted": ("this is an example of negative movie review", "this is an example of positive movie review"),
}


class SST2(AbsTaskZeroShotClassification):
    """Accuracy over test.jsonl {text, label}. `folder` and the verbalizers are the instance's, the rest is mteb's."""

    input_column_name = "text"

    def __init__(self, folder: Folder):
        super().__init__()
        self.folder = folder

    def load_data(self, num_proc: int | None = None, **_) -> None:
        if self.data_loaded:
            return
        path = self.folder.require("test")
        rows = self.folder.rows(path, FIELDS["Classification"])
        if not {row["label"] for row in rows} <= {0, 1}:
            raise UserError(f"{path}: labels must be 0 (negative) or 1 (positive)")
        self.dataset = DatasetDict({"test": Dataset.from_list(rows)})
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return list(VERBALIZERS[self.metadata.name])


def named(name: str) -> type[SST2]:
    metadata = TaskMetadata(
        name=name,
        description="SST-2, zero-shot",
        dataset={"path": "SST2", "revision": "local"},
        type="ZeroShotClassification",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="accuracy",
    )
    return type(name, (SST2,), {"metadata": metadata})


TASKS = {name: ("SST2", named(name)) for name in VERBALIZERS}
