"""The project's own tests that a machine without CUDA skips."""

import subprocess
import sys
from pathlib import Path

from gte.benchmarks.gpu.findings import Findings, Skipped
from gte.benchmarks.gpu.setting import Setting

TESTS = Path(__file__).resolve().parents[5] / "tests"
NEEDS = "not torch.cuda.is_available()"  # of a file with a test that is skipped without CUDA


def tests(findings: Findings, setting: Setting) -> None:
    files = [str(file) for file in sorted(TESTS.rglob("test_*.py")) if NEEDS in file.read_text()]
    if not files:
        raise Skipped(f"needs tests that ask for CUDA; {TESTS} has none")
    given = [sys.executable, "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", *files]
    done = subprocess.run(given, capture_output=True, text=True, cwd=TESTS.parent)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    findings.row("pytest", files=len(files), said=last[0])
    if done.returncode:
        findings.fault(f"pytest: {last[0]}; {done.stdout[-400:]}")
