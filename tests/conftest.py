"""Fixtures shared by all tests. No test needs the network or a file outside the repository."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("WANDB_MODE", "offline")

ROOT = Path(__file__).resolve().parents[1]


def shared_dir(name: str) -> Path:
    """The folder `../shared/<name>` beside the checkout; skips the calling test where it is absent."""
    path = ROOT.parent / "shared" / name
    if not path.exists():
        pytest.skip(f"needs {path}, real data that is not part of the repository")
    return path
