"""The demo corpus: each kind of pair from sources written here, and the corpus of the packages really installed."""

import gzip
import inspect
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from gte.data.locate import locate
from gte.data.records import Pair, normalize
from gte.data.sources import load_source
from gte.demo import corpus as demo
from gte.demo import docstring
from gte.demo import pairs as demo_pairs
from gte.demo import tasks as demo_tasks
from gte.demo.pysource import read_source
from gte.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
KINDS = {path.stem for path in (ROOT / "conf/source/demo").glob("*.yaml")}

# ---- docstrings ----

NUMPYDOC = '''
Scale the input to unit length.

The norm is taken along *one* axis, see :func:`~alpha.tools.norm` and ``alpha``.
Nothing happens in place [1]_.

Parameters
----------
x : array_like
    The values that are to be scaled, of any shape.
axis, eps : int, optional
    Where to take the norm, and what is added to it.

Returns
-------
scaled : ndarray
    The input divided by its norm along the axis.

See Also
--------
norm : Length of the input along one axis.
:func:`shift`

Notes
-----
A vector of zeros stays one, whatever is added to its norm.

.. versionchanged:: 1.2
    Integer input is converted to floats before it is scaled.

Examples
--------
The rows of a matrix have unit length afterwards:

>>> scale([[3, 4], [6, 8]],
...       axis=1)
array([[0.6, 0.8], [0.6, 0.8]])
'''  # fmt: skip

GOOGLE = """Reads the whole file into memory.

Args:
    path (`str`, *optional*): Where the file is on this machine.
    **options: Passed on to the reader
        as they are.

Returns:
    list: The lines of the file without their ends.

Example:
    ```python
    >>> for line in read("a.txt"):
    ...     print(line.strip())
    ```
"""

SPHINX = """Send one message to the server.

:param str text: what is sent to the server
    in one piece
:param retries: how often to try it again
:type retries: int
:returns: the answer that the server gave
"""


def parsed(doc):
    return docstring.parse(inspect.cleandoc(doc))


def test_summary_and_description_end_at_the_first_heading_and_lose_their_markup():
    doc = parsed(NUMPYDOC)
    assert doc.summary == "Scale the input to unit length."
    said = "The norm is taken along one axis, see norm and alpha. Nothing happens in place."
    assert docstring.prose(doc.body, 500) == said
    assert [s.heading for s in doc.sections] == ["Parameters", "Returns", "See Also", "Notes", "Examples"]
    assert parsed(GOOGLE).summary == "Reads the whole file into memory." and parsed(GOOGLE).body == ""
    assert parsed(SPHINX).summary == "Send one message to the server." and parsed(SPHINX).body == ""
    assert parsed("As in:\n>>> the example of an interactive session that follows").summary == ""
    assert parsed("add(x, y) -> z\n\nAdds two numbers.").summary == "Adds two numbers."


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        (
            NUMPYDOC,
            [
                ("x", "The values that are to be scaled, of any shape."),
                ("axis, eps", "Where to take the norm, and what is added to it."),
            ],
        ),
        (GOOGLE, [("path", "Where the file is on this machine."), ("options", "Passed on to the reader as they are.")]),
        (SPHINX, [("text", "what is sent to the server in one piece"), ("retries", "how often to try it again")]),
    ],
    ids=["numpydoc", "google", "sphinx"],
)
def test_parameters_are_read_from_each_docstring_style(doc, expected):
    doc = inspect.cleandoc(doc)
    assert docstring.parameters(doc, docstring.parse(doc)) == expected


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        (NUMPYDOC, "The input divided by its norm along the axis."),
        (GOOGLE, "The lines of the file without their ends."),
        (SPHINX, "the answer that the server gave"),
        ("Nothing to return.", ""),
    ],
)
def test_results_are_read_from_each_docstring_style(doc, expected):
    doc = inspect.cleandoc(doc)
    assert docstring.returned(doc, docstring.parse(doc)) == expected


def test_examples_have_the_sentence_above_them_and_no_prompts():
    code = "scale([[3, 4], [6, 8]],\n      axis=1)\narray([[0.6, 0.8], [0.6, 0.8]])"
    assert docstring.examples(NUMPYDOC) == [("The rows of a matrix have unit length afterwards:", code)]
    assert docstring.examples(GOOGLE) == [("", 'for line in read("a.txt"):\n    print(line.strip())')]


def test_related_items_and_version_notes_are_read():
    assert docstring.see_also(parsed(NUMPYDOC)) == [(["norm"], "Length of the input along one axis."), (["shift"], "")]
    text = "Integer input is converted to floats before it is scaled."
    assert docstring.version_notes(NUMPYDOC) == [("versionchanged", "1.2", text)]


def test_references_are_roles_links_and_names_in_backticks_but_no_literals():
    text = "As :meth:`C.m`, :class:`~a.b.C`, :func:`this <a.f>`, [`~a.B.go`], `np.dot` and ``x.y``; see :ref:`guide`."
    assert docstring.references(text) == ["C.m", "a.b.C", "a.f", "a.B.go", "np.dot"]
    assert docstring.clean(text) == "As C.m, C, this, a.B.go, np.dot and x.y; see guide."


def test_headings_inside_code_fences_are_no_headings():
    page = "# Title\n\ntext\n\n```bash\n# not a heading\nmake\n```\n\n## Next\nmore"
    assert [s.heading for s in docstring.split_sections(page)] == ["", "Title", "Next"]


# ---- source files ----

SOURCE = '''"""Tools for vectors."""
URL = "http://x/#not a comment, this is a string"

def outer(x, *, strict=False):
    """Check that the vector is finite and return its length."""
    # Infinite values would make every later step fail in an obscure way.
    total = sum(v * v for v in x)
    if not math.isfinite(total):
        raise ValueError(f"the vector has {x.size} values that are not finite: %s" % total)

    # x = old_code(x)
    return total ** 0.5

class Box:
    """Holds things."""
    @property
    def size(self): "One line."; return 1
    def stub(self):
        """Only a docstring, and nothing else in the body."""
        ...
    def _hidden(self):
        """A private method that has some code in its body."""
        text = """
    # This line looks like a comment but it is inside a string.
    never = mined(as_code_below_a_comment)
        """
        return text
'''


def test_code_has_no_docstring_and_stubs_have_no_code():
    items = {item.name: item for item in read_source(SOURCE, "pkg._mod").items}
    assert list(items) == ["pkg._mod", "pkg._mod.outer", "pkg._mod.Box", "pkg._mod.Box.size", "pkg._mod.Box.stub",
                           "pkg._mod.Box._hidden"]  # fmt: skip
    code = items["pkg._mod.outer"].code
    assert code.startswith("def outer(x, *, strict=False):\n    # Infinite") and "Check that" not in code
    assert compile(code, "code", "exec")
    assert items["pkg._mod.Box.size"].code == items["pkg._mod.Box.stub"].code == items["pkg._mod.Box"].code == ""
    assert items["pkg._mod.outer"].public == "pkg.outer" and not items["pkg._mod.outer"].private
    assert items["pkg._mod.Box._hidden"].public == "pkg.Box._hidden" and items["pkg._mod.Box._hidden"].private


def test_comments_pair_with_the_code_below_and_strings_hold_none():
    source = read_source(SOURCE, "pkg")
    expected = (
        "Infinite values would make every later step fail in an obscure way.",
        "total = sum(v * v for v in x)\nif not math.isfinite(total):\n"
        '    raise ValueError(f"the vector has {x.size} values that are not finite: %s" % total)',
    )
    assert list(demo_pairs.comment_code(source)) == [expected]
    assert len(source.comments) == 2  # the other is code that was commented out


def test_error_messages_pair_with_code_that_does_not_hold_them():
    (pair,) = demo_pairs.error_function(read_source(SOURCE, "pkg"))
    assert pair[0] == "the vector has size values that are not finite: ..."
    assert pair[1] == (
        "def outer(x, *, strict=False):\n    total = sum(v * v for v in x)\n"
        "    if not math.isfinite(total):\n        raise ValueError(...)"
    )


def test_docstrings_of_compiled_functions_are_found():
    text = (
        'add_docstr(torch.sin, r"""sin(x) -> Tensor\n\nSine of each element.""")\n'
        'add_newdoc("numpy.linalg", "det", ("det", "Determinant of a matrix."))\n'
        'add_newdoc("jv", """Bessel function.""")'
    )
    items = read_source(text, "scipy.special._docs").items[1:]
    found = {item.public: docstring.parse(item.doc).summary for item in items}
    assert found == {
        "torch.sin": "Sine of each element.",
        "numpy.linalg.det": "Determinant of a matrix.",
        "scipy.special.jv": "Bessel function.",
    }


def test_data_set_descriptions_have_the_title_of_their_paper():
    text = (
        "class T(Base):\n    metadata = TaskMetadata(name='Foo', description='Questions about the weather in Wales.',\n"
        "        bibtex_citation=r'''@misc{a,\n  title = {{Weather} QA},\n  year = {2020},\n}''')\n"
        "class U(Base):\n    metadata = TaskMetadata(name='BarQA', description='Questions on the tides of the sea.')\n"
    )
    assert list(demo_pairs.dataset_description(read_source(text, "m"))) == [
        ("Weather QA", "Questions about the weather in Wales."),
        ("BarQA", "Questions on the tides of the sea."),
    ]


def test_changelog_entries_are_grouped_by_release_verb_and_name():
    text = (
        "# Changelog\n\n## [1.2.0] - 2020-01-01\n\n### Fixed\n\n"
        "- Fixed `fit` when the loader is empty ([#12](https://x/12))\n\n- Fixed `fit` when there is no model at all\n"
        "- Fixed a typo in the documentation\n\n### Removed\n\n- Removed the deprecated `run_all` argument of the "
        "trainer\n"
    )
    assert list(demo_pairs.changelog_entries(text, "alpha")) == [
        ("alpha 1.2.0 fixed fit", "Fixed fit when the loader is empty Fixed fit when there is no model at all"),
        ("alpha 1.2.0 removed run_all", "Removed the deprecated run_all argument of the trainer"),
    ]


# ---- packages ----

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


def read(path: Path) -> list:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pairs(out: Path, kind: str) -> list[tuple[str, str]]:
    return [(row["query"], row["pos"]) for row in read(out / kind / f"{kind}.jsonl.gz")]


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


# ---- what is installed ----


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, demo.mine(out)


def test_pinned_packages_are_those_of_requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {match[1] for line in lines if (match := re.match(r"([\w.-]+)==", line))}
    assert set(demo.PINNED) <= pinned


def test_corpus_has_sixty_thousand_distinct_pairs_of_many_kinds_and_sizes(corpus):
    out, counts = corpus
    assert set(counts) == KINDS and len(counts) >= 6
    distinct = {pair for kind in counts for pair in pairs(out, kind)}
    assert len(distinct) == sum(counts.values()) >= 60_000
    assert max(counts.values()) > 10 * min(counts.values()) and min(counts.values()) >= 500
    assert max(counts.values()) < sum(counts.values()) / 4  # no kind is the corpus
    texts = [text for pair in distinct for text in pair]
    assert max(map(len, texts)) <= demo_pairs.LIMIT and all(text.strip() for text in texts)


def test_every_source_config_reads_every_pair_of_its_kind(corpus):
    out, counts = corpus
    for kind, count in counts.items():
        source = load_source(kind)
        (raw,) = locate(source, out)
        records = list(source.read(raw))
        assert len(records) == count and all(isinstance(record, Pair) for record in records)
        assert [(record.query, record.document) for record in records[:100]] == pairs(out, kind)[:100]
        assert source.estimate and 0.5 < source.pairs / count < 2


def held_out_texts(out: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for path in sorted((out / "eval").rglob("*.jsonl.gz")):
        for row in read(path):
            found[path.parent.name] += [row[name] for name in ("text", "sentence1", "sentence2") if name in row]
    return found


def test_no_held_out_text_occurs_in_a_training_pair(corpus):
    out, counts = corpus
    found = held_out_texts(out)
    assert all(len(texts) > 1000 for texts in found.values()) and len(found) == 6
    held_out = {normalize(text) for texts in found.values() for text in texts}
    long = {text for text in held_out if len(text) >= demo_tasks.CHARACTERS}
    assert len(long) > 5000
    training = {normalize(text) for kind in counts for pair in pairs(out, kind) for text in pair}
    assert len(training) > 100_000
    assert not long & training
    # within longer texts: a sample by plain search, the rest is test_leaks_are_found_...
    everything = "\n".join(f" {text} " for text in sorted(training))
    sample = random.Random(0).sample(sorted(t for t in long if len(t.split()) >= demo_tasks.WORDS), 40)
    assert not [text for text in sample if f" {text} " in everything]
    known = next(text for text in training if len(text.split()) >= 20)
    assert f" {known} " in everything  # the search can find


def test_no_training_pair_names_a_held_out_module_as_its_own(corpus):
    out, _ = corpus
    names = [query for query, _ in pairs(out, "name_summary")]
    assert len(names) > 10_000
    assert not [name for name in names if demo.is_below(name, demo.HELD_OUT)]
    targets = [document.split(":")[0] for _, document in pairs(out, "hyperlink")]
    assert len(targets) > 1_000
    assert not [name for name in targets if demo.is_below(name, demo.HELD_OUT)]


@pytest.mark.parametrize("task", list(demo_tasks.RETRIEVAL))
def test_retrieval_tasks_are_whole_and_of_a_size_for_a_laptop(corpus, task):
    folder = corpus[0] / "eval" / task
    documents, queries = read(folder / "corpus.jsonl.gz"), read(folder / "queries.jsonl.gz")
    assert 1_000 <= len(documents) <= 3_000 and 300 <= len(queries) <= 500
    header, *lines = (folder / "qrels/test.tsv").read_text().splitlines()
    judged = [line.split("\t") for line in lines]
    assert header == "query-id\tcorpus-id\tscore" and {score for *_, score in judged} == {"1"}
    assert {q for q, *_ in judged} == {row["_id"] for row in queries}
    assert {d for _, d, _ in judged} < {row["_id"] for row in documents}
    texts = [normalize(row["text"]) for row in documents]
    assert len(set(texts)) == len(texts)
    asked = [normalize(row["text"]) for row in queries]
    assert len(set(asked)) == len(asked) and not set(asked) & set(texts)


def test_kinds_are_balanced_in_clustering_and_scores_in_relatedness(corpus):
    for task in ("DemoSourceKind", "DemoTopic"):
        labels = Counter(row["label"] for row in read(corpus[0] / "eval" / task / "test.jsonl.gz"))
        assert len(labels) >= 6 and max(labels.values()) <= 3 * min(labels.values())
        modules = {demo_tasks.topic(name) for name in demo.HELD_OUT} - {"hydra-core", "sentence-transformers"}
        modules |= {"hydra", "sentence_transformers"}  # as they are imported
        assert set(labels) <= (KINDS if task == "DemoSourceKind" else modules)
    related = read(corpus[0] / "eval/DemoRelatedness/test.jsonl.gz")
    scores = Counter(row["score"] for row in related)
    assert set(scores) == {0, 1, 2} and min(scores.values()) >= 150 and max(scores.values()) <= 2 * min(scores.values())

    def overlap(row):
        a, b = (set(re.findall(r"\w+", row[name].lower())) for name in ("sentence1", "sentence2"))
        return len(a & b) / len(a | b)

    assert max(map(overlap, related)) <= 1 / 3
    assert len({(row["sentence1"], row["sentence2"]) for row in related}) == len(related)
