"""One table for all models of a result: a row a model, a column a score."""

import csv
import io
import itertools
import re

from gte.metrics import notes_on
from gte.results.paper import counted, paper_tables

SHORT = {
    "ndcg_at_10": "nDCG@10",
    "recall_at_100": "R@100",
    "map_at_1000": "MAP",
    "max_over_subqueries_map_at_1000": "MAP",
    "cosine_spearman": "Spearman",
    "max_ap": "AP",
    "accuracy": "accuracy",
    "v_measure": "v-measure",
    "mrr": "MRR",
    "mrr_1k": "MRR of 1k",
}
ALSO = {"Retrieval": ("recall_at_100", "mrr_1k")}  # shown beside the main score


def footnotes(results: dict) -> list[str]:
    """Notes that a reader of the columns needs: the kind of MAP, and the tasks that no mean of the suite counts."""
    notes = notes_on(score for _, score in columns(results))
    others = [name for name, _ in columns(results) if name in uncounted(results)]
    if others:
        suite = results["suite"]
        notes.append(f"* not a task of suite={suite}, or not on the split that it scores: in none of its means")
    return notes


def uncounted(results: dict) -> set[str]:
    """Tasks that no mean of the suite counts."""
    return {name for model in results["models"].values() for name in model["tasks"].keys() - counted(model["tasks"])}


def columns(results: dict) -> list[tuple[str, str]]:
    """(task, score) in the order of the first model that has them."""
    found = {}
    for model in results["models"].values():
        for name, task in model["tasks"].items():
            for score in (task["metric"], *ALSO.get(task["type"], ())):
                if score in task["scores"]:
                    found[name, score] = None
    return list(found)


def cells(results: dict) -> list[list[str]]:
    """Lay a result out as rows of text.

    Args:
        results: of `run_suite`, or the content of a results.json.
    Returns: a header, then a row a model; an empty cell is a task that was not run or failed.

    >>> task = {"metric": "ndcg_at_10", "type": "Retrieval", "scores": {"ndcg_at_10": 64.3, "recall_at_100": 92.1}}
    >>> cells({"models": {"ours": {"tasks": {"SciFact": task}}}})
    [['model', 'SciFact nDCG@10', 'SciFact R@100'], ['ours', '64.30', '92.10']]
    """
    scores, others = columns(results), uncounted(results)
    rows = [["model", *(f"{name}{'*' * (name in others)} {SHORT.get(score, score)}" for name, score in scores)]]
    for label, model in results["models"].items():
        tasks = model["tasks"]
        values = [tasks[name]["scores"].get(score) if name in tasks else None for name, score in scores]
        named = f"{label} ({model['variant']})" if "variant" in model else label  # which BM25 it is
        rows.append([named, *("" if value is None else f"{value:.2f}" for value in values)])
    return rows


def gains(rows: list[list[str]]) -> list[list[str]]:
    """Subtract each model's scores from those in the row below, where both have every score.

    >>> gains([["pre-trained", "50.00"], ["fine-tuned", "52.50"]])
    [['fine-tuned over pre-trained', '+2.50']]
    """
    return [
        [f"{new[0]} over {old[0]}", *(f"{float(b) - float(a):+.2f}" for a, b in zip(old[1:], new[1:], strict=True))]
        for old, new in itertools.pairwise(rows)
        if all(old) and all(new)
    ]


def csv_text(rows: list[list[str]]) -> str:
    """Write rows as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def markdown(rows: list[list[str]]) -> str:
    """Write a table in Markdown: the first column to the left, all others to the right.

    Args:
        rows: header, then rows, as text.

    >>> print(markdown([["model", "score"], ["ours", "64.30"]]), end="")
    | model | score |
    | --- | ---: |
    | ours | 64.30 |
    """
    ruler = ["---", *("---:" for _ in rows[0][1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], ruler, *rows[1:]))


def as_csv(results: dict) -> str:
    """Write all scores of a result as CSV."""
    return csv_text(cells(results))


def as_markdown(results: dict) -> str:
    """Write a result in Markdown: all scores, then the means of mteb's board and the paper's tables with ours added."""
    header, *rows = cells(results)
    parts = [markdown([header, *rows, *gains(rows)])]
    parts += [f"\n{note}\n" for note in footnotes(results)]
    parts += [f"\n{title}\n\n{markdown(table)}" for title, table in paper_tables(results).values()]
    return "".join(parts)


def as_text(results: dict) -> str:
    """Write a result for a terminal: all scores, and below them the means of mteb's board, where the suite has them."""
    header, *rows = cells(results)
    parts = [stacked_text(header, [*rows, *gains(rows)])]
    tables = paper_tables(results)
    if "means" in tables:
        title, (header, *rows) = tables["means"]
        parts.append(f"{title}\n{stacked_text(header, rows)}")
    return "\n\n".join([*parts, *footnotes(results)])


def stacked_text(header: list[str], rows: list[list[str]]) -> str:
    """A table with its header's words one below the other, so that ten scores fit into 120 columns.

    More of them stand below each other, a column a model.
    """
    if len(header) > 11:
        turned = [list(column) for column in zip(header, *rows, strict=True)]
        return aligned(turned[:1], turned[1:])
    words = [re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", title).split() for title in header]
    height = max(map(len, words))
    stacked = [[*([""] * (height - len(column))), *column] for column in words]
    return aligned([list(line) for line in zip(*stacked, strict=True)], rows)


def aligned(head: list[list[str]], rows: list[list[str]]) -> str:
    """Write head, ruler and rows in columns as wide as their widest cell.

    >>> print(aligned([["model", "score"]], [["ours", "64.30"]]))
    model  score
    ------------
    ours   64.30
    """
    widths = [max(map(len, column)) for column in zip(*head, *rows, strict=True)]

    def show(line: list[str]) -> str:
        values = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return "  ".join([line[0].ljust(widths[0]), *values[1:]]).rstrip()

    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([*map(show, head), ruler, *map(show, rows)])
