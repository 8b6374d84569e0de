"""The code that a function's results depend on: what a finished step of a preparation is recognised by.

Followed from the function through the names that it uses, statement by statement and from module to module, imports
within functions included. Comments, docstrings and layout are no part of it, nor is what no such name leads to, nor
imports for types alone, nor in which of the modules a statement stands.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

SRC = Path(__file__).resolve().parents[2]
PACKAGE = "gte"
# what the user is told, whether a hub answers, how a file is copied whose commit and size are known, how many tasks run
# at a time: in no result
HUB = ("gte.hub", "gte.data.hub_client", "gte.data.hub_download", "gte.data.hub_files")
TALK = ("gte.errors", "gte.ticker", *HUB, "gte.data.slots", "gte.cores")

Name = tuple[str, str | None]  # a module and a name in it; None: all of the module


@dataclass
class Module:
    """A module's statements: the code of each, the names that it uses, and which of them make which name."""

    code: list[str] = field(default_factory=list)
    uses: list[set[Name | str]] = field(default_factory=list)  # a str is a name of the module itself
    makes: dict[str, list[int]] = field(default_factory=dict)
    imports: dict[str, Name] = field(default_factory=dict)
    always: list[int] = field(default_factory=list)  # what makes no name: it acts when the module is imported


def code_of(entries: Iterable[str], src: Path | None = None) -> dict[str, str]:
    """A digest of the code of each module that the results of these functions depend on, by the module's name.

    entries: "module:function" each. src: the folder that holds the package.
    """
    return {name: digest("\n".join(statements)) for name, statements in sorted(statements_of(entries, src).items())}


def code(*entries: str, src: Path | None = None) -> str:
    """One digest of all code that the results of these functions depend on, the same in whichever modules it stands."""
    return digest(json.dumps(sorted(chain.from_iterable(statements_of(entries, src).values()))))


def digest(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def statements_of(entries: Iterable[str], src: Path | None = None) -> dict[str, list[str]]:
    """The code of the statements that the results of these functions depend on, in order, by their module's name."""
    src, held, waiting = src or SRC, {}, [tuple(entry.split(":")) for entry in entries]
    while waiting:
        name, wanted = waiting.pop()
        if name in TALK or name.split(".")[0] != PACKAGE:
            continue
        module = read_module(src, name)
        wanted, _, attribute = (wanted or "").partition(".")
        if wanted and wanted not in module.makes:
            owner, inner = module.imports.get(wanted, (f"{name}.{wanted}", None))
            if inner is None or is_module(src, f"{owner}.{inner}"):  # a module, of which one name is used, or any
                owner, inner = owner if inner is None else f"{owner}.{inner}", attribute or None
            if is_module(src, owner):
                waiting.append((owner, inner))
            continue
        numbers = module.makes[wanted] + module.always if wanted else range(len(module.code))
        for number in set(numbers) - held.setdefault(name, set()):
            held[name].add(number)
            waiting += [(name, use) if isinstance(use, str) else use for use in module.uses[number]]
    found = {}
    for name, numbers in held.items():
        found[name] = [read_module(src, name).code[number] for number in sorted(numbers)]
    return found


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The modules whose code is another one now, those that came or went included."""
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def module_file(src: Path, name: str) -> Path:
    """Where a module's code is."""
    path = src.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def is_module(src: Path, name: str) -> bool:
    """Whether there is such a module."""
    return module_file(src, name).is_file()


@cache
def read_module(src: Path, name: str) -> Module:
    """A module's statements, read once."""
    tree = ast.parse(module_file(src, name).read_bytes())
    drop_docstrings(tree)
    module = Module()
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            module.imports |= imported(statement)
            continue
        if isinstance(statement, ast.If) and getattr(statement.test, "id", "") == "TYPE_CHECKING":
            continue
        made, used = names_of(statement)
        number = len(module.code)
        module.code.append(ast.dump(statement))
        module.uses.append(used)
        for one in made:
            module.makes.setdefault(one, []).append(number)
        if not made or isinstance(statement, ast.For | ast.While | ast.With | ast.If | ast.Try):
            module.always.append(number)
    return module


def names_of(statement: ast.stmt) -> tuple[set[str], set[Name | str]]:
    """The names that a statement of a module makes, and those that it uses; "a.b" for an attribute of a name."""
    made, used, owners = set(), set(), set()
    is_definition = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    if is_definition:
        made.add(statement.name)
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            used |= set(imported(node).values())
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owners.add(node.value)
            used.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node not in owners:
            used.add(node.id)  # walked after the attribute that owns it
        elif isinstance(node, ast.Name) and not is_definition:
            made.add(node.id)
    return made, used


def imported(statement: ast.Import | ast.ImportFrom) -> dict[str, Name]:
    """Map each name that an import statement binds to its origin."""
    if isinstance(statement, ast.Import):
        return {alias.asname or alias.name: (alias.name, None) for alias in statement.names}
    return {alias.asname or alias.name: (statement.module or "", alias.name) for alias in statement.names}


def drop_docstrings(tree: ast.AST) -> None:
    """Takes the docstrings out of a syntax tree."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and is_text(body[0].value):
            body[0] = ast.Pass()


def is_text(node: ast.AST) -> bool:
    """Whether an expression is a literal string."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
