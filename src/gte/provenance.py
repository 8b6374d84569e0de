"""Where a result comes from: the commit and the versions that made it."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "pytorch-lightning", "transformers", "mteb", "scikit-learn", "bm25s")


def git_commit() -> str:
    """The checkout's commit, with -dirty where files differ from it; 'unknown' outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
