"""Two CSV files of 10,000 real pairs each, two held-out retrieval tasks: data.py FOLDER_OF_PAIRS OUT [TRAIN HELD_OUT]

python experiments/own_pairs/data.py ../shared/data/pairs runs/own_pairs
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from held_out import read, write_task

KINDS = {"arxiv_title_abstract": ("title", "abstract"), "python_docstring_code": ("docstring", "code")}


def main(pairs: str, out: str, train: int = 10_000, held_out: int = 1_000) -> None:
    for kind, columns in KINDS.items():
        rows = read(Path(pairs) / f"{kind}.jsonl.gz")
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


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
