"""`pip install .`: the library and the scripts from anywhere, with the configuration they need."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_script_is_a_console_script_of_the_package():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {f"gte-{path.stem}" for path in (ROOT / "src").glob("*.py")}
    for name, target in scripts.items():
        module, function = target.split(":")
        script = ROOT / "src" / f"{module.removeprefix('gte.scripts.')}.py"
        assert f"gte-{script.stem}" == name and f"def {function}(" in script.read_text()


@pytest.mark.slow
def test_an_installed_package_works_away_from_the_checkout(tmp_path):
    target, checkout = tmp_path / "site", tmp_path / "checkout"  # building writes into the folder that it builds
    subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(checkout)], check=True)
    checkout.rename(tmp_path / "gone")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    where = run(sys.executable, "-c", "import gte.loss as l; l.improved_contrastive_loss; print(l.__file__)")
    assert where.strip() == str(target / "gte" / "loss.py")
    helped = run(sys.executable, str(target / "bin" / "gte-train"), "--help")
    assert "Train an encoder for one stage, pre-training or fine-tuning." in helped
    composed = run(sys.executable, str(target / "bin" / "gte-train"), "--cfg", "job", "model=tiny", "data=demo")
    assert "hidden_size: 128" in composed
    unknown = run(sys.executable, str(target / "bin" / "gte-prepare"), "data=pretrain", "data.sources=[gooak]")
    assert "did you mean gooaq" in unknown
    searched = run(sys.executable, str(target / "bin" / "gte-search"), "folder=gone_too", "query=what, and (why)?")
    assert "folder=gone_too is no folder" in searched
