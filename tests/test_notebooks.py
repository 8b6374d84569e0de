"""Notebooks are readers: without outputs, and their cells run as they stand in a small repository."""

import gzip
import json
import re
import sys
from pathlib import Path

import matplotlib
import pytest
from conftest import ROOT

from gte.models.export import export

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(name: str) -> list[str]:
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook's cells in a repository of the present code, without data, runs and results; gives its names."""
    plt = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("IPython", reason="pip install -r requirements-notebooks.txt")
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("Agg")
    plt.close("all")

    def run(name: str) -> dict:
        names: dict = {"__name__": "notebook"}
        for cell in code_cells(name):
            exec(cell, names)
        return names

    yield run
    plt.close("all")


def titles() -> list[str]:
    """Those of all panels drawn; every one of them has labels or a legend."""
    plt = matplotlib.pyplot
    panels = [panel for number in plt.get_fignums() for panel in plt.figure(number).axes if panel.get_title()]
    assert all(panel.get_ylabel() or panel.get_legend() or panel.get_yticklabels() for panel in panels)
    return [panel.get_title() for panel in panels]


def write_lines(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_reads_the_environment_variables_that_it_names(notebook):
    words = "".join("".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"])
    for name in re.findall(r"environment variable `(\w+)`", words):
        assert f'os.environ.get("{name}"' in words


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_output_and_compiles(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        compile("".join(cell["source"]), str(path), "exec")


def test_from_raw_text_to_a_batch_accounts_for_its_rows_and_shows_the_texts_it_wrote(execute, tmp_path):
    names = execute("01_from_raw_text_to_a_batch")
    facts = names["manifest"].sources["functions"]
    assert facts["duplicates"] == 1 and sum(facts["rejected"].values()) == 1
    assert facts["read"] == facts["kept"] + 2 == len(names["functions"])
    written = {row[key].lower().split()[0] for row in names[names["name"]] for key in ("query", "pos")}
    shown = [text.removeprefix("[CLS] ") for text in names["texts"]]
    assert len(shown) == 2 * names["BATCH"]
    assert all(any(text.startswith(word[:3]) for word in written) for text in shown)
    assert titles() == [
        "Which source a step draws from",
        f"{sum(names['lengths'])} tokens end to end, {names['padded']} padded",
    ]


def test_loss_curves_and_ablations_say_what_is_missing_and_show_the_papers_tables(execute, capsys):
    execute("02_loss_curves_and_ablations")
    printed = capsys.readouterr().out
    assert titles() == []
    for name in ("pretrain_sources", "finetune_sources", "batch_size", "model_size", "training_steps", "objective"):
        assert f"no experiments/{name}/results.csv yet: python src/train.py -m +experiment={name}" in printed
    assert "runs/demo holds no runs" in printed and "no runs/demo/eval/table.csv" in printed
    assert "57.8" in printed and "ours" not in printed


def test_loss_curves_and_ablations_draw_the_runs_and_the_spread_of_their_seeds(execute, tmp_path, capsys):
    (tmp_path / "runs" / "demo" / "pretrain").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "pretrain" / "metrics.csv").write_text("step,train/loss\n0,4.0\n1,2.0\n")
    header = "run,commit,overrides,seed,metric,value\n"
    for name, runs in {
        "model_size": {"stages=PT,model=tiny_256,seed=1": (50, 70), "stages=PT,model=tiny_64,seed=1": (10, 30)},
        "objective": {
            "stage=pretrain,loss=vanilla,seed=1": (31, 33),
            "stage=pretrain,loss=vanilla,seed=2": (35, 37),
            "stage=pretrain,loss=improved,seed=1": (40, 40),
        },
    }.items():
        (tmp_path / "experiments" / name).mkdir(parents=True)
        rows = "".join(
            f'"{run}",abc,,{run[-1]},Task{task},{value}\n'
            for run, values in runs.items()
            for task, value in enumerate(values)
        )
        (tmp_path / "experiments" / name / "results.csv").write_text(header + rows)
        curves = "".join(f'"{run}",{step},{5 - step}\n' for run in runs for step in (1, 2))
        (tmp_path / "experiments" / name / "loss.csv").write_text("run,step,loss\n" + curves)
    execute("02_loss_curves_and_ablations")
    printed = capsys.readouterr().out
    assert titles() == ["demo: pretrain", "Figure 3c: model size: ours", "Figure 4: pre-training loss"]
    plt = matplotlib.pyplot
    sizes = plt.figure(2).axes[0]
    assert [label.get_text() for label in sizes.get_xticklabels()] == ["tiny 64", "tiny 256"]
    assert sizes.get_lines()[0].get_xdata().tolist() == [0, 1] and sizes.get_lines()[0].get_ydata().tolist() == [20, 60]
    assert len(plt.figure(3).axes[0].get_lines()) == 2
    shares = plt.figure(4).axes[0]
    assert len(shares.get_yticklabels()) == 33  # the paper's sources
    for line in shares.get_lines():
        assert sum(line.get_xdata()) == pytest.approx(100)
    assert "34.00 ± 2.83" in printed and printed.index("loss vanilla") < printed.index("loss improved")
    assert "experiments/objective/results.csv yet" not in printed


def test_embeddings_seen_maps_every_label_and_finds_a_text_by_itself(
    execute, tmp_path, small_model, monkeypatch, capsys
):
    folder = tmp_path / "data" / "demo" / "eval"
    for task in ("DemoTopic", "DemoSourceKind"):
        rows = [{"text": f"{label} text number {n}", "label": label} for label in ("one", "two") for n in range(12)]
        write_lines(folder / task / "test.jsonl.gz", rows)
    texts = ["parse an e-mail address", *(f"words in a row {n}" for n in range(4))]
    retrieval = folder / "DemoDocstringToCode"
    write_lines(retrieval / "corpus.jsonl.gz", [{"_id": f"d{n}", "title": "", "text": t} for n, t in enumerate(texts)])
    write_lines(retrieval / "queries.jsonl.gz", [{"_id": f"q{n}", "text": t} for n, t in enumerate(texts)])
    (retrieval / "qrels").mkdir()
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(len(texts)))
    (retrieval / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    monkeypatch.setenv("MODEL", str(small_model))
    execute("03_embeddings_seen")
    assert titles() == [
        "24 texts by topic",
        "24 texts by kind of text",
        "cosines: 5 of 5 descriptions are nearest to their own code",
    ]
    legend = matplotlib.pyplot.figure(1).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert capsys.readouterr().out.partition("--- ")[2].startswith("1.00\nparse an e-mail address\n")


@pytest.mark.slow
def test_your_own_pairs_trains_on_pairs_that_the_evaluation_does_not_ask_for(
    execute, tmp_path, small_model, monkeypatch
):
    monkeypatch.setenv("MODEL", str(small_model))
    monkeypatch.setenv("STEPS", "2")
    names = execute("04_your_own_pairs")
    work = tmp_path / "runs" / "my_pairs"
    trained = {json.loads(line)["query"] for line in (work / "functions.jsonl").open()}
    asked = {json.loads(line)["text"] for line in (work / "tasks" / "FindTheFunction" / "queries.jsonl").open()}
    assert trained and asked and not trained & asked and len(trained) + len(asked) == len(names["pairs"])
    models = json.loads((work / "eval" / "results.json").read_text())["models"]
    assert list(models) == ["BM25", "before", "after"]
    assert all("FindTheFunction" in model["tasks"] for model in models.values())
    assert names["scores_M"].shape == (len(names["pairs"]),)


@pytest.mark.parametrize("missing", [[], ["faiss", "langchain_core"]], ids=["all-packages", "none-of-the-optional"])
def test_search_with_your_model_runs_on_an_export_and_names_missing_packages(
    missing, run, tmp_path, monkeypatch, capsys
):
    """Its own assertions hold FAISS and LangChain to what sentence-transformers finds."""
    export(run[0], tmp_path / "runs" / "demo" / "model", "model")
    monkeypatch.chdir(tmp_path)
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    if not missing:
        for package in ("faiss", "langchain_core"):
            pytest.importorskip(package, reason="pip install -r requirements-notebooks.txt")
    names: dict = {"__name__": "notebook"}
    for cell in code_cells("05_search_with_your_model"):
        exec(cell, names)
    printed = capsys.readouterr().out
    assert ("index" in names, "store" in names) == (not missing, not missing)
    assert printed.count("is not installed; pip install -r requirements-notebooks.txt") == len(missing)
    assert float(printed.split("difference to sentence-transformers: ")[1].split()[0]) < 1e-5
