"""Docstrings and source files read as text: what each kind of pair is made of."""

import inspect

import pytest
from demo_corpus import NUMPYDOC

from gte.demo import docstring
from gte.demo import pairs as demo_pairs
from gte.demo.pysource import read_source

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
