"""The recipes of docs/extend.md, done in a copy of the tree: they work, and the suite stays green."""

import gzip
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

FORMAT = '''"""Lines of `query -> document`."""

from collections.abc import Iterator
from pathlib import Path

from gte.data.raw_lines import MAX_LINE, lines
from gte.data.records import Fields, Pair, Record, Rejected


def read_arrows(path: Path, fields: Fields) -> Iterator[Record]:
    """The pairs of a file of arrows; a line without one is rejected."""
    for item in lines(path, MAX_LINE):
        if isinstance(item, Rejected):
            yield item
            continue
        number, line = item
        query, arrow, document = line.decode(errors="replace").strip().partition(" -> ")
        yield Pair(query, document, number) if query and arrow and document else Rejected("no arrow", number)
'''
SOURCE = """# Arrows of our own
name: arrows
category: own
stages: [pretrain]
reader: arrows
files: "*.txt.gz"
url: https://example.org/arrows
licence: cc0-1.0
"""
MODEL = """# Random weights, narrow
defaults: [tiny, _self_]
hidden_size: 32
intermediate_size: 64
"""


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), re.DOTALL)[number]


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def run(tree, *command) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_loss_a_model_a_source_and_a_format_of_ones_own_work_and_leave_the_suite_green(tree):
    (tree / "src" / "my_package").mkdir()
    (tree / "src" / "my_package" / "losses.py").write_text(block("python"))
    (tree / "conf" / "loss" / "pairwise.yaml").write_text("# A hinge\n" + block("yaml"))
    (tree / "conf" / "model" / "narrow.yaml").write_text(MODEL)
    (tree / "conf" / "optim" / "narrow.yaml").write_text("# As tiny\ndefaults: [tiny]\n")
    (tree / "conf" / "source" / "own").mkdir()
    (tree / "conf" / "source" / "own" / "arrows.yaml").write_text(SOURCE)
    (tree / "src" / "gte" / "data" / "formats" / "arrows.py").write_text(FORMAT)
    readers = tree / "src" / "gte" / "data" / "readers.py"
    entry = '    "arrows": "gte.data.formats.arrows:read_arrows",\n'
    readers.write_text(readers.read_text().replace("READERS = {\n", "READERS = {\n" + entry, 1))
    raw = tree / "data" / "raw" / "arrows"
    raw.mkdir(parents=True)
    with gzip.open(raw / "a.txt.gz", "wt") as file:
        file.writelines(f"question {n} of colour -> answer {n} of the same colour\n" for n in range(300))
        file.write("nothing\n")
    data = ["data=pretrain", "data.sources=[arrows]", "data.tokenizer=null", "data.vocab_size=200"]
    told = run(tree, "src/prepare.py", *data, "data.dir=prepared")
    assert re.search(r"arrows +own +pretrain +301 +300 +0 +1", told), told
    sizes = ["stage.steps=2", "stage.global_batch=32", "stage.max_length=16", "stage.batch_tokens=1024", "workers=0"]
    chosen = ["model=narrow", "scale=laptop", "loss=pairwise", "loss.margin=0.2", "trainer=cpu", "logger=csv"]
    told = run(tree, "src/train.py", "data=pretrain", "data.dir=prepared", *chosen, *sizes, "out=run")
    assert "pretrain done" in told
    folders = ["data/test_sources", "data/test_source_formats", "data/test_lineage"]
    suite = [*folders, *(f"test_{name}" for name in ("configs", "readme", "layers", "values", "overrides"))]
    run(tree, "-m", "pytest", "-q", "-m", "not slow", *(f"tests/{name}.py" for name in suite))
