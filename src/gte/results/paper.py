"""A result beside the paper's: its Tables 4, 5, 6, 7 and 13 with our rows or columns added, in the paper's layout.

The paper's numbers are typed once, in experiments/paper/*.csv.
"""

import csv
from pathlib import Path
from statistics import mean

PAPER = Path(__file__).resolve().parents[3] / "experiments" / "paper"
CATEGORIES = {  # of Table 6: column -> mteb's name of it
    "Class. 12": "Classification",
    "Clust. 11": "Clustering",
    "Pair. 3": "PairClassification",
    "Rerank 4": "Reranking",
    "Retr. 15": "Retrieval",
    "STS 10": "STS",
    "Summ. 1": "Summarization",
}
BEIR = {  # row of Table 5 -> mteb's name of it
    "MS MARCO": "MSMARCO",
    "Trec-Covid": "TRECCOVID",
    "NFCorpus": "NFCorpus",
    "NQ": "NQ",
    "HotpotQA": "HotpotQA",
    "FiQA": "FiQA2018",
    "ArguAna": "ArguAna",
    "Touche-2020": "Touche2020",
    "CQADupStack": "CQADupstackRetrieval",
    "Quora": "QuoraRetrieval",
    "DBpedia": "DBPedia",
    "Scidocs": "SCIDOCS",
    "Fever": "FEVER",
    "Climate-Fever": "ClimateFEVER",
    "Scifact": "SciFact",
}
FEWER = "fewer candidates than in Table 7"  # by these words of a task's note a row is marked
CODE = {"JS": "JavaScript"}  # language of Tables 7 and 13 -> the task's, where it differs
Table = list[list[str]]  # header, then rows


def read_paper(name: str) -> Table:
    """Header and rows of experiments/paper/<name>.csv."""
    with open(PAPER / f"{name}.csv", newline="") as lines:
        return list(csv.reader(lines))


def averages(model: dict, kinds: dict[str, str], groups: dict[str, list[str]] | None = None) -> dict[str, dict]:
    """By category, over all tasks ("all") and over the categories' means ("types"), as MTEB's leaderboard has them.

    `kinds` gives the category of every task of the suite, whether it was run or not: a mean over fewer tasks than `of`
    is not the benchmark's. `groups`: further means, of tasks or of single splits of them (task/split).
    """
    tasks = counted(model["tasks"])
    scores = {name: task["main_score"] for name, task in tasks.items() if name in kinds}
    members = {kind: [name for name in kinds if kinds[name] == kind] for kind in dict.fromkeys(kinds.values())}
    result = {}
    for kind, names in (members | {"all": list(kinds)}).items():
        add_mean(result, kind, [scores.get(name) for name in names])
    whole = [kind for kind in members if kind in result and result[kind]["tasks"] == result[kind]["of"]]
    means = [mean(scores[name] for name in members[kind] if name in scores) for kind in members if kind in result]
    if means:
        result["types"] = {"mean": round(mean(means), 3), "tasks": len(whole), "of": len(members)}
    for group, names in (groups or {}).items():
        add_mean(result, group, [score_of(tasks, name) for name in names])
    return result


def add_mean(result: dict, key: str, scores: list[float | None]) -> None:
    """Puts the mean of the scores that are there into `result`, and of how many tasks it is, if there is any."""
    own = [score for score in scores if score is not None]
    if own:
        result[key] = {"mean": round(mean(own), 3), "tasks": len(own), "of": len(scores)}


def score_of(tasks: dict[str, dict], name: str) -> float | None:
    """The main score of a task, or of a single split of it (task/split); None where it was not run."""
    task, _, split = name.partition("/")
    if task not in tasks or not split:
        return tasks[task]["main_score"] if task in tasks else None
    parts = [part["score"] for part in tasks[task]["parts"] if part["split"] == split]
    return mean(parts) if parts else None


def counted(tasks: dict[str, dict]) -> dict[str, dict]:
    """The tasks that are the suite's own, on its split: a mean with others would not be the benchmark's."""
    return {name: task for name, task in tasks.items() if task.get("counted", True)}


def show(value: float, tasks: int, of: int) -> str:
    """A mean; of fewer tasks than the paper's it says of how many, since it is another mean then."""
    return f"{value:.2f}" + (f" ({tasks} of {of})" if tasks < of else "")


def show_all(values: list[float | None]) -> list[str]:
    """Each value, empty where there is none, and the mean of those there are."""
    found = [value for value in values if value is not None]
    cells = ["" if value is None else f"{value:.2f}" for value in values]
    return [*cells, show(mean(found), len(found), len(values)) if found else ""]


def parameters(model: dict) -> str:
    return f"{model['parameters'] / 1e6:.1f}M" if "parameters" in model else ""


def score(model: dict, task: str, metric: str) -> float | None:
    return model["tasks"][task]["scores"].get(metric) if task in model["tasks"] else None


def table4(models: dict) -> Table:
    rows = [
        [label, parameters(model), prompting, f"{accuracy:.2f}"]
        for label, model in models.items()
        for task, prompting in (("SST2", "no"), ("SST2Prompted", "yes"))
        if (accuracy := score(model, task, "accuracy")) is not None
    ]
    return read_paper("table4") + rows


def beside_beir(rows: Table, models: dict, metric: str) -> Table:
    """A column a model beside the rows of Table 5, and the mean over all data sets in the last row."""
    for label, model in models.items():
        cells = show_all([score(model, task, metric) for task in BEIR.values()])
        if any(cells):
            rows = [[*row, cell] for row, cell in zip(rows, [label, *cells], strict=True)]
    return rows


def table5(models: dict) -> Table:
    return beside_beir(read_paper("table5"), models, "ndcg_at_10")


def figure2(models: dict) -> Table:
    """Recall@100; the paper shows its own as bars without numbers."""
    return beside_beir([row[:1] for row in read_paper("table5")], models, "recall_at_100")


def table6(models: dict) -> Table:
    table = read_paper("table6")
    kinds = {column: CATEGORIES.get(column, "all") for column in table[0][3:]}
    for label, model in models.items():
        means = model["averages"]
        cells = [
            show(means[kind]["mean"], means[kind]["tasks"], int(column.split()[-1])) if kind in means else ""
            for column, kind in kinds.items()
        ]
        if any(cells):
            table.append(["ours", label, parameters(model), *cells])
    return table


def code_table(models: dict, name: str, metric: str) -> Table:
    table = read_paper(name)
    tasks = [f"CodeSearchNet{CODE.get(language, language)}" for language in table[0][2:-1]]
    for label, model in models.items():
        cells = show_all([score(model, task, metric) for task in tasks])
        if any(cells):
            run = [model["tasks"][task] for task in tasks if task in model["tasks"]]
            fewer = metric == "mrr" and any(FEWER in note for task in run for note in task.get("notes", ()))
            table.append([f"{label} ({FEWER})" if fewer else label, parameters(model), *cells])
    return table


def table7(models: dict) -> Table:
    return code_table(models, "table7", "mrr")


def table13(models: dict) -> Table:
    return code_table(models, "table13", "mrr_1k")


TABLES = {  # suite -> file -> (title, table)
    "sst2": {"table4": ("Table 4: zero-shot SST-2, accuracy", table4)},
    "beir": {
        "table5": ("Table 5: BEIR, nDCG@10", table5),
        "figure2": ("Figure 2: BEIR, Recall@100 (the paper prints no numbers)", figure2),
    },
    "mteb": {"table6": ("Table 6: MTEB, 56 English data sets", table6)},
    "sts": {"table6": ("Table 6: MTEB, 56 English data sets", table6)},
    "codesearchnet": {
        "table7": ("Table 7: CodeSearchNet, MRR among all codes of GraphCodeBERT's code base", table7),
        "table13": ("Table 13: CodeSearchNet, MRR among 1,000", table13),
    },
}


def means(models: dict) -> Table:
    """A row a model, a column a mean of mteb's board; means by category where the suite has several."""
    keys = dict.fromkeys(key for model in models.values() for key in model["averages"])
    kinds = [key for key in keys if key in CATEGORIES.values()]
    others = [key for key in keys if key not in {"all", "types", *CATEGORIES.values()}]
    shown = {"all": "Mean (Task)"}
    if len(kinds) > 1:
        shown |= {"types": "Mean (TaskType)"} | dict(zip(kinds, kinds, strict=True))
    shown |= dict(zip(others, others, strict=True))
    rows = []
    for label, model in models.items():
        cells = [show(*model["averages"][key].values()) if key in model["averages"] else "" for key in shown]
        if any(cells):
            rows.append([label, *cells])
    return [["model", *shown.values()], *rows]


def paper_tables(results: dict) -> dict[str, tuple[str, Table]]:
    """File name -> (title, the paper's table with ours added), and the means of mteb's board, where a suite has them.

    Tasks that are not the suite's own are in none of them.
    """
    models = {label: model | {"tasks": counted(model["tasks"])} for label, model in results["models"].items()}
    tables = {name: (title, table(models)) for name, (title, table) in TABLES.get(results["suite"], {}).items()}
    if results.get("benchmark"):
        tables["means"] = (f"{results['benchmark']}: the means of mteb's board", means(models))
    return tables
