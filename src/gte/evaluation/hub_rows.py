"""Rows of a data set on the hub, for the tasks that mteb does not have."""

import datasets
import huggingface_hub
from mteb.abstasks import AbsTask


def hub_rows(task: AbsTask, split: str, config: str | None = None) -> list[dict]:
    """All rows of a split of the task's data set; the revision that was read is noted in the task's metadata."""
    path = task.metadata.dataset["path"]
    revision = huggingface_hub.HfApi().dataset_info(path).sha
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": path, "revision": revision}})
    return datasets.load_dataset(path, config, split=split, revision=revision).to_list()
