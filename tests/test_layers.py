"""The layout's rules: imports go one way, nothing under src/ shadows a dependency."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
SCRIPTS = [
    *(f"{name}.py" for name in ("train", "prepare", "mine", "eval", "export", "embed", "search", "bench", "collect")),
    "dashboard.py",
]
PLUGINS = ["hydra_plugins/grids.py", "hydra_plugins/processes.py"]
ALLOWED = {  # which files may import a package
    "hydra": {*SCRIPTS, *PLUGINS, "gte/build.py", "gte/overrides.py"},
    "omegaconf": {*SCRIPTS, *PLUGINS, "gte/build.py", "gte/overrides.py"},
    "pytorch_lightning": {
        *(
            "gte/training/task.py",
            "gte/data/module.py",
            "gte/training/callbacks.py",
            "gte/training/zero.py",
            "gte/evaluation/during.py",
        ),
        *(
            "gte/training/loggers.py",
            "gte/training/checkpoint.py",
            "gte/training/averaging.py",
            "gte/benchmarks/checkpoint.py",
        ),
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


def test_leaves_do_not_reach_up():
    upper = {"gte.build", "gte.training.task", "gte.training.callbacks", "gte.data.module"}
    for file in FILES:
        if file not in ("gte/build.py", *PLUGINS) and "/" in file:
            assert not imports(SRC / file) & upper - {"gte.data.module"} or file == "gte/build.py", file


def test_nothing_under_src_is_named_like_a_dependency():
    taken = {"datasets", "evaluate", "tokenizers", "wandb", "torch", "transformers", "hydra", "mteb", "daft"}
    assert not taken & {path.stem for path in SRC.iterdir()}


def test_packages_re_export_nothing():
    for init in SRC.rglob("__init__.py"):
        assert init.read_text() == "", init
