"""make: what is missing is said before anything is made, and nothing of the user's goes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def make(tmp_path):
    """Runs make with the project's Makefile in an empty folder; gives exit code and what was said."""
    shutil.copy(ROOT / "Makefile", tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        plain = {
            key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "DATA", "NAME")
        }
        done = subprocess.run(["make", *arguments], cwd=tmp_path, env=plain, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["speedrun", "DATA=/nowhere"], "error: DATA=/nowhere must hold pairs/*.jsonl.gz and eval/"),
        (["ablation"], "error: NAME= is missing"),
        (["collect"], "error: NAME= is missing"),
    ],
)
def test_a_target_says_what_it_lacks_before_it_installs_anything(make, tmp_path, arguments, line):
    code, said = make(*arguments)
    assert code != 0 and line in said
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


def test_an_environment_that_could_not_be_made_is_made_anew_the_next_time(make, tmp_path):
    (tmp_path / "requirements.txt").touch()
    broken = tmp_path / "python"  # as Debian's without its package of venv: bin/python is there, pip is not
    broken.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin && touch .venv/bin/python && exit 1\n')
    broken.chmod(0o755)
    for _ in range(2):
        code, said = make("demo", f"PYTHON={broken}")
        assert code != 0 and "-m venv" in said and not (tmp_path / ".venv").exists()


def test_clean_keeps_raw_files_but_those_that_the_demo_makes_again(make, tmp_path):
    for name in ("raw/clueweb/a.warc.gz", "raw/demo/a.jsonl.gz", "demo/manifest.json"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "runs").mkdir()
    assert make("clean")[0] == 0
    assert [path.relative_to(tmp_path) for path in (tmp_path / "data").rglob("*.*")] == [
        Path("data/raw/clueweb/a.warc.gz")
    ]
    assert not (tmp_path / "runs").exists()
    shutil.rmtree(tmp_path / "data")
    assert make("clean")[0] == 0
