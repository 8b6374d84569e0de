"""Evaluation tasks: mteb's own classes, over the hub or over a local folder in place of it.

A folder only replaces where the data come from (`load_data`); protocol and metrics are those of mteb's class. A name
that mteb does not know becomes a task of the kind that its files show.
"""

import difflib
import warnings
from dataclasses import dataclass
from pathlib import Path

import mteb
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
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.task_metadata import TaskMetadata

from gte.errors import UserError
from gte.evaluation import codesearchnet, sst2
from gte.evaluation.folder import FIELDS, Folder

MAIN_SCORE = {
    "Retrieval": "ndcg_at_10",
    "Reranking": "map_at_1000",
    "STS": "cosine_spearman",
    "PairClassification": "max_ap",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "Summarization": "cosine_spearman",
}
SPLITS = {"MSMARCO": "dev"}  # of MTEB's 56 the one that is not scored on "test"
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
    def data(self) -> str:
        """Checksum of the local files or the hub's revision; call it after `load`."""
        return " ".join(
            part.folder.checksum if hasattr(part, "folder") else f"hub:{part.metadata.dataset['revision']}"
            for part in self.parts
        )

    def load(self) -> None:
        """Reads the data. UserError where files are wrong or the hub does not answer."""
        for part in self.parts:
            try:
                part.load_data()
            except UserError:
                raise
            except (OSError, ValueError, RuntimeError) as error:
                if hasattr(part, "folder"):
                    raise
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                name = part.metadata.name
                raise UserError(
                    f"the hub did not give {name} ({reason}); pass data_dir=DIR, the data in DIR/{name}"
                ) from error

    def run(self, model) -> dict[str, float]:
        """All scalar scores, in points of 100, averaged over the parts."""
        runs = [self.run_part(part, model) for part in self.parts]
        return {key: sum(run[key] for run in runs) / len(runs) for key in runs[0] if all(key in run for run in runs)}

    @staticmethod
    def run_part(part: AbsTask, model) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sklearn's and scipy's remarks on constant input; NaN is dealt with below
            by_subset = part.evaluate(model, eval_split(part), encode_kwargs={"show_progress_bar": False})
        scores = next(iter(by_subset.values()))
        return {
            key: 100 * float(value)
            for key, value in scores.items()
            if isinstance(value, int | float) and value == value and not key.startswith("nauc") and key != "main_score"
        }


class LocalData:
    """Mixed into a task class of mteb: its data come from `folder`."""

    folder: Folder

    def load_data(self, num_proc: int | None = None, **_) -> None:
        if self.data_loaded:
            return
        split = eval_split(self)
        if isinstance(self, AbsTaskRetrieval):
            read = read_reranking if self.metadata.type == "Reranking" else read_retrieval
            self.dataset = {self.hf_subsets[0]: {split: read(self.folder, split)}}
        else:
            read = next(read for base, read in READERS.items() if isinstance(self, base))
            data = DatasetDict(read(self.folder, split, self))
            self.dataset = {self.hf_subsets[0]: data} if self.metadata.is_multilingual else data
            self.transform()
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


def eval_split(task: AbsTask) -> str:
    """The split that MTEB scores."""
    splits = task.metadata.eval_splits
    return SPLITS.get(task.metadata.name, "test" if "test" in splits else splits[0])


def english_subset(task: AbsTask) -> str:
    """Of a multilingual task the subset that MTEB's English benchmark scores; the first where none is English."""
    languages = task.metadata.eval_langs
    if not isinstance(languages, dict):
        return "default"
    english = [name for name, codes in languages.items() if all(code.startswith("eng") for code in codes)]
    return next((name for name in ENGLISH if name in english), (english or list(languages))[0])


def read_retrieval(folder: Folder, split: str) -> dict:
    """Corpus, queries and relevance as mteb's RetrievalSplitData."""
    relevant = folder.qrels(folder.require(f"qrels/{split}", ".tsv", ".tsv.gz"))
    queries = folder.rows(folder.require("queries"), FIELDS["Queries"])
    corpus = folder.rows(folder.require("corpus"), FIELDS["Corpus"])
    queries = [row for row in queries if row["_id"] in relevant]
    documents = {row["_id"] for row in corpus}
    if not queries:
        raise UserError(f"{folder.path}: no query of qrels/{split} is in queries.jsonl; they do not belong together")
    if not any(document in documents for row in queries for document in relevant[row["_id"]]):
        raise UserError(f"{folder.path}: no document of qrels/{split} is in corpus.jsonl; they do not belong together")
    asked = {row["_id"] for row in queries}
    return {
        "corpus": Dataset.from_list([{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in corpus]),
        "queries": Dataset.from_list([{"id": row["_id"], "text": row["text"]} for row in queries]),
        "relevant_docs": {query: documents for query, documents in relevant.items() if query in asked},
        "top_ranked": None,
    }


def read_reranking(folder: Folder, split: str) -> dict:
    """Each query's own candidates, positives first, under the ids that mteb gives them: they decide between ties."""
    corpus, queries, relevant, candidates = [], [], {}, {}
    for number, row in enumerate(folder.rows(folder.require(split), FIELDS["Reranking"])):
        query = f"{split}_query{number}"
        texts = {f"apositive_{query}_{i:05}": (text, 1) for i, text in enumerate(row["positive"])}
        texts |= {f"negative_{query}_{i:05}": (text, 0) for i, text in enumerate(row["negative"])}
        queries.append({"id": query, "text": row["query"]})
        corpus += [{"id": key, "title": "", "text": text} for key, (text, _) in texts.items()]
        relevant[query] = {key: relevance for key, (_, relevance) in texts.items()}
        candidates[query] = list(texts)
    return {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": candidates,
    }


def renamed(rows: list[dict], names: dict[str, str]) -> Dataset:
    """The rows under the column names that the task's class reads."""
    return Dataset.from_list([{names.get(key, key): value for key, value in row.items()} for row in rows])


def read_sts(folder: Folder, split: str, task: AbsTaskSTS) -> dict[str, Dataset]:
    rows = folder.rows(folder.require(split), FIELDS["STS"])
    names = dict(zip(("sentence1", "sentence2"), task.column_names, strict=True))
    return {split: renamed([row | {"score": float(row["score"])} for row in rows], names)}


def read_pairs(folder: Folder, split: str, task: AbsTaskPairClassification) -> dict[str, Dataset]:
    columns = (task.input1_column_name, task.input2_column_name, task.label_column_name)
    names = dict(zip(FIELDS["PairClassification"], columns, strict=True))
    return {split: renamed(folder.rows(folder.require(split), FIELDS["PairClassification"]), names)}


def read_classes(folder: Folder, split: str, task: AbsTaskClassification) -> dict[str, Dataset]:
    names = {"text": task.input_column_name, "label": task.label_column_name}
    files = {name: folder.require(name) for name in dict.fromkeys((task.train_split, split))}
    return {name: renamed(folder.rows(path, FIELDS["Classification"]), names) for name, path in files.items()}


def read_clusters(folder: Folder, split: str, task: AbsTask) -> dict[str, Dataset]:
    """One clustering a row for mteb's first protocol, one text a row for its second; either file serves both."""
    path = folder.require(split)
    if "sentences" in folder.keys(path):
        sets = folder.rows(path, FIELDS["ClusteringSets"])
    else:
        rows = folder.rows(path, FIELDS["Clustering"])
        sets = [{"sentences": [row["text"] for row in rows], "labels": [row["label"] for row in rows]}]
    if any(len(row["sentences"]) != len(row["labels"]) for row in sets):
        raise UserError(f"{path}: a row has not as many labels as sentences")
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
    return {split: renamed([row | {"relevance": [float(x) for x in row["relevance"]]} for row in rows], names)}


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
OWN = {**sst2.TASKS, **codesearchnet.TASKS}  # the paper's own protocols: name -> (folder, class)


def known(name: str) -> AbsTask | None:
    """mteb's task of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return mteb.get_task(name)
        except KeyError:
            return None


def metadata(name: str, kind: str, main_score: str, source: str) -> TaskMetadata:
    """What mteb wants to know of a task that it has no entry for."""
    return TaskMetadata(
        name=name,
        description=f"{kind} over {source}",
        dataset={"path": source, "revision": "local"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
    )


def local_part(name: str, folder: Folder) -> AbsTask:
    """The task `name` over `folder`: of mteb's class where it knows the name, else of the kind that the files show."""
    task = known(name)
    if task is not None and not isinstance(task, (*BASES.values(), AbsTaskClustering)):
        raise UserError(f"{name} is a {task.metadata.type} task, which is not read from a folder; leave data_dir= away")
    attributes = {"folder": folder}
    if task is None:
        kind = folder.kind()
        attributes["metadata"] = metadata(name, kind, MAIN_SCORE[kind], str(folder.path))
        if kind == "Summarization":
            attributes |= {"min_score": 0, "max_score": 5}
    base = type(task) if task is not None else BASES[kind]
    part = type(base.__name__, (LocalData, base), attributes)()
    part.hf_subsets = [english_subset(part)]
    return part


def make_task(name: str, folder: Path | None) -> Task:
    """The task of that name, over a folder or (None) over the hub. UserError where there is no such task."""
    if name in OWN:
        if folder is None:
            raise UserError(f"{name} is read from a folder only; pass data_dir= with a folder {OWN[name][0]}")
        return Task(name, [OWN[name][1](Folder(folder))])
    task = known(name)
    if isinstance(task, AbsTaskAggregate):
        names = [part.metadata.name for part in task.metadata.tasks]
        folders = [None] * len(names) if folder is None else [part_folder(folder, part) for part in names]
        return Task(name, [part for pair in zip(names, folders, strict=True) for part in make_task(*pair).parts])
    if folder is not None:
        return Task(name, [local_part(name, Folder(folder))])
    if task is None:
        raise UserError(f"unknown task {name}{did_you_mean(name)}; name one of mteb's, or a folder under data_dir")
    task.hf_subsets = [english_subset(task)]
    return Task(name, [task.filter_eval_splits([eval_split(task)])])


def part_folder(folder: Path, part: str) -> Path:
    """CQADupstackRetrieval/CQADupstackAndroidRetrieval, or CQADupstackRetrieval/android as BEIR names it."""
    short = part.removeprefix("CQADupstack").removesuffix("Retrieval").lower()
    for path in (folder / part, folder / short):
        if path.is_dir():
            return path
    raise UserError(f"{folder} lacks the part {part}; the score is the mean over all parts")


def did_you_mean(name: str) -> str:
    """A near name, as the tail of an error."""
    names = [task.metadata.name for task in mteb.get_benchmark("MTEB(eng, v1)").tasks] + list(OWN)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
