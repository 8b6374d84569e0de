"""Where a result comes from: the commit and the versions that made it."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "pytorch-lightning", "transformers", "mteb", "scikit-learn", "bm25s")


def git_commit() -> str:
    """The checkout's commit, with -dirty where files differ from it; 'unknown' outside a git checkout."""
    tracked = ["git", "-C", str(Path(__file__).parent), "ls-files", "--error-unmatch", Path(__file__).name]
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        subprocess.run(
            tracked, capture_output=True, check=True
        )  # the environment may lie in another project's checkout
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a result; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: installed(name) for name in names}


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def segments_of(record: dict) -> list[dict]:
    """The segments of a training stage, oldest first, as `gte.training.changes.continued` makes them.

    A record without them is one.
    """
    whole = {
        "first_step": 0,
        "last_step": record.get("steps", 0),
        "global_batch": record["stage"].get("global_batch"),
        "sources": record["sources"],
        "data": record.get("data"),
        "epochs": record.get("epochs", {}),
        "changed": [],
    }
    return record.get("segments") or [whole]


def leads_to(older: list[dict], newer: list[dict]) -> bool:
    """Whether a training passed a checkpoint on its way to another one; both by their stages, as `history` reads them.

    One of a branch that was left, by a resume from an earlier step with other settings or data, it did not pass.
    """
    if not (older and newer):
        return True
    parts, reached = segments_of(older[-1]), segments_of(newer[-1])
    facts = ("first_step", "global_batch", "data", "changed")
    alike = all(old.get(fact) == new.get(fact) for old, new in zip(parts, reached, strict=False) for fact in facts)
    ends = [*(segment["first_step"] for segment in reached[1:]), reached[-1]["last_step"]]
    return len(parts) <= len(reached) and alike and parts[-1]["last_step"] <= ends[len(parts) - 1]


def sources_of_stage(record: dict) -> list[str]:
    """The names of all sources that a training stage read, in whichever of its segments."""
    return list(dict.fromkeys(name for segment in segments_of(record) for name in segment["sources"]))


def machine() -> dict[str, str | int | None]:
    """The processor, its cores, the GPU where there is one, and the system."""
    import torch  # late: an evaluation that is refused need not wait for it

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor, "cores": os.cpu_count(), "gpu": gpu, "system": platform.platform()}
