"""requirements*.txt and requirements.lock agree: what LOCKED=1 installs are the pinned packages, each with hashes."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(r"^(\S+)==(\S+?)( ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
ENTRIES = [(name, version, (marker or "").removeprefix(" ; ")) for name, version, marker, _ in ENTRY.findall(LOCK)]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def pinned(file: str) -> dict[str, str]:
    """The version of each package that a requirements file pins, those of the files that it reads too."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        line = line.partition(" #")[0].strip()
        if line.startswith("-r "):
            found |= pinned(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            (one,) = requirement.specifier
            assert one.operator == "==", line
            found[canonicalize_name(requirement.name)] = one.version
    return found


def locked(python: str) -> dict[str, str]:
    """The version of each package that the lock has for a Python on Linux."""
    where = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    where |= {"platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
    where |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    chosen = [(name, version) for name, version, marker in ENTRIES if not marker or Marker(marker).evaluate(where)]
    assert len(dict(chosen)) == len(chosen), "two versions of one package"
    return dict(chosen)


def test_every_line_of_the_lock_is_a_package_with_hashes():
    rest = ENTRY.sub("", LOCK)
    assert len(ENTRIES) > 150
    assert all(line.startswith("#") or not line for line in rest.splitlines()), rest


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_the_pins_of_the_requirements(python):
    """torch alone is pinned by requirements.txt without a hash: machines have a CPU or a CUDA build of it."""
    pins = pinned("requirements-test.txt")
    assert pins["torch"] and len(pins) > 40
    assert {name: locked(python).get(name) for name in pins if name != "torch"} == {
        name: version for name, version in pins.items() if name != "torch"
    }
    assert not [
        name for name in locked(python) if re.match(r"(torch|triton|nvidia-|cuda-)", name) and name != "torchmetrics"
    ]


def commands(folder: Path, *arguments: str) -> str:
    """What make would run in a copy whose packages were installed without the lock."""
    for file in [*ROOT.glob("requirements*"), ROOT / "Makefile"]:
        shutil.copyfile(file, folder / file.name)
    for name in ("bin/python", "run.installed", "test.installed", "notebooks.installed"):
        (folder / ".venv" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / ".venv" / name).touch()
    return subprocess.run(["make", "-n", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", ["demo", "test", "collect", "lint"])
def test_locked_installs_by_hashes_where_packages_were_installed_without_too(tmp_path, target):
    assert "pip install" not in commands(tmp_path, target)
    installs = [line for line in commands(tmp_path, target, "LOCKED=1").splitlines() if "pip install" in line]
    torch, lock = installs
    assert torch.endswith(f" torch=={pinned('requirements.txt')['torch']}")
    assert lock.endswith("--no-deps --require-hashes -r requirements.lock")


def test_requirements_files_agree_on_each_version():
    versions: dict[str, set[str]] = {}
    for file in ROOT.glob("requirements*.txt"):
        for name, version in pinned(file.name).items():
            versions.setdefault(name, set()).add(version)
    assert len(versions) > 50 and not {name: found for name, found in versions.items() if len(found) > 1}


def test_the_supported_pythons_are_the_same_everywhere():
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    first, last = re.fullmatch(r">=(3\.\d+),<(3\.\d+)", requires).groups()
    assert (first, Version(last).minor) == (PYTHONS[0], Version(PYTHONS[-1]).minor + 1)
    makefile, readme = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    assert "(3, 11) <= v <= (3, 14)" in makefile and f"Python {PYTHONS[0]}-{PYTHONS[-1]}" in readme
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert str(PYTHONS).replace("'", '"') in workflow


def test_the_workflow_and_the_script_of_ci_run_the_command_of_the_readme():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and line[0] not in "#!"]
    assert commands[-1] == "make test" and "make test" in (ROOT / "README.md").read_text()
    assert "push" in workflow[True] and "pull_request" in workflow[True]  # YAML 1.1 reads `on` as true
