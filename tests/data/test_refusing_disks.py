"""Folders that cannot be written to and disks that are full: one line, nothing half-written, and a way on."""

import ctypes
import os
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write_inputs
from trainings import TINY

CAPABILITIES_VERSION_3 = 0x20080522


@contextmanager
def without_privileges():
    """Root minds permissions like anyone else, in this thread; no change for other users."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION_3, 0)
    had, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, each in two words
    assert libc.capget(header, had) == 0
    less[:] = [0, *had[1:3], 0, *had[4:6]]
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, had) == 0


@contextmanager
def read_only(folder: Path):
    """Nothing below the folder can be written."""
    parts = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in parts]
    for path, mode in zip(parts, modes, strict=True):
        path.chmod(mode & ~0o222)
    try:
        with without_privileges():
            yield
    finally:
        for path, mode in zip(parts, modes, strict=True):
            path.chmod(mode)


@contextmanager
def full_disk(limit: int):
    """No file grows beyond so many bytes: what a full disk is to a program, for every way of writing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def inputs(tmp_path, small_model) -> Path:
    """What the scripts below read."""
    shutil.copytree(small_model, tmp_path / "model")
    write_inputs(tmp_path, 400)
    return tmp_path


SCRIPTS = {
    "embed": ["embed", "checkpoint=model", "in=raw/a.jsonl", "field=query", "out={out}/e.npy"],
    "export": ["export", "checkpoint=model", "out={out}/model"],
    "mine": ["mine", "in=raw/a.jsonl", "fill=true", "out={out}/mined"],
    "search": ["search", "checkpoint=model", "folder=raw", "query=word", "out={out}/index"],
    "eval": ["eval", "checkpoint=model", "suite=local", "data_dir=tasks", "out={out}/scores"],
    "prepare": ["prepare", "data=local", "data.path=raw", "data.dir={out}/data", "data.vocab_size=200"],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_read_only_folder_is_one_line_before_any_work(script, inputs, name):
    (inputs / "out").mkdir()
    with read_only(inputs / "out"):
        line = script.refused(*(argument.format(out="out") for argument in SCRIPTS[name]))
    assert "out" in line and not any((inputs / "out").iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_full_disk_is_one_line_and_the_same_command_completes(script, inputs, name):
    command = [argument.format(out="out") for argument in SCRIPTS[name]]
    with full_disk(500):
        assert "make room" in script.refused(*command)
    code, _, err = script(*command)
    assert code == 0, err


def test_a_read_only_prepared_folder_is_trained_on(script, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    with read_only(tmp_path / "data"):
        code, _, err = script("train", *TINY, "data.dir=data", "verify=true", "stage.steps=1", "out=run")
    assert code == 0, err
    (tmp_path / "run2").mkdir()
    with read_only(tmp_path / "run2"):
        assert "run2" in script.refused("train", *TINY, "data.dir=data", "stage.steps=1", "out=run2/x")
