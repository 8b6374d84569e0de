"""Pairs and held-out tasks mined from packages that are written here."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from demo_corpus import NUMPYDOC, pairs, read

from gte.data.cleaning import normalize
from gte.demo import corpus as demo
from gte.demo import tasks as demo_tasks
from gte.errors import UserError

INIT = '"""Alpha measures vectors of any kind."""\nraise RuntimeError("alpha was imported")\n'
TOOLS = f'''"""Lengths and shifts of vectors.

They work on lists, on tuples and on arrays of any number of dimensions.
"""

def scale(x, axis=0, eps=0):
    """{NUMPYDOC.strip()}
    """
    length = norm(x, axis) + eps
    return [value / length for value in x]

def norm(x, axis=0):
    """Length of the input, which is never negative."""
    squares = [value * value for value in x]
    return sum(squares) ** 0.5

def shift(x, by):
    """Move the input by a constant, in place."""
    for i in range(len(x)):
        x[i] += by

def secret(x):
    """Turn the input inside out without looking at it."""
    for i in range(len(x)):
        x[i] = x[-i]
'''
BETA = '''"""Beta keeps records of things that were measured."""

def turn(x):
    """Turn the input inside out without looking at it."""
    turned = list(reversed(list(x)))
    return turned

def record(x, where):
    """Write the measured values to a place on the disk.

    The place is made when it is not there, with all the folders above it. See :func:`alpha.tools.scale` first.
    """
    with open(where, "a") as file:
        file.write(str(list(x)))
'''
GAMMA = '''"""Gamma draws what was measured on the screen."""

def draw(x):
    """Show the measured values as a line on the screen.

    Colours are taken from the theme that is set, as :func:`beta.store.record` does it, and never from the values.
    """
    for value in x:
        print("#" * int(value))
'''
README = """# alpha

Alpha measures vectors: their lengths, their angles and their distances.

## Installation

Type the usual command in a terminal, then look at the [examples](https://x.y) below.
"""


def install(site: Path, name: str, files: dict[str, str], readme: str = "") -> None:
    """A distribution as pip leaves it: files, METADATA and a RECORD."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: The {name} way of measuring\n\n{readme}"
    files = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/LICENSE.md": "# Licence\n\nAll of the rights are reserved here.\n",
    }
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (site / info / "RECORD").write_text("".join(f"{path},,\n" for path in sorted(files, reverse=True)))


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    alpha = {
        "alpha/__init__.py": INIT,
        "alpha/tools.py": TOOLS,
        "alpha/tests/test_tools.py": TOOLS.replace("vectors", "tests"),
        "alpha/_vendor/old.py": TOOLS.replace("vectors", "vendored vectors"),
        "alpha/broken.py": "def (:",
    }
    install(folder, "alpha", alpha, README)
    install(folder, "beta", {"beta/__init__.py": "", "beta/store.py": BETA})
    install(folder, "gamma", {"gamma.py": GAMMA})
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_every_kind_of_pair_of_a_package_is_written(site, tmp_path):
    out = tmp_path / "raw"
    counts = demo.mine(out, ["alpha"], held_out=())
    found = {kind: pairs(out, kind) for kind in counts}
    assert {kind: len(rows) for kind, rows in found.items()} == counts
    assert [q for q, _ in found["docstring_code"]] == [
        "Scale the input to unit length. The norm is taken along one axis, see norm and alpha. "
        "Nothing happens in place.",
        "Length of the input, which is never negative.",
        "Move the input by a constant, in place.",
        "Turn the input inside out without looking at it.",
    ]
    norm = "def norm(x, axis=0):\n    squares = [value * value for value in x]\n    return sum(squares) ** 0.5"
    assert found["docstring_code"][1][1] == norm
    assert found["name_summary"] == [
        ("alpha", "Alpha measures vectors of any kind."),
        ("alpha.tools", "Lengths and shifts of vectors."),
        ("alpha.tools.scale", "Scale the input to unit length."),
        ("alpha.tools.norm", "Length of the input, which is never negative."),
        ("alpha.tools.shift", "Move the input by a constant, in place."),
        ("alpha.tools.secret", "Turn the input inside out without looking at it."),
    ]
    assert found["title_body"] == [
        ("Lengths and shifts of vectors.", "They work on lists, on tuples and on arrays of any number of dimensions."),
        (
            "Scale the input to unit length.",
            "The norm is taken along one axis, see norm and alpha. Nothing happens in place.",
        ),
    ]
    assert found["heading_section"] == [
        (
            "scale: Scale the input to unit length - Notes",
            "A vector of zeros stays one, whatever is added to its norm.",
        ),
        ("alpha", "Alpha measures vectors: their lengths, their angles and their distances."),
        (
            "alpha: Installation",
            "Type the usual command in a terminal, then look at the examples below.",
        ),
    ]
    assert found["parameter_description"] == [
        ("parameter x of scale", "The values that are to be scaled, of any shape."),
        ("parameter axis, eps of scale", "Where to take the norm, and what is added to it."),
    ]
    assert found["return_description"] == [("what scale returns", "The input divided by its norm along the axis.")]
    assert [q for q, _ in found["doctest_example"]] == ["The rows of a matrix have unit length afterwards:"]
    assert found["version_note"] == [
        ("alpha.tools.scale changed in version 1.2", "Integer input is converted to floats before it is scaled.")
    ]
    assert found["hyperlink"] == [
        (
            "The norm is taken along one axis, see norm and alpha. Nothing happens in place.",
            "alpha.tools.norm: Length of the input, which is never negative.",
        )
    ]
    assert found["see_also"] == [
        (
            "Scale the input to unit length.",
            "norm: Length of the input along one axis.\nshift: Move the input by a constant, in place.",
        )
    ]
    assert found["class_members"] == [
        (
            "alpha.tools: Lengths and shifts of vectors.",
            "scale: Scale the input to unit length.\nnorm: Length of the input, which is never negative.\n"
            "shift: Move the input by a constant, in place.\nsecret: Turn the input inside out without looking at it.",
        )
    ]
    assert not list(out.rglob("*.partial")) and not (out / "eval").exists()


def test_held_out_packages_give_tasks_and_no_pair_that_comes_from_or_leads_to_them(site, tmp_path):
    out = tmp_path / "raw"
    demo.mine(out, ["alpha", "beta", "gamma"], held_out=["beta"])
    text = json.dumps({path.stem: read(path) for path in out.glob("*/*.jsonl.gz")})
    assert "alpha.tools.scale" in text and "gamma" in text  # what is not held out is there
    assert "beta" not in text.replace("beta.store.record does it", "")
    assert "Write the measured values" not in text
    assert "as beta.store.record does it" not in json.dumps(pairs(out, "hyperlink"))
    # the same docstring, with another body, in a package that is not held out
    assert "Turn the input inside out" not in text and "secret" not in text
    task = out / "eval" / "DemoDocstringToCode"
    corpus = {row["_id"]: row["text"] for row in read(task / "corpus.jsonl.gz")}
    queries = {row["_id"]: row["text"] for row in read(task / "queries.jsonl.gz")}
    judged = [line.split("\t") for line in (task / "qrels/test.tsv").read_text().splitlines()]
    assert judged[0] == ["query-id", "corpus-id", "score"] and len(judged) == 3
    answers = {queries[q]: corpus[d] for q, d, _ in judged[1:]}
    assert answers["Turn the input inside out without looking at it."].startswith("def turn(x):")
    assert (out / "eval" / "DemoNameToSummary" / "corpus.jsonl.gz").exists()


def test_bytes_depend_neither_on_the_hash_seed_nor_on_the_order_of_files(site, tmp_path):
    mined = "['bm25s', 'omegaconf', 'hydra-core'], ['hydra']"
    code = f"import sys; from gte.demo import corpus; corpus.mine(sys.argv[1], {mined})"
    written = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")}
        subprocess.run([sys.executable, "-c", code, str(out)], env=environment, check=True)
        written.append({p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert len(written[0]) > 10 and written[0] == written[1]
    record = site / "alpha-1.0.dist-info" / "RECORD"
    assert record.read_text() != "".join(sorted(record.read_text().splitlines(True)))
    demo.mine(tmp_path / "a", ["alpha"], ())
    record.write_text("".join(sorted(record.read_text().splitlines(True))))
    demo.mine(tmp_path / "b", ["alpha"], ())
    for path in (tmp_path / "a").rglob("*.gz"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_package_that_is_not_installed_is_named_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no-such-package is not installed") as error:
        demo.mine(tmp_path / "raw", ["no-such-package"])
    assert "\n" not in str(error.value) and not (tmp_path / "raw").exists()


def test_queries_with_many_answers_are_dropped_and_documents_repeat_a_few_times():
    rows = [demo.Row("k", "return  the Name", f"code {i}", "p", ("p",)) for i in range(demo.MAX_PER_QUERY + 1)]
    rows += [demo.Row("k", f"query {i}", "The Same", "p", ("p",)) for i in range(demo.MAX_PER_DOCUMENT + 2)]
    rows += [demo.Row("k", "two", "first", "p", ("p",)), demo.Row("k", "Two", "second", "p", ("p",))]
    rows += [demo.Row("other", "TWO", " first ", "p", ("p",)), demo.Row("k", "equal", "EQUAL", "p", ("p",))]
    kept = [(row.query, row.document) for row in demo.distinct(rows)]
    assert kept == [(f"query {i}", "The Same") for i in range(demo.MAX_PER_DOCUMENT)] + [("two", "first")]
    both = [(row.query, row.document) for row in demo.distinct(rows, answers=demo.MAX_PER_QUERY)]
    assert both[-2:] == [("two", "first"), ("Two", "second")]


def test_no_package_has_more_than_its_share_of_a_kind(monkeypatch):
    monkeypatch.setattr(demo, "MAX_PER_PACKAGE", 3)
    rows = [demo.Row(kind, f"{p} {i}", "d", p, (p,)) for kind in "ab" for p in ("big", "small") for i in range(8)]
    rows = [row for row in rows if row.package == "big" or row.query.endswith(("0", "1"))]
    kept = demo.balanced(rows)
    assert Counter((row.kind, row.package) for row in kept) == {
        ("a", "big"): 3, ("a", "small"): 2, ("b", "big"): 3, ("b", "small"): 2
    }  # fmt: skip
    assert kept == [row for row in rows if row in kept]


def test_equal_documents_of_a_task_are_one_document_and_every_answer_is_relevant():
    rows = [
        demo.Row("docstring_code", "one", "Same  text", "p", ("p",)),
        demo.Row("docstring_code", "two", "same text", "p", ("p",)),
        demo.Row("docstring_code", "Two", "other text", "p", ("p",)),
    ]
    files = demo_tasks.retrieval_task(rows, ("docstring_code",), 10)
    texts = {row["_id"]: row["text"] for row in files["corpus.jsonl.gz"]}
    asked = {row["_id"]: row["text"] for row in files["queries.jsonl.gz"]}
    judged = {(asked[q], texts[d]) for q, d, _ in files["qrels/test.tsv"][1:]}
    assert judged == {("one", "Same  text"), ("two", "Same  text"), ("two", "other text")}
    assert len(texts) == len(asked) == 2


def test_leaks_are_found_as_by_comparing_every_text_with_every_held_out_text():
    draws = random.Random(0)
    words = ["a", "the", "of", "vector", "values", "Return", "in"]

    def text(n):
        return " ".join(draws.choices(words, k=n))

    held_out = [text(draws.randint(1, 12)) for _ in range(60)]
    texts = [text(draws.randint(1, 40)) for _ in range(300)]
    texts += [f"{text(5)} {h}  {text(4)}" for h in held_out] + [h.upper() for h in held_out]
    texts += [f"{text(3)}{h}" for h in held_out]  # not at a word boundary

    def leaks(t):
        t = normalize(t)
        for h in map(normalize, held_out):
            if (t == h and len(h) >= demo_tasks.CHARACTERS) or (
                len(h.split()) >= demo_tasks.WORDS and re.search(rf"(?<!\S){re.escape(h)}(?!\S)", t)
            ):
                return True
        return False

    expected = [leaks(t) for t in texts]
    assert 60 < sum(expected) < 200
    assert demo_tasks.contains_any(texts, held_out, chunk=17).tolist() == expected
