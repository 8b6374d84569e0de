"""Notebooks are readers: without outputs, and every cell compiles."""

import json
import sys

import pytest
from conftest import ROOT

from gte.export import export

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_output_and_compiles(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        compile("".join(cell["source"]), str(path), "exec")


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
    for cell in json.loads((ROOT / "notebooks" / "05_search_with_your_model.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert ("index" in names, "store" in names) == (not missing, not missing)
    assert printed.count("is not installed; pip install -r requirements-notebooks.txt") == len(missing)
    assert float(printed.split("difference to sentence-transformers: ")[1].split()[0]) < 1e-5
