"""The paper's numbers are typed right, and ours stand beside them under the paper's own averages."""

import csv
import json
import os
import subprocess
import sys
from statistics import mean

import pytest
from conftest import ROOT
from task_folders import write_rows, write_sts

from gte.results.paper import BEIR, CATEGORIES, PAPER, TABLES, averages, paper_tables, read_paper


def dicts(name: str) -> list[dict]:
    header, *rows = read_paper(name)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_printed_averages_are_the_means_of_the_printed_numbers():
    """Within the rounding of the printed numbers. Table 6's last column weighs the categories by their data sets."""
    checked = 0
    *rows, average = read_paper("table5")[1:]
    for column in range(1, len(average)):
        values = [row[column] for row in rows]
        if all(values):
            assert mean(map(float, values)) == pytest.approx(float(average[column]), abs=0.1)
            checked += 1
        else:
            assert not average[column]  # CPT-S has 12 of the 15 and no average
    for row in dicts("table6"):
        weighted = sum(float(row[column]) * int(column.split()[-1]) for column in CATEGORIES) / 56
        assert weighted == pytest.approx(float(row["Avg 56"]), abs=0.1), row
        checked += 1
    for name in ("table7", "table13"):
        for row in read_paper(name)[1:]:
            assert mean(map(float, row[2:-1])) == pytest.approx(float(row[-1]), abs=0.06), row
            checked += 1
    assert checked == 9 + 26 + 5 + 5


def test_numbers_that_the_paper_prints_twice_are_typed_alike():
    six = {(row["setting"], row["model"]): row for row in dicts("table6")}
    pretrained, full = six["unsupervised", "GTE base"], six["supervised", "GTE base"]
    assert {row["setting"]: row["MTEB"] for row in dicts("table9")} == {
        "PT": pretrained["Avg 56"],
        "FT": "57.8",
        "Full": full["Avg 56"],
    }
    steps = {row["steps"]: row["MTEB"] for row in dicts("table8")}
    assert list(steps) == [str(n) for n in range(10_000, 60_000, 10_000)] and steps["50000"] == pretrained["Avg 56"]
    half = next(row for row in dicts("table10") if row["alpha"] == "0.5")
    assert [half[key] for key in ("Retrieval", "STS", "MTEB")] == [
        pretrained[key] for key in ("Retr. 15", "STS 10", "Avg 56")
    ]
    improved = dicts("table11")[1]
    assert (improved["PT"], improved["FT"]) == (steps["30000"], full["Avg 56"])
    last = dicts("table5")[-1]
    for model in ("E5 small", "E5 base", "E5 large", "GTE small", "GTE base", "GTE large"):
        assert last[model] == six["unsupervised", model]["Retr. 15"]


def test_every_table_of_results_is_there_and_rectangular():
    assert {path.stem for path in PAPER.glob("*.csv")} == {f"table{n}" for n in (4, 5, 6, 7, 8, 9, 10, 11, 13)}
    for path in PAPER.glob("*.csv"):
        with path.open(newline="") as lines:
            rows = list(csv.reader(lines))
        assert len({len(row) for row in rows}) == 1, path
        for row in rows[1:]:
            numbers = [float(cell) for cell in row if cell.replace(".", "").isdigit()]
            assert numbers and all(0 <= number <= 100 or number % 10_000 == 0 for number in numbers), (path, row)


def model(scores: dict[str, dict[str, float]], **more) -> dict:
    tasks = {name: {"scores": values, "main_score": next(iter(values.values()))} for name, values in scores.items()}
    return {"parameters": 110e6, "tasks": tasks} | more


def test_beir_columns_stand_in_the_papers_rows_and_are_averaged_over_fifteen():
    values = {task: {"ndcg_at_10": 10.0 + i, "recall_at_100": 50.0 + i} for i, task in enumerate(BEIR.values())}
    few = {task: values[task] for task in ("SciFact", "FiQA2018")}
    tables = paper_tables({"suite": "beir", "models": {"whole": model(values), "part": model(few), "none": model({})}})
    (_, table), (_, recall) = tables["table5"], tables["figure2"]
    assert table[0][-3:] == ["GTE large", "whole", "part"] and recall[0] == ["dataset", "whole", "part"]
    rows = {row[0]: row for row in table}
    assert rows["MS MARCO"][-2:] == ["10.00", ""] and rows["Scifact"][-2:] == ["24.00", "24.00"]
    assert rows["Average"][-2:] == ["17.00", "19.50 (2 of 15)"] and rows["Average"][-3] == "44.6"
    assert {row[0]: row for row in recall}["Scifact"] == ["Scifact", "64.00", "64.00"]


def test_mteb_is_averaged_over_data_sets_and_says_where_some_are_missing():
    import mteb
    import yaml

    official = {task.metadata.name: task.metadata.type for task in mteb.get_benchmark("MTEB(eng, v1)").tasks}
    assert list(official) and set(official) == set(yaml.safe_load((ROOT / "conf/suite/mteb.yaml").read_text())["tasks"])
    assert set(CATEGORIES.values()) == set(official.values())
    for column, kind in CATEGORIES.items():
        assert int(column.split()[-1]) == sum(value == kind for value in official.values())
    kinds = list(CATEGORIES.values())
    whole = model({name: {"main": float(kinds.index(kind))} for name, kind in official.items()})
    whole["averages"] = averages(whole, official)
    assert whole["averages"]["STS"] == {"mean": 5.0, "tasks": 10, "of": 10}
    by_hand = sum(kinds.index(kind) for kind in official.values()) / 56
    assert whole["averages"]["all"] == {"mean": round(by_hand, 3), "tasks": 56, "of": 56}
    part = model({"STS12": {"main": 70.0}, "STS13": {"main": 80.0}})
    part["averages"] = averages(part, official)
    _, table = paper_tables({"suite": "mteb", "models": {"whole": whole, "part": part}})["table6"]
    assert table[-2][:3] == ["ours", "whole", "110.0M"] and table[-2][-1] == f"{by_hand:.2f}"
    assert table[-1][3:] == ["", "", "", "", "", "75.00 (2 of 10)", "", "75.00 (2 of 56)"]


def test_sst2_and_codesearchnet_stand_in_their_tables():
    sst2 = model({"SST2": {"accuracy": 85.11}, "SST2Prompted": {"accuracy": 87.25}})
    _, four = paper_tables({"suite": "sst2", "models": {"ours": sst2, "bm25": model({})}})["table4"]
    assert four[-2:] == [["ours", "110.0M", "no", "85.11"], ["ours", "110.0M", "yes", "87.25"]]
    names = ("Ruby", "JavaScript", "Go", "Python", "Java", "PHP")
    code = model({f"CodeSearchNet{name}": {"mrr": 70.0 + i, "mrr_1k": 80.0 + i} for i, name in enumerate(names)})
    tables = paper_tables({"suite": "codesearchnet", "models": {"ours": code}})
    assert tables["table7"][1][-1] == ["ours", "110.0M", *(f"{70 + i}.00" for i in range(6)), "72.50"]
    assert tables["table13"][1][-1][-1] == "82.50"


def test_eval_writes_results_averages_and_the_papers_table(script, small_model, tmp_path):
    for name in ("STS12", "STS13"):
        write_sts(tmp_path / "data" / name)
    write_rows(tmp_path / "data" / "MyPairs" / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 1}])
    code, _, err = script("eval", f"checkpoint={{ours: {small_model}}}", "suite=sts", "data_dir=data", "out=out")
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    ours = results["models"]["ours"]
    scores = [ours["tasks"][name]["main_score"] for name in ("STS12", "STS13")]
    assert ours["averages"]["STS"] == {"mean": round(mean(scores), 3), "tasks": 2, "of": 10}
    assert results["skipped"]["MyPairs"] == "not in suite=sts" and len(results["skipped"]) == 8 + 1
    assert ours["weights"].startswith("sha256:") and results["commit"] and ours["tasks"]["STS12"]["seconds"] > 0
    rows = list(csv.reader((tmp_path / "out" / "table6.csv").read_text().splitlines()))
    assert rows[-1][1] == "ours" and rows[-1][-3] == f"{mean(scores):.2f} (2 of 10)"
    markdown = (tmp_path / "out" / "table.md").read_text()
    assert "| supervised | GTE base | 110M | 73.0 |" in markdown and markdown.splitlines()[-1].startswith(
        "| ours | ours |"
    )
    assert TABLES.keys() <= {path.stem for path in (ROOT / "conf/suite").glob("*.yaml")}


def test_tables_of_a_result_are_made_without_pytorch():
    program = "import sys; from gte.results import paper, table; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
