"""Zero-shot classification of SST-2 (Section 4.1, Table 4): the nearer of two verbalised labels by inner product."""

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskZeroShotClassification
from mteb.abstasks.task_metadata import TaskMetadata

from gte.data.task_folder import FIELDS, Folder
from gte.errors import UserError
from gte.evaluation.hub_rows import hub_rows

VERBALIZERS = {  # negative, positive: label 0, label 1
    "SST2": ("negative", "positive"),
    "SST2Prompted": ("this is an example of negative movie review", "this is an example of positive movie review"),
}


class SST2(AbsTaskZeroShotClassification):
    """Accuracy over <split>.jsonl {text, label} or the hub's SetFit/sst2; how it is scored is mteb's."""

    folder_name = "SST2"
    input_column_name = "text"

    def __init__(self, folder: Folder | None = None, split: str | None = None):
        super().__init__()
        self.folder, self.chosen_split = folder, split or "test"
        if folder is not None:
            folder.split_file(self.chosen_split)

    def load_data(self, num_proc: int | None = None, **_) -> None:
        if self.data_loaded:
            return
        if self.folder is None:
            rows = [{key: row[key] for key in ("text", "label")} for row in hub_rows(self, self.chosen_split)]
        else:
            path = self.folder.split_file(self.chosen_split)
            rows = self.folder.rows(path, FIELDS["Classification"])
            if not {row["label"] for row in rows} <= {0, 1}:
                raise UserError(f"{path}: labels must be 0 (negative) or 1 (positive)")
        self.dataset = DatasetDict({self.chosen_split: Dataset.from_list(rows)})
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return list(VERBALIZERS[self.metadata.name])


def named(name: str) -> type[SST2]:
    metadata = TaskMetadata(
        name=name,
        description="SST-2, zero-shot",
        dataset={"path": "SetFit/sst2", "revision": "main"},
        type="ZeroShotClassification",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="accuracy",
    )
    return type(name, (SST2,), {"metadata": metadata})


TASKS = {name: named(name) for name in VERBALIZERS}
