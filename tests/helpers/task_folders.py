"""Folders of evaluation tasks as users write them."""

import gzip
import json
from pathlib import Path

import numpy as np


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as stream:
            stream.write(text)
    else:
        path.write_text(text)


def write_retrieval(folder: Path, documents: int = 150, suffix: str = ".jsonl", split: str = "test") -> dict:
    """Three queries with graded relevance; returns query -> {document: relevance}."""
    relevant = {"q0": {"d3": 1, "d149": 2}, "q1": {"d7": 1}, "q2": {f"d{i}": 1 for i in range(20, 32)}}
    relevant = {q: {d: r for d, r in found.items() if int(d[1:]) < documents} for q, found in relevant.items()}
    write_rows(folder / f"corpus{suffix}", [{"_id": f"d{i}", "text": f"document {i}"} for i in range(documents)])
    write_rows(folder / f"queries{suffix}", [{"_id": q, "text": f"query {q}"} for q in [*relevant, "unasked"]])
    lines = [f"{q}\t{d}\t{r}\n" for q, found in relevant.items() for d, r in found.items()]
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return relevant


def write_sts(folder: Path, rows: int = 40) -> np.ndarray:
    """Pairs with gold scores; returns the scores."""
    gold = np.random.default_rng(0).permutation(rows) / 7
    pairs = [{"sentence1": f"left {i}", "sentence2": f"right {i}", "score": float(s)} for i, s in enumerate(gold)]
    write_rows(folder / "test.jsonl", pairs)
    return gold
