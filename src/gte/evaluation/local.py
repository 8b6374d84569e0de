"""mteb's tasks over folders of this machine: their files read into the data sets that mteb would have loaded."""

import itertools
import json
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict
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

from gte.data.task_folder import FIELDS, Folder
from gte.errors import UserError

ENGLISH = ("en", "en-en", "eng", "eng-eng", "english")  # of several English subsets MTEB takes the plain one


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

        Where it fails it renames the hub's columns; a folder has the final names already. Of mteb's second clustering
        protocol some classes take the hub's rows, a list of texts each, and fail with a TypeError on a text a row.
        """
        before = self.dataset
        try:
            self.dataset_transform()
        except (ValueError, KeyError):
            self.dataset = before
        except TypeError:
            if not isinstance(self, AbsTaskClustering):
                raise
            self.transform_sets(before)

    def transform_sets(self, rows: DatasetDict | dict) -> None:
        """The class's own choice of `rows`, a text each, from lists of texts.

        Where it fails it draws more than there are (ArXivHierarchical 2,048), from rows that it has made by then.
        """
        split = eval_split(self)
        sets = DatasetDict({split: renamed(cluster_sets(self.folder, split), cluster_columns(self))})
        self.dataset = sets = {self.hf_subsets[0]: sets} if self.metadata.is_multilingual else sets
        try:
            self.dataset_transform()
        except (ValueError, KeyError):
            self.dataset = rows if self.dataset is sets else self.dataset


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
    """The subset of a multilingual task that MTEB's English benchmark scores; the first where none is English."""
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
    without a positive or without a negative are skipped, and the others numbered consecutively, as mteb does.
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
    """The labels in one type, as in a column: beside numbers true and false are 1 and 0, beside texts all are texts."""
    kinds = set(map(type, labels))
    if kinds == {bool, int}:
        return list(map(int, labels))
    return list(map(str, labels)) if len(kinds) > 1 else labels


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


def cluster_sets(folder: Folder, split: str) -> list[dict]:
    """One clustering a row: its sentences, and their labels as texts."""
    path = folder.require(split)
    if "sentences" in folder.first_row(path):
        sets = folder.rows(path, FIELDS["ClusteringSets"])
    else:
        rows = folder.rows(path, FIELDS["Clustering"])
        sets = [{"sentences": [row["text"] for row in rows], "labels": [row["label"] for row in rows]}]
    if any(len(row["sentences"]) != len(row["labels"]) for row in sets):
        raise UserError(f"{path}: a row has not as many labels as sentences")
    labels = list(map(str, of_one_type(list(itertools.chain.from_iterable(row["labels"] for row in sets)))))
    require_several(labels, path, "the labels", "any clustering agrees with a single group")
    each = iter(labels)
    return [row | {"labels": list(itertools.islice(each, len(row["labels"])))} for row in sets]


def cluster_columns(task: AbsTask) -> dict[str, str]:
    """The column names of a clustering's class."""
    return {"sentences": task.input_column_name, "labels": task.label_column_name}


def read_clusters(folder: Folder, split: str, task: AbsTask) -> dict[str, Dataset]:
    """One clustering a row for mteb's first protocol, one text a row for its second; either file serves both."""
    sets = cluster_sets(folder, split)
    labels = {label for row in sets for label in row["labels"]}
    numbers = {label: number for number, label in enumerate(sorted(labels))}  # mteb compares them with its groups'
    sets = [row | {"labels": [numbers[label] for label in row["labels"]]} for row in sets]
    if isinstance(task, AbsTaskClustering):
        pairs = [pair for row in sets for pair in zip(row["sentences"], row["labels"], strict=True)]
        sets = [{"sentences": text, "labels": label} for text, label in pairs]
    return {split: renamed(sets, cluster_columns(task))}


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
