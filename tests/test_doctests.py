"""The examples in docstrings run, and public names say what they do."""

import ast
import contextlib
import doctest
import importlib
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
MODULES = {path: ".".join(path.relative_to(SRC).with_suffix("").parts) for path in sorted(SRC.rglob("gte/**/*.py"))}
PARSER = doctest.DocTestParser()


QUESTION = re.compile(r"(What|Which|Of|How)\b")  # a docstring says what its function does, not a clause about it


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


@pytest.fixture(scope="module", autouse=True)
def deepspeed_has_spoken():
    """transformers imports DeepSpeed, where it is installed, to save a model; it then prints a line, no example's."""
    with contextlib.suppress(ImportError):
        importlib.import_module("deepspeed")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_docstrings_give_what_they_show(name):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    for example in find(name):
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)  # doctest's report names file, line and docstring


def test_what_users_import_has_examples():
    assert sum(len(find(name)) for name in WITH_EXAMPLES) >= 45


@pytest.mark.parametrize("path", MODULES, ids=MODULES.values())
def test_docstrings_begin_with_what_a_function_does(path):
    asking = {name for name, node in public_definitions(path) if QUESTION.match(ast.get_docstring(node) or "")}
    assert not asking


def test_the_rule_really_sees_a_question(tmp_path):
    file = tmp_path / "module.py"
    file.write_text('class A:\n    def b(self):\n        """What it is."""\n')
    (_, (name, node)) = public_definitions(file)
    assert name == "A.b" and QUESTION.match(ast.get_docstring(node))
