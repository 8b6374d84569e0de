"""What a Python source file holds, read with `ast` and never imported: documented items, comments, error messages."""

import ast
import inspect
import re
import textwrap
import warnings
from dataclasses import dataclass, field

TRIVIAL = (ast.Pass, ast.Raise, ast.Global, ast.Nonlocal)
# Strings come first, so that a # inside one is not taken for a comment.
LEX = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|(#[^\n]*)')


@dataclass(slots=True)
class Item:
    """A module, class or function. `name` is dotted and starts with `module`; `code` has no docstring, is dedented,
    and is empty where nothing but the docstring would be left (and for modules and classes)."""

    kind: str
    module: str
    name: str
    doc: str
    code: str = ""
    local: bool = False
    members: list["Item"] = field(default_factory=list)

    @property
    def inner(self) -> str:
        """The name within its module; empty for the module."""
        return self.name[len(self.module) + 1 :]

    @property
    def public(self) -> str:
        """The name without private modules: sklearn.cluster._kmeans.KMeans is known as sklearn.cluster.KMeans."""
        parts = self.module.split(".")
        return ".".join([p for p in parts if not p.startswith("_")] or parts) + (f".{self.inner}" if self.inner else "")

    @property
    def private(self) -> bool:
        """True inside functions, and where the item or a class around it starts with an underscore."""
        return self.local or any(part.startswith("_") for part in self.inner.split("."))


@dataclass(slots=True)
class Source:
    """Items in the order of the file (the module first); `comments` (comment, code below it); `errors` (message, code
    around its `raise`, without the message); `metadata` the literal keyword arguments of TaskMetadata(...) calls;
    `strings` the module-level dict of strings, if there is one."""

    items: list[Item]
    comments: list[tuple[str, str]]
    errors: list[tuple[str, str]]
    metadata: list[dict[str, str]]
    strings: dict[str, str]


def read_source(text: str, module: str) -> Source:
    """Raises SyntaxError (or ValueError, for null bytes) where this Python cannot parse the text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(text)
    lines = text.split("\n")
    root = Item("module", module, module, ast.get_docstring(tree) or "")
    found = Source([root], [], [], [], {})
    _visit(tree.body, root, None, lines, found)
    found.comments = list(_comments(text, lines))
    return found


def _visit(body: list[ast.stmt], parent: Item, function: ast.AST | None, lines: list[str], found: Source) -> None:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            is_class = isinstance(node, ast.ClassDef)
            item = Item("class" if is_class else "function", parent.module, f"{parent.name}.{node.name}", "")
            item.local = parent.local or parent.kind == "function"
            item.doc = ast.get_docstring(node) or ""
            if item.doc:
                item.code = "" if is_class else _code(node, lines)
                found.items.append(item)
            parent.members.append(item)
            _visit(node.body, item, None if is_class else node, lines, found)
            if is_class and not item.doc and any(m.doc for m in item.members):
                found.items.append(item)
        elif isinstance(node, ast.Raise):
            if function is not None and (message := _message(node.exc)):
                found.errors.append((message, _around(node, function, lines)))
        elif isinstance(node, ast.Assign):
            _assignment(node, function, found)
        elif isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Call):
                _added_docstring(node.value, parent, found)
        else:
            for name in ("body", "orelse", "finalbody"):
                if inner := getattr(node, name, None):
                    _visit(inner, parent, function, lines, found)
            for branch in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                _visit(branch.body, parent, function, lines, found)


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    docstring, *rest = node.body
    if docstring.lineno == node.lineno or all(isinstance(s, TRIVIAL) or _is_constant(s) for s in rest):
        return ""
    kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    decorators = [lines[i] for d in node.decorator_list for i in range(d.lineno - 1, d.end_lineno)]
    return textwrap.dedent("\n".join(decorators + [line.rstrip() for line in kept if line.strip()]))


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _text(node: ast.expr | None) -> str:
    """The string an expression spells; parts only known at run time become the last name in them, or three dots."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(v) if isinstance(v, ast.Constant) else _last_name(v.value) for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return re.sub(r"%(\(\w+\))?[-+ #0-9.]*[a-zA-Z]", "...", _text(node.left))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or "...") + (_text(node.right) or "...")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return re.sub(r"\{[^{}]*\}", "...", _text(node.func.value))
    return ""


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else "..."


def _message(node: ast.expr | None) -> str:
    return " ".join(_text(node.args[0]).split()) if isinstance(node, ast.Call) and node.args else ""


def _around(node: ast.Raise, function: ast.AST, lines: list[str]) -> str:
    """The function's head, up to 12 lines above the `raise`, and the `raise` with its message taken out."""
    inside = function.body[1:] if _is_constant(function.body[0]) else function.body
    start, head_end = inside[0].lineno - 1, function.body[0].lineno - 1
    above = lines[max(start, node.lineno - 13) : node.lineno - 1]
    raised = f"{' ' * node.col_offset}raise {_last_name(node.exc.func)}(...)"
    head = lines[function.lineno - 1 : head_end]
    kept = [line.rstrip() for line in [*head, *above, raised] if line.strip() and not line.lstrip().startswith("#")]
    return textwrap.dedent("\n".join(kept))


def _assignment(node: ast.Assign, function: ast.AST | None, found: Source) -> None:
    value = node.value
    if function is not None:
        return
    if isinstance(value, ast.Call) and _last_name(value.func) == "TaskMetadata":
        texts = {k.arg: k.value.value for k in value.keywords if k.arg and isinstance(k.value, ast.Constant)}
        found.metadata.append({k: v for k, v in texts.items() if isinstance(v, str)})
    elif isinstance(value, ast.Dict) and value.keys and not found.strings:
        pairs = list(zip(value.keys, value.values, strict=True))
        if all(isinstance(k, ast.Constant) and isinstance(k.value, str) for k, _ in pairs):
            found.strings = {k.value: _text(v) for k, v in pairs if _text(v)}


def _added_docstring(call: ast.Call, parent: Item, found: Source) -> None:
    """Docstrings of compiled functions: add_docstr(torch.abs, "..."), add_newdoc("numpy.linalg", "det", "...")."""
    name = _last_name(call.func)
    if not name.startswith(("add_docstr", "add_newdoc")) or len(call.args) < 2:
        return
    first, *others = call.args
    if isinstance(first, ast.Constant):
        dotted = ".".join([str(first.value), *(_text(a) for a in others[:-1])]) if len(others) > 1 else str(first.value)
        dotted = f"torch.Tensor.{dotted}" if name == "add_docstr_all" else dotted
    else:
        dotted = ast.unparse(first)
    last = others[-1]
    last = last.elts[1] if isinstance(last, ast.Tuple) and len(last.elts) == 2 else last
    doc = inspect.cleandoc(_text(last))
    dotted = dotted if "." in dotted else f"{parent.module.rpartition('.')[0]}.{dotted}"
    if doc and re.fullmatch(r"\w+(\.\w+)+", dotted):
        found.items.append(Item("function", dotted.rpartition(".")[0], dotted, doc))


def _comments(text: str, lines: list[str]):
    """(comment, code below it): a block of own-line comments and the lines under it up to a blank line or a dedent."""
    marked: dict[int, int] = {}
    row = counted = 0
    for match in LEX.finditer(text):
        if match[1]:
            column = match.start() - text.rfind("\n", 0, match.start()) - 1
            row += text.count("\n", counted, match.start())
            counted = match.start()
            if not lines[row][:column].strip():
                marked[row] = column
    for row, column in marked.items():
        if marked.get(row - 1) == column:
            continue
        end = row
        block = []
        while marked.get(end) == column:
            block.append(lines[end].strip().lstrip("#").strip())
            end += 1
        code = []
        while end < len(lines) and len(code) < 12:
            line = lines[end]
            if end in marked or not line.strip() or len(line) - len(line.lstrip()) < column:
                break
            code.append(line.rstrip())
            end += 1
        if code:
            yield " ".join(" ".join(block).split()), textwrap.dedent("\n".join(code))
