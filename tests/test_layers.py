"""The layout's rules: imports go one way, nothing under src/ shadows a dependency."""

import ast
import re
from pathlib import Path

import pytest
from conftest import LONGEST

SRC = Path(__file__).parents[1] / "src"
SCRIPTS = [
    *(f"{name}.py" for name in ("train", "prepare", "mine", "eval", "export", "embed", "search", "bench", "collect")),
    "dashboard.py",
]
PLUGINS = ["hydra_plugins/grids.py", "hydra_plugins/processes.py"]
ALLOWED = {  # which files may import a package
    "hydra": {*SCRIPTS, *PLUGINS, "gte/build.py", "gte/one_line.py", "gte/overrides.py"},
    "omegaconf": {*SCRIPTS, *PLUGINS, "gte/build.py", "gte/one_line.py", "gte/overrides.py"},
    "pytorch_lightning": {
        *(f"gte/training/{name}.py" for name in ("task", "callbacks", "zero", "loggers", "checkpoint", "averaging")),
        *("gte/data/module.py", "gte/evaluation/during.py", "gte/benchmarks/checkpoint.py"),
    },
    "lightning": set(),
    "wandb": {"gte/training/loggers.py"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def ours(path: Path) -> set[str]:
    """The modules of this project that a file imports, each with the name that is taken from it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("gte.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gte":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py"))


@pytest.mark.parametrize("file", FILES)
def test_frameworks_are_imported_only_where_they_belong(file):
    for name in {module.split(".")[0] for module in imports(SRC / file)} & set(ALLOWED):
        assert file in ALLOWED[name], f"{file} imports {name}"


def test_the_rule_really_sees_the_imports():
    assert "pytorch_lightning" in imports(SRC / "gte/training/task.py") and "hydra" in {
        m.split(".")[0] for m in imports(SRC / "gte/build.py")
    }


def test_leaves_import_nothing_of_ours():
    for leaf in ("gte/data/mixture.py", "gte/loss.py"):
        assert not [name for name in imports(SRC / leaf) if name.startswith("gte")]


ROOMS = ["gte", "data", "models", "training", "results", "inference", "evaluation", "demo", "benchmarks", "scripts"]
OF_ANOTHER_ROOM = {"gte/encoder.py": "models", "gte/build.py": "scripts"}  # on top, since they are what one reads first


def room(file: str) -> int:
    """The position of a file's room in the order, the ground first."""
    package, *below = file.split("/")
    name = OF_ANOTHER_ROOM.get(file) or (below[0] if len(below) > 1 else "gte")
    return ROOMS.index(name if package == "gte" else "scripts")


def file_of(module: str) -> str:
    """The file that an import names, which may be of a name in it."""
    parts = module.split(".")
    while not (SRC / "/".join(parts)).with_suffix(".py").exists():
        parts.pop()
    return "/".join(parts) + ".py"


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file):
    for module in ours(SRC / file):
        assert room(file_of(module)) <= room(file), f"{file} imports {module}, which lies above it"


def test_the_order_names_every_room():
    rooms = {path.parent.name for path in (SRC / "gte").glob("*/__init__.py")}
    assert rooms == set(ROOMS[1:-1])


def test_nothing_under_src_is_named_like_a_dependency():
    taken = {"datasets", "evaluate", "tokenizers", "wandb", "torch", "transformers", "hydra", "mteb", "daft"}
    assert not taken & {path.stem for path in SRC.iterdir()}


def test_packages_re_export_nothing():
    for init in SRC.rglob("__init__.py"):
        assert init.read_text() == "", init


TESTS = Path(__file__).parent
OF_A_TEST_FILE = re.compile(r"^\s*(?:from|import)\s+test_\w+", re.MULTILINE)  # in a program that a test writes, too


def test_no_test_takes_anything_from_another_test_file():
    found = [f"{file}: {line}" for file in TESTS.rglob("*.py") for line in OF_A_TEST_FILE.findall(file.read_text())]
    assert not found, f"move what is shared to tests/helpers: {found}"


def test_the_rule_sees_an_import_of_a_test_file():
    assert OF_A_TEST_FILE.search("    from test_train import TINY") and OF_A_TEST_FILE.search("import test_train")
    assert not OF_A_TEST_FILE.search("from logs import rows")


def test_the_longest_files_that_are_begun_first_are_there():
    assert set(LONGEST) <= {path.stem for path in TESTS.rglob("test_*.py")} and len(set(LONGEST)) == len(LONGEST)
