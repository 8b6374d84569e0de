"""Held-out retrieval tasks from files of pairs, in one folder with real tests: held_out.py DATA OUT

python experiments/held_out.py ../shared/data data/held_out
DATA holds pairs/*.jsonl.gz of {"query", "pos"} and eval/, as shared/data does. Of each kind in KINDS, 600 pairs become
the task Held<Kind>: each query's document among the 600. CodeSearchNet's Ruby test set is there as retrieval too. Pairs
that hold a text of these tasks are left out of training by
python src/prepare.py data=... data.decontaminate.folder=data/held_out
"""

import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

KINDS = {
    "Arxiv": "arxiv_title_abstract",
    "Medquad": "medquad_question_answer",
    "Java": "java_javadoc_code",
    "Python": "python_docstring_code",
    "StackExchange": "stackexchange_small_sites",
}
SIZE = 600  # pairs of a kind
LEAST_WORDS = 4  # of a query: shorter ones fit many documents
TESTS = ("STS12", "STS13", "STS15", "STS17", "STSBenchmark", "SciFact")


def main(data: str, out: str) -> None:
    for kind, file in KINDS.items():
        pairs = [(row["query"], row["pos"]) for row in read(Path(data) / "pairs" / f"{file}.jsonl.gz")]
        print(f"Held{kind}: {write_task(Path(out) / f'Held{kind}', list(held_out(pairs)))} documents")
    ruby = read(Path(data) / "eval" / "CodeSearchNet" / "ruby_test.jsonl.gz")
    write_task(Path(out) / "Ruby", [(row["docstring"], row["code"]) for row in ruby])
    for test in TESTS:
        shutil.copytree(Path(data) / "eval" / test, Path(out) / test, dirs_exist_ok=True)


def read(file: Path) -> Iterator[dict]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def held_out(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """SIZE pairs, the same wherever this runs: of unique query and document, in the order of their hashes."""
    queries, documents = set(), set()
    for query, document in sorted(pairs, key=lambda pair: md5("\0".join(pair).encode()).hexdigest()):
        if len(queries) == SIZE:
            return
        if len(query.split()) >= LEAST_WORDS and query not in queries and document not in documents:
            queries.add(query)
            documents.add(document)
            yield query, document


def write_task(folder: Path, asked: list[tuple[str, str]], others: list[str] = ()) -> int:
    """Write (query, document) pairs as the retrieval task `folder`, which `suite=local` reads; count its documents.

    Args:
        folder: it is made.
        asked: each document is relevant to its query.
        others: further documents of the corpus; one of `asked` may be among them.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = dict.fromkeys([document for _, document in asked] + list(others))
    number = {document: n for n, document in enumerate(documents)}
    lines = {
        "corpus": [{"_id": f"d{n}", "title": "", "text": document} for document, n in number.items()],
        "queries": [{"_id": f"q{n}", "text": query} for n, (query, _) in enumerate(asked)],
    }
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [f"q{n}\td{number[document]}\t1\n" for n, (_, document) in enumerate(asked)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return len(number)


if __name__ == "__main__":
    main(*sys.argv[1:])
