"""Held-out evaluation tasks, made from held-out pairs: retrieval, clustering and STS in the usual folder shapes."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import chain

import numpy as np

from gte.data.cleaning import normalize
from gte.demo import docstring

RETRIEVAL = {
    "DemoDocstringToCode": ("docstring_code",),
    "DemoHeadingToSection": ("heading_section", "title_body"),
    "DemoNameToSummary": ("name_summary",),
}
MAX_DOCUMENTS = 2_000  # documents of a retrieval task
PROSE = ("title_body", "heading_section", "name_summary", "parameter_description")  # clustered by topic
CLUSTER = 150  # texts of a label in a clustering task
RELATED = 250  # pairs of each of the three scores
WORDS = 8  # held-out texts of this many words must not occur within a training text
CHARACTERS = 20  # shorter texts ("Return the name.") may occur on both sides


def draw(texts: list, salt: str, key: Callable = lambda text: text) -> list:
    """The list in an order drawn by hash: any beginning of it is a random sample, the same on every machine."""
    return sorted(texts, key=lambda t: hashlib.blake2b(f"{salt}\n{key(t)}".encode("utf-8", "replace")).digest())


def build_tasks(rows: list, queries: int) -> dict[str, dict[str, list]]:
    """task -> file name -> rows, of each task that the held-out rows suffice for, retrieval with up to `queries`."""
    tasks = {}
    for task, kinds in RETRIEVAL.items():
        chosen = [row for row in rows if row.kind in kinds]
        if chosen:
            tasks[task] = retrieval_task(chosen, kinds, queries)
    # a hyperlink's documents are those of title_body
    kinds = [(row.kind, row.document) for row in rows if row.kind != "hyperlink"]
    topics = [(topic(row.places[0]), row.document) for row in rows if row.kind in PROSE and row.places]
    for task, labelled in (("DemoSourceKind", kinds), ("DemoTopic", topics)):
        texts = clustering_task(labelled)
        if len({row["label"] for row in texts}) > 1:
            tasks[task] = {"test.jsonl.gz": texts}
    if related := relatedness_task([row for row in rows if row.kind == "title_body"]):
        tasks["DemoRelatedness"] = {"test.jsonl.gz": related}
    return tasks


def topic(place: str) -> str:
    """Topic of a module: its package; of SciPy, whose subpackages are fields of their own, the subpackage."""
    parts = place.split(".")
    return ".".join(parts[:2]) if parts[0] == "scipy" else parts[0]


def clustering_task(labelled: list[tuple[str, str]]) -> list[dict]:
    """Up to CLUSTER different texts of each label that has at least a third as many."""
    clusters = defaultdict(dict)
    for label, text in labelled:
        clusters[label].setdefault(normalize(text), text)
    return [
        {"text": text, "label": label}
        for label in sorted(clusters)
        if len(clusters[label]) >= CLUSTER // 3
        for text in draw(list(clusters[label].values()), label)[:CLUSTER]
    ]


def retrieval_task(rows: list, kinds: tuple[str, ...], queries: int) -> dict[str, list]:
    """Corpus, queries and judgements. Documents with the same normalised text are one document, and every document
    that a query was paired with is relevant to it. The kinds have equal parts of the queries, if they have enough."""
    asked, texts, relevant = {}, {}, defaultdict(dict)
    for row in rows:
        query, document = normalize(row.query), normalize(row.document)
        asked.setdefault(query, row)
        texts.setdefault(document, row.document)
        relevant[query][document] = 1
    drawn, taken = draw(list(asked), "queries"), []
    for i, kind in enumerate(kinds):
        part = -(-(queries - len(taken)) // (len(kinds) - i))
        taken += [query for query in drawn if asked[query].kind == kind][:part]
    corpus = dict.fromkeys(document for query in taken for document in relevant[query])
    corpus |= dict.fromkeys(draw(list(texts), "documents")[: max(0, MAX_DOCUMENTS - len(corpus))])
    names = {document: f"d{i}" for i, document in enumerate(draw(list(corpus), "order"))}
    judged = [(f"q{i}", names[document], 1) for i, query in enumerate(taken) for document in relevant[query]]
    return {
        "corpus.jsonl.gz": [{"_id": name, "title": "", "text": texts[document]} for document, name in names.items()],
        "queries.jsonl.gz": [{"_id": f"q{i}", "text": asked[query].query} for i, query in enumerate(taken)],
        "qrels/test.tsv": [("query-id", "corpus-id", "score"), *judged],
    }


def relatedness_task(rows: list) -> list[dict]:
    """Sentence pairs: a summary, and the first sentence of the description of the same item (score 2), of another item
    of the same module (1) or of another package (0). All three draw from the same sentences, and pairs that share
    more than a third of their words are skipped, so that word identity does not give the score away."""
    sentences = []
    for row in draw(rows, "sentences", key=lambda row: row.query):
        sentence = docstring.first_sentence(row.document)[0]
        if 30 <= len(sentence) <= 250 and len(row.query) >= 20:
            sentences.append((row.query, sentence, row.places[0], row.places[0].split(".")[0]))
    modules, related = defaultdict(list), []
    for item in sentences:
        modules[item[2]].append(item)
    for i, (summary, sentence, module, package) in enumerate(sentences):
        if i % 3 == 0:
            others, score = [sentence], 2
        elif i % 3 == 1:
            others, score = [s for q, s, _, _ in modules[module] if q != summary], 1
        else:
            others, score = [s for _, s, _, p in sentences[i + 1 :] + sentences[:i] if p != package], 0
        other = next((s for s in others if not _overlap(summary, s)), None)
        if other and sum(row["score"] == score for row in related) < RELATED:
            related.append({"sentence1": summary, "sentence2": other, "score": score})
    return related


def _overlap(a: str, b: str) -> bool:
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(a & b) > len(a | b) / 3


def texts_of(tasks: dict[str, dict[str, list]]) -> list[str]:
    """Every text in the tasks' files."""
    found: dict[str, None] = {}
    for files in tasks.values():
        for row in chain.from_iterable(files.values()):
            if isinstance(row, dict):
                found |= dict.fromkeys(row[name] for name in ("text", "sentence1", "sentence2") if name in row)
    return list(found)


def contains_any(texts: list[str], held_out: list[str], chunk: int = 20_000) -> np.ndarray:
    """bool [len(texts)]: whether the normalised text equals a held-out text of CHARACTERS or more, or holds one of
    WORDS words or more at a word boundary. Windows of WORDS words are compared by hash, then by text."""
    normal = [normalize(text) for text in held_out]
    whole = {text for text in normal if len(text) >= CHARACTERS}
    anchors: dict[int, list[str]] = defaultdict(list)
    for text in normal:
        words = text.split()
        if len(words) >= WORDS:
            anchors[int(_windows(_hashes(words))[0])].append(text)
    wanted = np.array(sorted(anchors), dtype=np.int64)
    found = np.zeros(len(texts), dtype=bool)
    for start in range(0, len(texts), chunk):
        words = [text.lower().split() for text in texts[start : start + chunk]]
        part = [" ".join(w) for w in words]
        ends = np.cumsum([len(w) for w in words])
        windows = _windows(_hashes([word for w in words for word in w]))
        found[start : start + len(part)] = [text in whole for text in part]
        for at in np.flatnonzero(np.isin(windows, wanted)):
            i = int(np.searchsorted(ends, at, side="right"))
            padded = f" {part[i]} "
            found[start + i] |= any(f" {text} " in padded for text in anchors[int(windows[at])])
    return found


def _hashes(words: list[str]) -> np.ndarray:
    return np.fromiter(map(hash, words), dtype=np.int64, count=len(words))


def _windows(hashes: np.ndarray) -> np.ndarray:
    """One hash for each run of WORDS words; modulo 2^64. Python's seed decides the values, never the outcome."""
    total = np.zeros(max(0, len(hashes) - WORDS + 1), dtype=np.int64)
    for i in range(WORDS):
        total = total * np.int64(1_000_003) + hashes[i : i + len(total)]
    return total
