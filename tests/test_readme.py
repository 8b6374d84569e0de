"""Every fenced command of the README and of docs/ is one that exists and composes; links lead somewhere."""

import re
import shlex
import subprocess

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gte.overrides import read_arguments

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)]
COMMANDS = [
    line.split("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()
]


def test_the_readme_is_short_and_has_commands():
    assert len(README.splitlines()) <= 150
    assert len(COMMANDS) > 12 and {command.split()[0] for command in COMMANDS} == {"make", "python"}
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python")])
def test_python_commands_compose(command):
    program, *overrides = [word for word in shlex.split(command)[1:] if word != "-m" and not word.startswith("hydra.")]
    if "-m" in command.split():
        overrides = [word.partition(",")[0] for word in overrides]  # a sweep's first point
    name = re.fullmatch(r"src/(\w+)\.py", program)[1]
    assert (ROOT / program).exists()
    GlobalHydra.instance().clear()
    given = {override.split("=")[0] for override in overrides}
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose(name, overrides=read_arguments(name, overrides))
    assert given  # a command without any setting would check nothing
    for key in given - {
        "stage",
        "model",
        "data",
        "loss",
        "optim",
        "trainer",
        "logger",
        "suite",
        "scale",
        "+experiment",
    }:
        node = cfg
        for part in key.split("."):
            assert part in node, f"{key} is no key of conf/{name}.yaml"
            node = node[part]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert links or page.parent.name == "docs"
    for link in links:
        assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command):
    result = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_make_lists_its_targets():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "test-all", "lint"):
        assert re.search(rf"make {target}\s+\S", listed)


def test_python_blocks_compile():
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_every_choice_in_the_group_table_exists_and_none_is_missing():
    rows = dict(re.findall(r"^\| `(\w+)`(?:, `\w+`)? \| (`.*) \|$", README, re.MULTILINE))
    assert set(rows) >= {"stage", "scale", "model", "data", "loss", "trainer", "logger", "suite"}
    for group, text in rows.items():
        files = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - (
            {"base"} if group == "trainer" else set()
        )
        named = set(re.findall(r"`([\w-]+)`", re.sub(r"\([^)]*\)", "", text)))
        # a loss or model of the user's own turns nothing red
        assert named <= files if group in ("loss", "model") else named == files, group


def test_every_error_line_of_the_troubleshooting_page_is_one_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = [line.split("`")[1] for line in page.splitlines() if re.match(r"\| `\D", line)]
    source = " ".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert len(quoted) > 20
    assert not [words for words in quoted if words not in source]


TEXTS = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "findings/README.md"))]
TEXTS += sorted((ROOT / "experiments").rglob("README.md"))
EXAMPLES = {
    "conf/loss/pairwise.yaml",
    "src/my_package/losses.py",
    "findings/NAME.sh",
}  # files that a reader is told to make
FOLDERS = "src|gte|tests|conf|docs|findings|experiments|notebooks"


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(page):
    text = page.read_text()
    named = set(re.findall(rf"(?<![\w/.~-])((?:{FOLDERS})/[\w./*<>-]*\w)", text)) - EXAMPLES
    files = [name for name in named if not set("<>*") & set(name)]
    missing = [name for name in files if not any((top / name).exists() for top in (ROOT, ROOT / "src", page.parent))]
    assert not missing
    for name in set(re.findall(r"`(gte(?:\.\w+)+)", text)):
        assert is_defined(name.split(".")), f"{page.name}: {name}"


def is_defined(parts: list[str]) -> bool:
    """Whether a dotted name is a module or folder of src/, or a name that a module defines, or a part of one."""
    for length in range(len(parts), 0, -1):
        path = ROOT / "src" / "/".join(parts[:length])
        if path.is_dir():
            return length == len(parts)
        if (module := path.with_suffix(".py")).exists():
            name, text = "".join(parts[length : length + 1]), module.read_text()
            return bool(re.search(rf"^(?:def |class )?{name}\b", text, re.MULTILINE))
    return False


def test_the_check_of_names_really_sees_a_missing_one():
    assert is_defined(["gte", "loss", "improved_contrastive_loss"]) and is_defined(["gte", "data"])
    assert not is_defined(["gte", "loss", "no_such_loss"]) and not is_defined(["gte", "rooms"])
