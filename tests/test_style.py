"""The code's bounds: files and functions that fit in the head, expressions that need no decoding."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = {path.relative_to(SRC).as_posix(): path.read_text() for path in sorted(SRC.rglob("*.py"))}
FILE_LINES, FUNCTION_LINES = 400, 60
WHOLE = {"gte/loss.py": "one file that imports nothing of ours, so that it can be read, and taken away, by itself"}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def long_functions(source: str) -> Iterator[str]:
    """Functions of more lines than one sees at once, signature and docstring counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.name}: {lines} lines"


def riddles(source: str) -> Iterator[str]:
    """Choices within choices, and comprehensions of three loops."""
    for node in ast.walk(ast.parse(source)):
        choices = [part for part in ast.walk(node) if isinstance(part, ast.IfExp)]
        if isinstance(node, ast.IfExp) and len(choices) > 1:
            yield f"line {node.lineno}: a conditional expression within another; write an if"
        if isinstance(node, COMPREHENSIONS) and len(node.generators) > 2:
            yield f"line {node.lineno}: a comprehension of three loops; write loops"


@pytest.mark.parametrize("file", FILES)
def test_files_and_functions_are_short_and_expressions_simple(file):
    assert len(FILES[file].splitlines()) <= FILE_LINES or file in WHOLE, f"cut {file} by purpose"
    assert [*long_functions(FILES[file]), *riddles(FILES[file])] == []


def test_no_file_is_excepted_that_is_short():
    assert all(len(FILES[file].splitlines()) > FILE_LINES and reason for file, reason in WHOLE.items())


def test_the_bounds_really_see_what_is_beyond():
    body = "    x = 1\n" * FUNCTION_LINES
    assert [*long_functions(f"def f():\n{body}")] == ["f: 61 lines"] and not [*long_functions(f"def f():\n{body[10:]}")]
    assert len([*riddles("a if b else c if d else e\n[x for y in z for u in y for x in u]\na if b else c")]) == 2
