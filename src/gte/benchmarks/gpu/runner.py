"""Runs the checks: a process and a time limit each, so that one that crashes or hangs loses only itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gte.benchmarks.gpu.catalogue import CHECKS_FOLDER, Check

SOURCE = Path(__file__).resolve().parents[3]
LEAST = 0.5  # of its limit: with less left a check is not begun, most take less than half


def run_checks(
    checks: dict[str, Check],
    setting: str,
    out: Path,
    *,
    budget: float,
    slower: float = 1.0,
    folder: str = CHECKS_FOLDER,
    tell: Callable[[str], None] = print,
) -> dict[str, dict]:
    """Run checks one after the other and keep what each found.

    Args:
        checks: by name, in order.
        setting: of `gte.benchmarks.gpu.setting`, as JSON.
        out: a folder; `log.txt` in it gets the end of what each check wrote to stderr.
        budget: seconds for all of them; a check whose limit is more than twice what is left is named, not run.
        slower: by how much the limits are longer than on a card.
        folder: the package that holds the checks' modules.
        tell: called with each line of the report.
    Returns: for each check its seconds, `rows`, `faults`, `targets`, and `ok`; `skipped` or `left` with the reason
        where it did not run.
    """
    begun, results = time.perf_counter(), {}
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.txt", "w") as log:
        for name, check in checks.items():
            left, limit = budget - (time.perf_counter() - begun), check.seconds * slower
            if left < LEAST * limit:
                results[name] = {"ok": False, "left": f"{max(left, 0):.0f} s of {budget:.0f} were left"}
            else:
                results[name], stderr = run_one(name, f"{folder}.{check.module}", setting, out, min(limit, left))
                log.write(f"=== {name}\n{stderr[-6000:]}\n")
                log.flush()
            for line in describe(name, results[name]):
                tell(line)
    return results


def run_one(name: str, module: str, setting: str, out: Path, limit: float) -> tuple[dict, str]:
    """The findings of one check, and what it wrote to stderr."""
    file = out / f"{name}.json"
    file.unlink(missing_ok=True)
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": f"{SOURCE}{os.pathsep}{before}" if before else str(SOURCE),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "gte.benchmarks.gpu.child", name, module, setting, str(file)]
    start = time.perf_counter()
    # a session of its own: at its limit a check ends with all that it started
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    end = None
    try:
        _, stderr = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end = f"ended at its limit of {limit:.0f} s"
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    if end:
        os.killpg(child.pid, signal.SIGKILL)
        _, stderr = child.communicate()
    found = json.loads(file.read_text()) if file.exists() else {"rows": {}, "faults": [], "targets": {}}
    file.unlink(missing_ok=True)
    if not found.pop("done", False):
        last = [line for line in stderr.splitlines() if line.strip()][-1:]
        found["faults"].append(end or f"crashed, exit {child.returncode}: {''.join(last)[:300]}")
    return {"ok": not found["faults"], "seconds": round(time.perf_counter() - start, 1), **found}, stderr


def describe(name: str, result: dict) -> list[str]:
    """The lines that tell a user what one check found."""
    if "left" in result:
        return [f"left     {name}: {result['left']}; run it by CHECKS={name}"]
    if "skipped" in result:
        return [f"skipped  {name}: {result['skipped']}"]
    lines = [f"{'ok      ' if result['ok'] else 'FAILED  '} {name}  {result['seconds']:.0f} s"]
    lines += [f"           {label}: {numbers_of(row)}" for label, row in result["rows"].items()]
    for target, found in result["targets"].items():
        met = "met" if found["met"] else "MISSED"
        lines.append(f"           target {target}: {found['goal']}, measured {found['measured']:.4g}, {met}")
    return lines + [f"           fault: {line}" for line in result["faults"]]


def numbers_of(row: dict) -> str:
    """A row in one line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )
