"""Two CSV files of 10,000 real pairs each, two held-out retrieval tasks: data.py FOLDER_OF_PAIRS OUT [TRAIN HELD_OUT]

python experiments/own_pairs/data.py ../shared/data/pairs runs/own_pairs
"""

import csv
import gzip
import json
import sys
from pathlib import Path

KINDS = {"arxiv_title_abstract": ("title", "abstract"), "python_docstring_code": ("docstring", "code")}


def main(pairs: str, out: str, train: int = 10_000, held_out: int = 1_000) -> None:
    for kind, columns in KINDS.items():
        with gzip.open(Path(pairs) / f"{kind}.jsonl.gz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
        rows = list({row["query"]: (row["query"], row["pos"]) for row in rows}.values())[: train + held_out]
        known = {document for _, document in rows[:train]}
        asked = [row for row in rows[train:] if row[1] not in known]
        write_pairs(Path(out) / "pairs" / f"{kind}.csv", columns, rows[:train])
        write_task(Path(out) / "tasks" / kind.title().replace("_", ""), asked, [row[1] for row in rows[:train]])
        print(f"{kind}: {train:,} pairs, {len(asked):,} held-out queries, a corpus of {len(rows):,}")


def write_pairs(file: Path, columns: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("id", *columns), *((n, *row) for n, row in enumerate(rows))])


def write_task(folder: Path, asked: list[tuple[str, str]], others: list[str]) -> None:
    """A folder as `suite=local` reads it; the training documents are in its corpus as well, which makes it harder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = dict.fromkeys([document for _, document in asked] + others)
    number = {document: n for n, document in enumerate(documents)}
    lines = {
        "corpus": [{"_id": f"d{n}", "title": "", "text": document} for document, n in number.items()],
        "queries": [{"_id": f"q{n}", "text": query} for n, (query, _) in enumerate(asked)],
    }
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [f"q{n}\td{number[document]}\t1\n" for n, (_, document) in enumerate(asked)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
