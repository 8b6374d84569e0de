"""Evaluation data in a local folder, read strictly: what is wrong is named with its file and line.

One task is one folder. Files may be plain (`test.jsonl`) or gz-compressed (`test.jsonl.gz`); `test` stands for the
split that is scored, and dev, valid and validation are one split:

    Retrieval           corpus.jsonl {_id, title?, text}, queries.jsonl {_id, text},
                        qrels/test.tsv: query-id, corpus-id, score between tabs, with this header; or qrels/test.jsonl;
                        scores are whole numbers, an id comes once
    STS                 test.jsonl {sentence1, sentence2, score}
    PairClassification  test.jsonl {sentence1, sentence2, label}, label 0 or 1, no or yes, false or true; or one row of
                        three lists
    Classification      train.jsonl, test.jsonl {text, label}
    Clustering          test.jsonl {text, label}, or one clustering a row {sentences: [...], labels: [...]}
    Reranking           test.jsonl {query, positive: [...], negative: [...]}, a query may be a list of texts; or as
                        Retrieval with top_ranked.jsonl {query-id, corpus-ids: [...]}
    Summarization       test.jsonl {text, human_summaries: [...], machine_summaries: [...], relevance: [...]}

A task of several languages may have a folder for each (`en/test.jsonl`), CQADupstackRetrieval one for each forum.
"""

import csv
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from gte.data.cleaning import encodable
from gte.errors import UserError
from gte.files import is_hidden, json_object

SHAPES = "src/gte/data/task_folder.py shows what a task's folder holds"
FIELDS = {  # of a row of test.jsonl: name -> kind of value
    "STS": {"sentence1": "text", "sentence2": "text", "score": "number"},
    "PairClassification": {"sentence1": "text", "sentence2": "text", "label": "label"},
    "PairLists": {"sentence1": "texts", "sentence2": "texts", "label": "labels"},
    "Classification": {"text": "text", "label": "label"},
    "Clustering": {"text": "text", "label": "label"},
    "ClusteringSets": {"sentences": "texts", "labels": "labels"},
    "Reranking": {"query": "text or texts", "positive": "texts or none", "negative": "texts or none"},
    "Summarization": {"text": "text", "human_summaries": "texts", "machine_summaries": "texts", "relevance": "numbers"},
    "Queries": {"_id": "id", "text": "text"},
    "Corpus": {"_id": "id", "title": "optional text", "text": "text"},
    "Qrels": {"query-id": "id", "corpus-id": "id", "score": "grade"},
    "Candidates": {"query-id": "id", "corpus-ids": "ids"},
}
JSONL = (".jsonl", ".jsonl.gz")
SAME_SPLIT = ("dev", "valid", "validation")
OTHER_NAMES = {"label": "labels", "sentence1": "sent1", "sentence2": "sent2", "_id": "id"}


def is_text(value: object) -> bool:
    return isinstance(value, str) and encodable(value)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_id(value: object) -> bool:
    return isinstance(value, int) or is_text(value)


def is_label(value: object) -> bool:
    return is_id(value) and (isinstance(value, str) or abs(value) < 2**63)


def is_grade(value: object) -> bool:
    return is_number(value) and float(value).is_integer() and abs(value) < 2**31  # an int of trec_eval


def list_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(check, value))


CHECKS = {  # kind of value -> (test, how an error names it)
    "text": (is_text, "a text"),
    "optional text": (lambda value: value is None or is_text(value), "a text"),
    "number": (is_number, "a number"),
    "grade": (is_grade, "a whole number, since nDCG is computed over grades; multiply all scores alike, or round them"),
    "label": (is_label, "an integer or a text"),
    "id": (is_id, "an integer or a text"),
    "texts": (list_of(is_text), "a list of texts, not empty"),
    "texts or none": (lambda value: value == [] or list_of(is_text)(value), "a list of texts"),
    "optional texts": (lambda value: value is None or value == [] or list_of(is_text)(value), "a list of texts"),
    "text or texts": (lambda value: is_text(value) or list_of(is_text)(value), "a text or a list of texts"),
    "ids": (list_of(is_id), "a list of ids, not empty"),
    "labels": (list_of(is_label), "a list of labels, not empty"),
    "numbers": (list_of(is_number), "a list of numbers, not empty"),
}


class Folder:
    """One task's folder; `checksum` covers the uncompressed bytes of all files read so far, in this order."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.sha = hashlib.sha256()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checksum(self) -> str:
        return f"sha256:{self.sha.hexdigest()}"

    def check(self) -> None:
        """UserError where a retrieval folder is incomplete; looks at file names only, before anything is loaded."""
        if self.is_retrieval():
            self.require("corpus")
            self.require("queries")
            if not any((self.path / "qrels").glob("*.*")):
                raise UserError(f"{self.path} lacks qrels/test.tsv, without which nothing can be scored; {SHAPES}")
        elif not any(self.path.glob("*.jsonl*")):
            parts = [path for path in self.path.iterdir() if path.is_dir() and not is_hidden(Path(path.name))]
            for part in parts:
                Folder(part).check()
            if parts:
                return
            raise UserError(f"{self.path} holds no .jsonl or .jsonl.gz file; {SHAPES}")

    def is_retrieval(self) -> bool:
        return bool(self.find("corpus") or self.find("queries") or (self.path / "qrels").is_dir())

    def find(self, stem: str, *suffixes: str) -> Path | None:
        """The file of that name without suffix, plain before compressed, or None."""
        *parents, name = stem.split("/")
        for other in SAME_SPLIT if name in SAME_SPLIT else (name,):
            for suffix in suffixes or JSONL:
                path = self.path.joinpath(*parents, f"{other}{suffix}")
                if path.is_file():
                    return path
        return None

    def require(self, stem: str, *suffixes: str) -> Path:
        """`find`, or a UserError that names what is missing and what is there."""
        found = self.find(stem, *suffixes)
        if found is None:
            wanted = " or ".join(f"{stem}{suffix}" for suffix in suffixes or JSONL)
            there = sorted(path.name for path in (self.path / stem).parent.glob("*.*"))
            others = f" (there are {', '.join(there[:5])}; another split is scored with split=)" if there else ""
            raise UserError(f"{self.path} lacks {wanted}{others}; {SHAPES}")
        return found

    def qrels_file(self, split: str) -> Path:
        return self.require(f"qrels/{split}", ".tsv", ".tsv.gz", *JSONL)

    def split_file(self, split: str) -> Path:
        """The file without which the split cannot be scored."""
        return self.qrels_file(split) if self.is_retrieval() else self.require(split)

    def first_split(self) -> str:
        """The split to score that is there: test, else dev."""
        for split in ("test", "dev"):
            if self.find(split) or self.find(f"qrels/{split}", ".tsv", ".tsv.gz", *JSONL):
                return split
        return "test"

    def part(self, name: str) -> "Folder":
        """The folder of that name in this one, or this one where it has none."""
        return Folder(self.path / name) if (self.path / name).is_dir() else self

    def rows(self, path: Path, fields: dict[str, str]) -> list[dict]:
        """The file's objects reduced to `fields` (name -> kind). UserError with file and line for anything else."""
        return list(self.each(path, fields))

    def each(self, path: Path, fields: dict[str, str]) -> Iterator[dict]:
        """`rows` one after the other."""
        return (row for _, row in self.numbered(path, fields))

    def by_id(self, path: Path, fields: dict[str, str], key: str) -> dict[str, dict]:
        """`rows` by their id, the field `key`. UserError with file and line where one comes twice."""
        found: dict[str, dict] = {}
        for number, row in self.numbered(path, fields):
            if row[key] in found:
                raise UserError(f"{path}:{number}: {key} {row[key]} is that of a row above; make the ids unique")
            found[row[key]] = row
        return found

    def numbered(self, path: Path, fields: dict[str, str]) -> Iterator[tuple[int, dict]]:
        """`each` with the line's number."""
        empty = True
        for number, line in self.lines(path):
            if not line.strip():
                continue
            try:
                row = json_object(line)
            except ValueError as error:
                got = f"expected an object with {', '.join(fields)}, got {line[:40]!r}"
                told = got if error.__cause__ is None else error
                raise UserError(f"{path}:{number}: {told}; fix or remove the line") from error
            empty = False
            yield number, {name: field(row, name, kind, path, number) for name, kind in fields.items()}
        if empty:
            raise UserError(f"{path} has no rows; write it again or leave the task out")

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Relevance by query id and document id. UserError for a grade that is no whole number and a pair twice."""
        path = self.qrels_file(split)
        relevance: dict[str, dict[str, int]] = {}
        for number, query, document, score in self.qrels_rows(path):
            if document in relevance.setdefault(query, {}):
                raise UserError(
                    f"{path}:{number}: query {query} and document {document} have a score above already; keep one"
                )
            relevance[query][document] = score
        if not relevance:
            raise UserError(f"{path} has no rows; a retrieval task needs at least one relevant document")
        return relevance

    def qrels_rows(self, path: Path) -> Iterator[tuple[int, str, str, int]]:
        """Line, query id, document id and grade of each row of a .tsv or .jsonl."""
        if path.name.endswith(JSONL):
            for number, row in self.numbered(path, FIELDS["Qrels"]):
                yield number, row["query-id"], row["corpus-id"], int(row["score"])
            return
        for number, line in self.lines(path):
            cells = next(csv.reader([line.rstrip("\r\n")], delimiter="\t", quoting=csv.QUOTE_NONE), [])
            if not cells or (number == 1 and cells[0] in {"query-id", "query_id", "qid"}):
                continue
            try:
                query, document, score = cells[0], cells[1], float(cells[2])
            except (ValueError, IndexError):
                score = None
            if score is None or len(cells) != 3:
                wanted = "query-id, corpus-id and a number between tabs"
                raise UserError(f"{path}:{number}: expected {wanted}, got {line.strip()[:60]!r}")
            if not is_grade(score):
                raise UserError(f"{path}:{number}: score {cells[2]} must be {CHECKS['grade'][1]}")
            yield number, query, document, int(score)

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Numbered lines of a plain or gz-compressed UTF-8 file; what was read goes into the checksum."""
        number = 0
        try:
            with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    self.sha.update(line)
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file") from error
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read after line {number} ({error}); copy the file again") from error

    def first_row(self, path: Path) -> dict:
        """The file's first row; empty where it is no JSON object. Leaves the checksum alone."""
        first = next((line for _, line in Folder(self.path).lines(path)), "")
        try:
            return json_object(first)
        except ValueError:
            return {}

    def kind(self, split: str) -> str:
        """The folder's shape of those above, by its files and its first row; UserError where it has none."""
        if self.is_retrieval():
            return "Reranking" if self.find("top_ranked") else "Retrieval"
        keys = set(self.first_row(self.require(split)))
        if {"sentences", "labels"} <= keys:
            return "Clustering"
        keys |= {name for name, other in OTHER_NAMES.items() if other in keys}
        if {"text", "label"} <= keys:
            return "Classification" if self.find("train") else "Clustering"
        for kind in ("STS", "PairClassification", "Reranking", "Summarization"):
            if set(FIELDS[kind]) <= keys:
                return kind
        names = ", ".join(sorted(keys)) or "none"
        raise UserError(f"{self.path}: the fields of its first row ({names}) fit no kind of task; {SHAPES}")


def field(row: dict, name: str, kind: str, path: Path, number: int) -> object:
    """The row's value of that name, or of its other usual name, checked."""
    key = name if name in row else OTHER_NAMES.get(name, name)
    if key not in row and not kind.startswith("optional"):
        raise UserError(f"{path}:{number}: field '{name}' is missing; the row has {', '.join(map(str, row)) or 'none'}")
    value = row.get(key)
    test, wanted = CHECKS[kind]
    if not test(value):
        raise UserError(f"{path}:{number}: field '{key}' must be {wanted}, got {json.dumps(value)[:40]}")
    if kind == "id":
        return str(value)
    if kind == "ids":
        return list(map(str, value))
    if kind.startswith("optional") and value is None:
        return "" if kind == "optional text" else []
    return value


def find_tasks(folder: str | Path | list[str]) -> dict[str, Path]:
    """Task folders directly under `folder`, or under each of several, by name.

    Raises UserError where one does not exist or holds none.
    """
    if isinstance(folder, list):
        return {name: path for one in folder for name, path in find_tasks(one).items()}
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"evaluation folder {folder} does not exist; prepare it first or pass data_dir=")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(Path(path.name))}
    if not found:
        raise UserError(f"evaluation folder {folder} holds no task folders; prepare it again")
    return found
