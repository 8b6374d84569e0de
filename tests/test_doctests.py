"""The examples in docstrings run, and public names say what they do."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
MODULES = {path: ".".join(path.relative_to(SRC).with_suffix("").parts) for path in sorted(SRC.rglob("gte/**/*.py"))}
PARSER = doctest.DocTestParser()


def public_definitions(path: Path) -> list[tuple[str, ast.AST]]:
    """(name, node) of the functions and classes of a file that have no underscore, methods too."""
    found = []

    def walk(node: ast.AST, above: str) -> None:
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and child.name[0] != "_":
                found.append((above + child.name, child))
                if isinstance(child, ast.ClassDef):
                    walk(child, f"{above}{child.name}.")

    walk(ast.parse(path.read_text()), "")
    return found


def has_examples(path: Path) -> bool:
    """Whether a docstring of the file holds an example; '>>>' in other texts is none."""
    text = path.read_text()
    if ">>>" not in text:
        return False
    docstrings = [ast.get_docstring(node) or "" for _, node in public_definitions(path)]
    return any(PARSER.get_examples(docstring) for docstring in docstrings)


WITH_EXAMPLES = [name for path, name in MODULES.items() if has_examples(path)]


def find(name: str) -> list[doctest.DocTest]:
    """The docstrings of a module that hold examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [found for found in finder.find(importlib.import_module(name)) if found.examples]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_docstrings_give_what_they_show(name):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    for example in find(name):
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)  # doctest's report names file, line and docstring


def test_what_users_import_has_examples():
    assert sum(len(find(name)) for name in WITH_EXAMPLES) >= 45
