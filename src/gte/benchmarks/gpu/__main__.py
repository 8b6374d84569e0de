"""Check this machine's CUDA card: `make gpu`, or `python -m gte.benchmarks.gpu` with the options below."""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from gte.benchmarks.gpu.card import main as look_for_card
from gte.benchmarks.gpu.catalogue import CHECKS
from gte.benchmarks.gpu.runner import run_checks
from gte.errors import say

BUDGET = 525  # seconds, so that all of it ends within nine minutes


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gte.benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", help="names of checks, by comma")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all of them (%(default)s)")
    parser.add_argument("--cpu", action="store_true", help="a dry run on the CPU with small sizes: does all of it run?")
    parser.add_argument("--pack", default=".gpu", help="folder with data, minilm and eval (%(default)s)")
    parser.add_argument("--out", default=os.environ.get("OUT") or "gpu_out", help="for results.json, table.md, log.txt")
    parser.add_argument("--list", action="store_true", help="name the checks and their time limits")
    parser.add_argument("--table", metavar="RESULTS", help="write a results.json, brought from a card, into the README")
    chosen = parser.parse_args(given)
    unknown = set((chosen.only or "").split(",")) - set(CHECKS) - {""}
    if unknown:
        parser.error(f"no check is named {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    return chosen


def main(given: list[str] | None = None) -> int:
    """Run the checks and write what they found.

    Returns: 0 if each of them ran and found no fault, 1 if not, 2 where there is no card.
    """
    chosen = arguments(given)
    if chosen.list:
        for name, check in CHECKS.items():
            print(f"{name:14s} {check.seconds:4d} s  {check.says}")
        return 0
    if chosen.table:
        from gte.benchmarks.gpu.table import into_readme

        into_readme(json.loads(Path(chosen.table).read_text()))
        return 0
    if not chosen.cpu and (code := look_for_card()):
        return code

    import torch  # late: it takes seconds that the lines above need not wait for

    from gte.benchmarks.gpu.setting import Setting
    from gte.benchmarks.gpu.table import into_readme, markdown

    if not chosen.cpu and not torch.cuda.is_available():
        print(
            f"error: this machine has a CUDA device, but torch {torch.__version__} does not reach it; install a torch "
            "for its driver (nvidia-smi names the CUDA version)",
            file=sys.stderr,
        )
        return 2
    names = [name for name in CHECKS if not chosen.only or name in chosen.only.split(",")]
    out = Path(chosen.out)
    results = {"where": where(chosen.cpu), "command": command(given), "checks": {}}
    kept = earlier(out / "results.json", results["where"]) if chosen.only else {}
    with tempfile.TemporaryDirectory(prefix="gpu_checks_") as work:
        setting = Setting("cpu" if chosen.cpu else "cuda", chosen.cpu, str(Path(chosen.pack).resolve()), work)
        checks = {name: CHECKS[name] for name in names}
        found = run_checks(
            checks, setting.to_json(), out, budget=chosen.budget, slower=6 if chosen.cpu else 1, tell=say
        )
    merged = kept | found
    results["checks"] = {name: merged[name] for name in CHECKS if name in merged}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "table.md").write_text(markdown(results) + "\n")
    if not chosen.cpu and (len(results["checks"]) == len(CHECKS)):
        into_readme(results)
    print(f"written to {out / 'results.json'} and {out / 'table.md'}")
    return 0 if all(each["ok"] for each in found.values()) else 1


def command(given: list[str] | None) -> str:
    """The command line that made the results."""
    return f"python -m gte.benchmarks.gpu {shlex.join(sys.argv[1:] if given is None else given)}".strip()


def where(cpu: bool) -> dict[str, str | None]:
    """The card or processor, the versions, the commit and the day."""
    import torch

    from gte.provenance import git_commit, machine, versions

    found: dict[str, str | None] = {"device": machine()["processor"] if cpu else torch.cuda.get_device_name()}
    if not cpu:
        found["memory"] = f"{torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB"
    names = ("torch", "transformers", "sentence-transformers", "pytorch-lightning", "mteb", "deepspeed")
    return found | versions(names) | {"commit": commit(git_commit()), "date": time.strftime("%Y-%m-%d")}


def commit(found: str) -> str:
    """The commit; where the checkout was copied without its history, the one that `make gpu-pack` noted."""
    noted = Path(".gpu/commit")
    return noted.read_text().strip() if found == "unknown" and noted.exists() else found


def earlier(file: Path, here: dict) -> dict:
    """The checks that an earlier call made on the same card, versions and commit."""
    if not file.exists():
        return {}
    before = json.loads(file.read_text())
    return before["checks"] if before["where"] == here else {}


if __name__ == "__main__":
    sys.exit(main())
