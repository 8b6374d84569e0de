"""Evaluation tasks: mteb's own classes, over the hub or over a local folder in place of it.

A folder only replaces where the data come from (`load_data`); protocol and metrics are those of mteb's class. A name
that mteb does not know becomes a task of the kind that its files show.
"""

import copy
import itertools
import numbers
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import httpx
import mteb
from mteb import similarity_functions
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.task_metadata import TaskMetadata

from gte.data.task_folder import Folder
from gte.errors import UserError, did_you_mean, first_line
from gte.evaluation import codesearchnet, sst2
from gte.evaluation.local import LocalData, english_subset, eval_split

if TYPE_CHECKING:
    from gte.evaluation.bm25 import BM25
    from gte.evaluation.model import EncoderModel


MAIN_SCORE = {
    "Retrieval": "ndcg_at_10",
    "Reranking": "map_at_1000",
    "STS": "cosine_spearman",
    "PairClassification": "max_ap",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "Summarization": "cosine_spearman",
}


@dataclass
class Task:
    """The task or tasks of one column of a result. Several parts (CQADupStack's forums) are averaged."""

    name: str
    parts: list[AbsTask]

    @property
    def kind(self) -> str:
        return self.parts[0].metadata.type

    @property
    def main_score(self) -> str:
        return self.parts[0].metadata.main_score

    @property
    def split(self) -> str:
        return " ".join(dict.fromkeys(map(eval_split, self.parts)))

    @property
    def data(self) -> str:
        """Checksum of the local files or the hub's revision; call it after `load`."""
        return " ".join(
            f"hub:{part.metadata.dataset['revision']}"
            if getattr(part, "folder", None) is None
            else part.folder.checksum
            for part in self.parts
        )

    @property
    def notes(self) -> list[str]:
        """Notes on data that were not scored as they are; call it after `load`."""
        return [note for part in self.parts for note in getattr(part, "notes", [])]

    def load(self) -> None:
        """Reads the data. UserError where files are wrong or the hub does not answer."""
        for part in self.parts:
            try:
                part.load_data()
            except UserError:
                raise
            except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
                if getattr(part, "folder", None) is not None:
                    raise
                name = part.metadata.name
                folder = OWN[name].folder_name if name in OWN else name
                raise UserError(
                    f"the hub did not give {name} ({first_line(error)}); pass data_dir=DIR, the data in DIR/{folder}"
                ) from error
            check_split(part)
            if isinstance(part, AbsTaskClassification) and part.dataset:
                part.dataset = with_whole_columns(part.dataset)

    def run(self, model: "EncoderModel | BM25") -> dict[str, float]:
        """All scalar scores, in points of 100, averaged over the parts, and what was `measured` beside them.

        UserError where the main one is no number.
        """
        runs = [self.run_part(part, model) for part in self.parts]
        scores = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0] if all(key in run for run in runs)}
        if self.main_score not in scores:
            raise UserError(f"{self.main_score} is not a number: the model gives all texts the same score; train it")
        return scores

    @staticmethod
    def run_part(part: AbsTask, model: "EncoderModel | BM25") -> dict[str, float]:
        model.measured = {}
        with warnings.catch_warnings(), uncompiled():
            warnings.simplefilter("ignore")  # sklearn's and scipy's remarks on constant input; NaN is dealt with above
            drawn_from = copy.deepcopy((part.rng_state, part.np_rng))
            by_subset = part.evaluate(model, eval_split(part), encode_kwargs={"show_progress_bar": False})
            part.mteb_scores = by_subset  # as mteb writes them, for gte.evaluation.board
            part.rng_state, part.np_rng = drawn_from  # another model, or the same some steps later, gets the same draws
        scores = next(iter(by_subset.values()))
        points = {
            key: 100 * float(value)
            for key, value in scores.items()
            if isinstance(value, numbers.Real) and value == value and not key.startswith("nauc") and key != "main_score"
        }
        return points | getattr(model, "measured", {})


def check_split(part: AbsTask) -> None:
    """UserError where data that were loaded lack the split that was chosen."""
    splits, split = part.dataset, getattr(part, "chosen_split", None)
    if split is None or not splits:  # some of mteb's tasks keep their data elsewhere until they are scored
        return
    for subset in part.hf_subsets or ():
        splits = part.dataset.get(subset, splits)
        if split not in splits:
            raise UserError(f"{part.metadata.name} has no split {split}; there are {', '.join(map(str, splits))}")


class WholeColumns(datasets.Dataset):
    """A data set that gives a column as a list.

    mteb draws and compares labels one by one, and a column of `datasets` decodes a row at each access: half the time of
    a classification with many labels.
    """

    def __getitem__(self, key: int | slice | str | Iterable[int]) -> dict | list:
        rows = super().__getitem__(key)
        return rows[:] if isinstance(key, str) else rows


def with_whole_columns(data: datasets.Dataset | dict) -> datasets.Dataset | dict:
    """The same splits, or subsets of them, as data sets whose columns are lists."""
    if isinstance(data, datasets.Dataset):
        data = copy.copy(data)
        data.__class__ = WholeColumns
        return data
    if not isinstance(data, dict):  # streamed
        return data
    return type(data)({name: with_whole_columns(part) for name, part in data.items()})


@contextmanager
def uncompiled():
    """Keeps mteb from compiling its cosine anew at every call, as it does on compute capability 7.0, 8.0 and 9.0."""
    before = similarity_functions._use_torch_compile
    similarity_functions._use_torch_compile = lambda: False
    try:
        yield
    finally:
        similarity_functions._use_torch_compile = before


BASES = {  # of tasks that mteb does not know
    "Retrieval": AbsTaskRetrieval,
    "Reranking": AbsTaskRetrieval,
    "STS": AbsTaskSTS,
    "PairClassification": AbsTaskPairClassification,
    "Classification": AbsTaskClassification,
    "Clustering": AbsTaskClusteringLegacy,
    "Summarization": AbsTaskSummarization,
}
OWN = {**sst2.TASKS, **codesearchnet.TASKS}  # the paper's own protocols: name -> class


def known(name: str) -> AbsTask | None:
    """mteb's task of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return mteb.get_task(name)
        except KeyError:
            return None


def kind_of(name: str) -> str | None:
    """The category of a task that mteb or the paper has."""
    task = OWN.get(name) or known(name)
    return task and task.metadata.type


def metadata(name: str, kind: str, source: str, split: str) -> TaskMetadata:
    """Describe a task that mteb has no entry for."""
    return TaskMetadata(
        name=name,
        description=f"{kind} over {source}",
        dataset={"path": source, "revision": "local"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score=MAIN_SCORE[kind],
    )


def local_part(name: str, folder: Folder, split: str | None = None, subset: str | None = None) -> AbsTask:
    """The task `name` over `folder`: of mteb's class where it knows the name, else of the kind that the files show.

    UserError where the folder lacks the file of the split, or the folder of the subset, that is to be scored.
    """
    task = known(name)
    if task is not None and not isinstance(task, (*BASES.values(), AbsTaskClustering)):
        raise UserError(f"{name} is a {task.metadata.type} task, which is not read from a folder; leave data_dir= away")
    attributes = {"chosen_split": split}
    if task is None:
        split = split or folder.first_split()
        kind = folder.kind(split)
        attributes["metadata"] = metadata(name, kind, str(folder.path), split)
        if kind == "Summarization":
            attributes |= {"min_score": 0, "max_score": 5}
    base = type(task) if task is not None else BASES[kind]
    part = type(base.__name__, (LocalData, base), attributes)()
    part.hf_subsets = [subset or english_subset(part)]
    part.folder = folder.part(part.hf_subsets[0])
    if subset and part.folder is folder:
        raise UserError(f"{folder.path} lacks the part {subset}; the score is the mean over all parts")
    part.folder.split_file(eval_split(part))
    return part


def make_task(name: str, folder: Path | None, split: str | None = None, subset: str | None = None) -> Task:
    """The task of that name, over a folder or (None) over the hub, on `split` or (None) on the one that MTEB scores.

    `subset`: of a multilingual task, None for the English one. UserError where there is no such task, or no such split
    or subset in its folder.
    """
    if name in OWN:
        return Task(name, [OWN[name](folder and Folder(folder), split)])
    task = known(name)
    if isinstance(task, AbsTaskAggregate):
        names = [part.metadata.name for part in task.metadata.tasks]
        folders = [None] * len(names) if folder is None else [part_folder(folder, part) for part in names]
        parts = [make_task(part, path, split).parts for part, path in zip(names, folders, strict=True)]
        return Task(name, list(itertools.chain.from_iterable(parts)))
    if folder is not None:
        return Task(name, [local_part(name, Folder(folder), split, subset)])
    if task is None:
        lists = map(mteb.get_benchmark, ("MTEB(eng, v1)", "MTEB(eng, v2)", "NanoBEIR"))
        near = did_you_mean(name, [*OWN, *(one.metadata.name for tasks in lists for one in tasks)])
        raise UserError(f"unknown task {name}{near}; name one of mteb's, or a folder under data_dir")
    task.chosen_split = split
    task.hf_subsets = [subset or english_subset(task)]
    return Task(name, [task.filter_eval_splits([eval_split(task)])])


def part_folder(folder: Path, part: str) -> Path:
    """CQADupstackRetrieval/CQADupstackAndroidRetrieval, or CQADupstackRetrieval/android as BEIR names it."""
    short = part.removeprefix("CQADupstack").removesuffix("Retrieval").lower()
    for path in (folder / part, folder / short):
        if path.is_dir():
            return path
    raise UserError(f"{folder} lacks the part {part}; the score is the mean over all parts")
