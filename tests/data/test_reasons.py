"""Rejections are told by members of one enumeration, and by no sentence that is written or compared anywhere else."""

import ast
import json
import pickle
import string
from pathlib import Path

import pyarrow as pa
import pytest

from gte.data.reasons import ENDS, FILTERED, Reason, Stated, is_fault, kind_of
from gte.data.records import Rejected

SRC = Path(__file__).parents[2] / "src" / "gte"
TREES = {path.relative_to(SRC).as_posix(): ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}
CALLS = ("Rejected", "Unfit", "Unreadable")


def is_sentence(node: ast.AST) -> bool:
    """Whether an expression is a text that is written out: a literal, an f-string, or a choice that may be one."""
    if isinstance(node, ast.IfExp):
        return is_sentence(node.body) or is_sentence(node.orelse)
    if isinstance(node, ast.BinOp):
        return is_sentence(node.left) or is_sentence(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def is_reason(node: ast.AST) -> bool:
    """Whether an expression is a `.reason`, or a variable of that name."""
    return "reason" in (getattr(node, "attr", ""), getattr(node, "id", ""))


def written_out(tree: ast.AST) -> list[int]:
    """The lines that make a rejection of a sentence of their own."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    named = [node for node in calls if getattr(node.func, "id", "") in CALLS]
    return [node.lineno for node in named if is_sentence(node.args[0])]


def steered_by(tree: ast.AST) -> list[int]:
    """The lines that ask of a reason whether it is, or begins with, a sentence."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_reason, sides)) and any(map(is_sentence, sides)):
                lines.append(node.lineno)
        called = getattr(node, "func", None)
        if getattr(called, "attr", "") in ("startswith", "endswith") and is_reason(called.value):
            lines += [node.lineno] * any(map(is_sentence, node.args))
    return lines


def test_no_module_that_knows_the_reasons_writes_one_of_its_own():
    knowing = {
        name: tree
        for name, tree in TREES.items()
        if any(isinstance(node, ast.ImportFrom) and node.module == "gte.data.reasons" for node in tree.body)
    }
    assert len(knowing) > 25
    assert {name: lines for name, tree in knowing.items() if (lines := written_out(tree))} == {}


def test_no_sentence_steers_the_program():
    assert {name: lines for name, tree in TREES.items() if (lines := steered_by(tree))} == {}


def test_the_rules_really_see_sentences():
    made = ast.parse('yield_(Rejected("a", 1), Unfit(X if y else f"b {c}"), Rejected(Reason.EMPTY, 1))')
    asked = ast.parse('a.reason == "b"\nreason.startswith("c")\na.reason is Reason.EMPTY\nreason.startswith(FILTERED)')
    assert written_out(made) == [1, 1] and steered_by(asked) == [1, 2]


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_its_sentence_in_tables_manifests_and_messages(reason):
    parts = [part for _, part, _, _ in string.Formatter().parse(reason.value) if part is not None]
    said = reason.of(*[7] * len(parts)) if parts else reason
    assert kind_of(said) is kind_of(pickle.loads(pickle.dumps(said))) is reason
    assert json.loads(json.dumps({said: [said]})) == {str(said): [str(said)]} and "{" not in said
    assert pa.array([said], pa.string()).to_pylist() == [f"{said}"] and type(f"{said}") is str
    assert Rejected(said, 1) == Rejected(str(said), 1) and repr(said) == repr(str(said))
    assert is_fault(said) is not reason.value.startswith(FILTERED)


def test_a_sentence_of_ones_own_has_no_kind_and_the_ends_of_files_are_faults():
    assert kind_of("no arrow") is None and is_fault("no arrow")
    assert all(is_fault(reason) and not isinstance(reason, Stated) for reason in ENDS)
