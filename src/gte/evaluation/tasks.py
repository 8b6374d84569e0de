"""Evaluation tasks: mteb's own classes, over the hub or over a local folder in place of it.

A folder only replaces where the data come from (`load_data`); protocol and metrics are those of mteb's class. A name
that mteb does not know becomes a task of the kind that its files show.
"""

import copy
import itertools
import json
import tempfile
import warnings
from array import array
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import mteb
import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict
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

from gte.data.task_folder import FIELDS, Folder
from gte.errors import UserError, did_you_mean, first_line
from gte.evaluation import codesearchnet, sst2

MAIN_SCORE = {
    "Retrieval": "ndcg_at_10",
    "Reranking": "map_at_1000",
    "STS": "cosine_spearman",
    "PairClassification": "max_ap",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "Summarization": "cosine_spearman",
}
ENGLISH = ("en", "en-en", "eng", "eng-eng", "english")  # of several English subsets MTEB takes the plain one


@dataclass
class Task:
    """What one column of a result stands for. Several parts (CQADupStack's forums) are averaged."""

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
        """What of the data was not scored as it stands; call it after `load`."""
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

    def run(self, model) -> dict[str, float]:
        """All scalar scores, in points of 100, averaged over the parts, and what was `measured` beside them.

        UserError where the main one is no number.
        """
        runs = [self.run_part(part, model) for part in self.parts]
        scores = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0] if all(key in run for run in runs)}
        if self.main_score not in scores:
            raise UserError(f"{self.main_score} is not a number: the model gives all texts the same score; train it")
        return scores

    @staticmethod
    def run_part(part: AbsTask, model) -> dict[str, float]:
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
            if isinstance(value, int | float) and value == value and not key.startswith("nauc") and key != "main_score"
        }
        return points | getattr(model, "measured", {})


@contextmanager
def uncompiled():
    """Keeps mteb from compiling its cosine anew at every call, as it does on compute capability 7.0, 8.0 and 9.0."""
    before = similarity_functions._use_torch_compile
    similarity_functions._use_torch_compile = lambda: False
    try:
        yield
    finally:
        similarity_functions._use_torch_compile = before


class LocalData:
    """Mixed into a task class of mteb: its data come from `folder`."""

    folder: Folder

    def load_data(self, num_proc: int | None = None, **_) -> None:
        if self.data_loaded:
            return
        split = eval_split(self)
        if isinstance(self, AbsTaskRetrieval):
            rows = self.metadata.type == "Reranking" and not self.folder.is_retrieval()
            data, self.notes = read_reranking(self.folder, split) if rows else read_retrieval(self.folder, split)
            self.dataset = {self.hf_subsets[0]: {split: data}}
        else:
            read = next(read for base, read in READERS.items() if isinstance(self, base))
            data = DatasetDict(read(self.folder, split, self))
            self.dataset = {self.hf_subsets[0]: data} if self.metadata.is_multilingual else data
            self.transform()
            if isinstance(self, AbsTaskClassification):
                splits = self.dataset[self.hf_subsets[0]] if self.metadata.is_multilingual else self.dataset
                number_labels(splits, self.label_column_name, split)
        self.data_loaded = True

    def transform(self) -> None:
        """The class's own choice of rows (ToxicConversations scores 2,048 of 50,000).

        Where it fails it renames the hub's columns; a folder has the final names already.
        """
        before = self.dataset
        try:
            self.dataset_transform()
        except (ValueError, KeyError):
            self.dataset = before


def number_labels(splits: DatasetDict, column: str, split: str) -> None:
    """Where the split that is scored has two labels and neither is 1, they become 0 and 1 in their order, others 2 on.

    mteb computes an average precision where it meets two labels, with 1 as the positive one, and fails without it.
    """
    labels = sorted(set(splits[split][column]))
    if len(labels) != 2 or 1 in labels:
        return
    labels += sorted({label for other in splits.values() for label in other[column]}.difference(labels))
    numbers = {label: number for number, label in enumerate(labels)}
    for name, other in splits.items():
        renumbered = [numbers[label] for label in other[column]]
        splits[name] = other.remove_columns(column).add_column(column, renumbered)


def eval_split(task: AbsTask) -> str:
    """The split that was chosen, else the one that MTEB scores."""
    splits = task.metadata.eval_splits
    return getattr(task, "chosen_split", None) or ("test" if "test" in splits else splits[0])


def english_subset(task: AbsTask) -> str:
    """Of a multilingual task the subset that MTEB's English benchmark scores; the first where none is English."""
    languages = task.metadata.eval_langs
    if not isinstance(languages, dict):
        return "default"
    english = [name for name, codes in languages.items() if all(code.startswith("eng") for code in codes)]
    return next((name for name in ENGLISH if name in english), (english or list(languages))[0])


def read_retrieval(folder: Folder, split: str) -> tuple[dict, list[str]]:
    """Corpus, queries and relevance as mteb's RetrievalSplitData, and what of them cannot be scored as it stands.

    As in mteb a query whose judged documents are all irrelevant is asked, and counts 0; a query without any, or without
    a text, is not. A relevant document that the corpus lacks counts as not found.
    """
    relevant = folder.qrels(split)
    queries = folder.by_id(folder.require("queries"), FIELDS["Queries"], "_id")
    asked = [query for query in queries if query in relevant]
    if not asked:
        raise UserError(f"{folder.path}: no query of qrels/{split} is in queries.jsonl; they do not belong together")
    without = sum(max(relevant[query].values()) <= 0 for query in asked)
    if without == len(asked):
        raise UserError(f"{folder.path}: no query of qrels/{split} has a relevant document, one with a score above 0")
    notes = []
    if len(asked) < len(relevant):
        left_out = len(relevant) - len(asked)
        notes.append(f"{left_out} of {len(relevant)} queries have no text and are left out")
    if without:
        notes.append(f"{without} of {len(asked)} queries have no document with a score above 0, and count 0")
    relevant = {query: relevant[query] for query in asked}
    corpus, missing = read_corpus(folder, {document for found in relevant.values() for document in found})
    if all(document in missing for found in relevant.values() for document, score in found.items() if score > 0):
        raise UserError(f"{folder.path}: no document of qrels/{split} is in corpus.jsonl; they do not belong together")
    if missing:
        notes.append(f"{len(missing)} judged documents are not in the corpus, {min(missing)} the first")
    data = {
        "corpus": corpus,
        "queries": Dataset.from_dict({"id": asked, "text": [queries[query]["text"] for query in asked]}),
        "relevant_docs": relevant,
        "top_ranked": read_candidates(folder, asked, corpus) if folder.find("top_ranked") else None,
    }
    return data, notes


def read_candidates(folder: Folder, asked: list[str], corpus: Dataset) -> dict[str, list[str]]:
    """The documents to rank by query; UserError where a query has none or comes twice, or one is unknown."""
    path = folder.require("top_ranked")
    rows = folder.by_id(path, FIELDS["Candidates"], "query-id")
    listed = {query: row["corpus-ids"] for query, row in rows.items()}
    unlisted = [query for query in asked if query not in listed]
    if unlisted:
        raise UserError(f"{path}: {len(unlisted)} queries have no candidates, {unlisted[0]} the first")
    absent = {document for query in asked for document in listed[query]} - set(corpus["id"])
    if absent:
        raise UserError(f"{path}: {len(absent)} candidates are not in the corpus, {min(absent)} the first")
    return {query: listed[query] for query in asked}


def read_corpus(folder: Folder, wanted: set[str]) -> tuple[Dataset, set[str]]:
    """The corpus memory-mapped, as large as it may be, and the ids of `wanted` that it lacks."""
    path = folder.require("corpus")
    schema = pa.schema([(name, pa.string()) for name in ("id", "title", "text")])
    folder.scratch = tempfile.TemporaryDirectory(prefix="gte-corpus-")  # goes with the folder
    hashes = array("q")
    missing = set(wanted)
    rows = folder.each(path, FIELDS["Corpus"])
    with pa.OSFile(f"{folder.scratch.name}/corpus.arrow", "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        while batch := list(itertools.islice(rows, 10_000)):
            ids, titles, texts = ([row[key] for row in batch] for key in FIELDS["Corpus"])
            stream.write_batch(pa.record_batch([ids, titles, texts], schema))
            missing.difference_update(ids)
            hashes.extend(map(hash, ids))
    twice = len(hashes) - len(np.unique(np.asarray(hashes)))
    if twice:
        raise UserError(f"{path}: {twice} of {len(hashes)} rows have an _id that an earlier row has; make them unique")
    return Dataset.from_file(f"{folder.scratch.name}/corpus.arrow"), missing


def read_reranking(folder: Folder, split: str) -> tuple[dict, list[str]]:
    """Each query's own candidates, positives first, under the ids that mteb gives them: they decide between ties.

    A query's id ends in the number of its text among those of its row, which mteb's MindSmallReranking merges by. Rows
    without a positive or without a negative are left out, and the others numbered anew, as mteb does.
    """
    corpus, queries, relevant, candidates = [], [], {}, {}
    path = folder.require(split)
    rows = folder.rows(path, FIELDS["Reranking"])
    sound = [row for row in rows if row["positive"] and row["negative"]]
    if not sound:
        raise UserError(f"{path}: none of its {len(rows)} rows has both positives and negatives; nothing can be ranked")
    for number, row in enumerate(sound):
        query = f"{split}_query{number}"
        texts = {f"apositive_{query}_{i:05}": (text, 1) for i, text in enumerate(row["positive"])}
        texts |= {f"negative_{query}_{i:05}": (text, 0) for i, text in enumerate(row["negative"])}
        corpus += [{"id": key, "title": "", "text": text} for key, (text, _) in texts.items()]
        for i, text in enumerate([row["query"]] if isinstance(row["query"], str) else row["query"]):
            queries.append({"id": f"{query}_{i}", "text": text})
            relevant[f"{query}_{i}"] = {key: relevance for key, (_, relevance) in texts.items()}
            candidates[f"{query}_{i}"] = list(texts)
    data = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": candidates,
    }
    left_out = len(rows) - len(sound)
    return data, [f"{left_out} of {len(rows)} rows have no positives or no negatives and are left out"] * (left_out > 0)


def renamed(rows: list[dict], names: dict[str, str]) -> Dataset:
    """The rows under the column names that the task's class reads."""
    return Dataset.from_list([{names.get(key, key): value for key, value in row.items()} for row in rows])


def of_one_type(labels: list) -> list:
    """The labels, as texts where some are texts or numbers and others not: a column has one type."""
    return list(map(str, labels)) if len(set(map(type, labels))) > 1 else labels


def require_several(values: Iterable, path: Path, what: str, why: str) -> None:
    """UserError where all values are the same one: no model can then be told from another."""
    distinct = set(itertools.islice(dict.fromkeys(values), 2))
    if len(distinct) < 2:
        only = json.dumps(next(iter(distinct), None))[:40]
        raise UserError(f"{path}: {what} are {only} in every row, and {why}; leave the task out or mend the file")


def read_sts(folder: Folder, split: str, task: AbsTaskSTS) -> dict[str, Dataset]:
    path = folder.require(split)
    rows = folder.rows(path, FIELDS["STS"])
    require_several((float(row["score"]) for row in rows), path, "the gold scores", "a rank correlation needs several")
    names = dict(zip(("sentence1", "sentence2"), task.column_names, strict=True))
    return {split: renamed([row | {"score": float(row["score"])} for row in rows], names)}


def read_pairs(folder: Folder, split: str, task: AbsTaskPairClassification) -> dict[str, Dataset]:
    columns = (task.input1_column_name, task.input2_column_name, task.label_column_name)
    names = dict(zip(FIELDS["PairClassification"], columns, strict=True))
    path = folder.require(split)
    if any(isinstance(value, list) for value in folder.first_row(path).values()):
        lists = folder.rows(path, FIELDS["PairLists"])
        if any(len(set(map(len, row.values()))) > 1 for row in lists):
            raise UserError(f"{path}: a row's lists are not of one length")
        pairs = [dict(zip(row, values, strict=True)) for row in lists for values in zip(*row.values(), strict=True)]
    else:
        pairs = folder.rows(path, FIELDS["PairClassification"])
    unknown = [row["label"] for row in pairs if str(row["label"]).lower() not in PAIR_LABELS]
    if unknown:
        raise UserError(
            f"{path}: label {json.dumps(unknown[0])[:40]} does not say whether the two texts belong together; write "
            "1 or 0, yes or no, true or false"
        )
    pairs = [row | {"label": PAIR_LABELS[str(row["label"]).lower()]} for row in pairs]
    require_several((row["label"] for row in pairs), path, "the labels", "an average precision needs both kinds")
    return {split: renamed(pairs, names)}


def read_classes(folder: Folder, split: str, task: AbsTaskClassification) -> dict[str, Dataset]:
    names = {"text": task.input_column_name, "label": task.label_column_name}
    files = {name: folder.require(name) for name in dict.fromkeys((task.train_split, split))}
    rows = {name: folder.rows(path, FIELDS["Classification"]) for name, path in files.items()}
    labels = of_one_type([row["label"] for own in rows.values() for row in own])
    for row, label in zip(itertools.chain.from_iterable(rows.values()), labels, strict=True):
        row["label"] = label
    train = (row["label"] for row in rows[task.train_split])
    require_several(train, files[task.train_split], "the labels", "a classifier needs two classes to learn from")
    return {name: renamed(own, names) for name, own in rows.items()}


def read_clusters(folder: Folder, split: str, task: AbsTask) -> dict[str, Dataset]:
    """One clustering a row for mteb's first protocol, one text a row for its second; either file serves both."""
    path = folder.require(split)
    if "sentences" in folder.first_row(path):
        sets = folder.rows(path, FIELDS["ClusteringSets"])
    else:
        rows = folder.rows(path, FIELDS["Clustering"])
        sets = [{"sentences": [row["text"] for row in rows], "labels": [row["label"] for row in rows]}]
    if any(len(row["sentences"]) != len(row["labels"]) for row in sets):
        raise UserError(f"{path}: a row has not as many labels as sentences")
    labels = list(map(str, itertools.chain.from_iterable(row["labels"] for row in sets)))
    require_several(labels, path, "the labels", "any clustering agrees with a single group")
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}  # mteb compares them with its groups'
    sets = [row | {"labels": [numbers[str(label)] for label in row["labels"]]} for row in sets]
    if isinstance(task, AbsTaskClustering):
        pairs = [pair for row in sets for pair in zip(row["sentences"], row["labels"], strict=True)]
        sets = [{"sentences": text, "labels": label} for text, label in pairs]
    return {split: renamed(sets, {"sentences": task.input_column_name, "labels": task.label_column_name})}


def read_summaries(folder: Folder, split: str, task: AbsTaskSummarization) -> dict[str, Dataset]:
    names = {
        "text": task.text_column_name,
        "human_summaries": task.human_summaries_column_name,
        "machine_summaries": task.machine_summaries_column_name,
        "relevance": task.relevancy_column_name,
    }
    path = folder.require(split)
    rows = folder.rows(path, FIELDS["Summarization"])
    if any(len(row["machine_summaries"]) != len(row["relevance"]) for row in rows):
        raise UserError(f"{path}: a row has not as many relevance scores as machine_summaries")
    if all(len(set(map(float, row["relevance"]))) < 2 for row in rows):
        raise UserError(
            f"{path}: in every row the relevance scores are all equal, and a rank correlation needs several; leave the "
            "task out or mend the file"
        )
    return {split: renamed([row | {"relevance": [float(x) for x in row["relevance"]]} for row in rows], names)}


PAIR_LABELS = {"0": 0, "1": 1, "no": 0, "yes": 1, "false": 0, "true": 1}
READERS = {
    AbsTaskSTS: read_sts,
    AbsTaskPairClassification: read_pairs,
    AbsTaskClassification: read_classes,
    AbsTaskClusteringLegacy: read_clusters,
    AbsTaskClustering: read_clusters,
    AbsTaskSummarization: read_summaries,
}
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
    """What mteb wants to know of a task that it has no entry for."""
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
