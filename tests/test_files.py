"""Files that are whole or not there, also after a power cut: flushed, renamed, and the name flushed, in that order."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tables import make_table
from trainings import TINY

from gte.errors import UserError
from gte.files import json_object, put, read_json, whole, write_json
from gte.training.checkpoint import same, write_file

SRC = Path(__file__).parents[1] / "src"
CALLS = "fsync,fdatasync,rename,renameat,renameat2,openat"


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """(call, path[, path]) of every flush and rename of this process, in their order."""
    made: list[tuple] = []
    flush, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        made.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        flush(handle)

    def rename(old, new) -> None:
        made.append(("rename", str(old), str(new)))
        replace(old, new)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.replace", rename)
    return made


def safe(calls: list[tuple], folder: Path) -> list[str]:
    """The names given below `folder`; asserts that each is of what was flushed before and is flushed after.

    An oracle of the rule alone: it knows nothing of the code that made the calls.
    """
    given = []
    for number, (call, *paths) in enumerate(calls):
        if call != "rename" or not paths[1].startswith(str(folder)) or paths[1].endswith(".old"):
            continue
        before = {paths_[0] for name, *paths_ in calls[:number] if name == "fsync"}
        after = {paths_[0] for name, *paths_ in calls[number:] if name == "fsync"}
        assert paths[0] in before and str(Path(paths[1]).parent) in after, (paths, calls)
        given.append(Path(paths[1]).name)
    return given


def test_a_name_is_given_after_the_content_and_before_the_folder_are_flushed(calls, tmp_path):
    (tmp_path / "model" / "onnx").mkdir(parents=True)
    write_json(tmp_path / "results.json", {"a": 1})
    write_file({"x": 1}, tmp_path / "step-0000001.ckpt")
    same(tmp_path / "step-0000001.ckpt", tmp_path / "last.ckpt")
    with whole(tmp_path / "model") as folder:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "weights").write_text("w")
    make_table(tmp_path, 10, negatives=False)
    names = ["results.json", "step-0000001.ckpt", "last.ckpt", "model", "manifest.json"]
    assert safe(calls, tmp_path) == names
    flushed = [paths[0].rpartition("partial")[2] for call, *paths in calls if call == "fsync"]
    assert flushed.index("/inner/weights") < flushed.index("/inner")
    assert (tmp_path / "model" / "inner" / "weights").read_text() == "w" and not list(tmp_path.glob(".*"))


def test_a_training_flushes_every_file_that_it_renames(calls, script, prepared, tmp_path):
    settings = [*TINY, f"data.dir={prepared}", "stage.steps=4", "checkpoint_every=2", "ema_decay=0.5", "out=run"]
    assert script("train", *settings)[0] == 0
    names = safe(calls, tmp_path)
    checkpoints = {"step-0000002.ckpt", "step-0000004.ckpt", "last.ckpt", "ema.ckpt"}
    assert checkpoints | {"metrics.csv", "training.json"} <= set(names)
    assert script("export", "checkpoint=run", "out=model")[0] == 0
    assert "model" in safe(calls, tmp_path)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: apt install strace")
def test_the_kernel_gets_the_flushes_and_the_rename_in_their_order(tmp_path):
    code = "from pathlib import Path; from gte.files import write_json; write_json(Path('results.json'), {})"
    traced = ["strace", "-f", "-y", "-e", f"trace={CALLS}", "-o", "trace", sys.executable, "-c", code]
    done = subprocess.run(traced, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(SRC)}, capture_output=True)
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip("this machine lets nobody trace: run it as root, or with CAP_SYS_PTRACE")
    lines = (tmp_path / "trace").read_text().splitlines()
    kept = [line for line in lines if re.search(r"f(data)?sync\(|rename", line)]
    assert len(kept) == 3 and all(line.endswith("= 0") for line in kept), kept
    assert f"<{tmp_path}/.results.json." in kept[0] and "fsync(" in kept[0]
    assert '"results.json"' in kept[1] and "rename" in kept[1]
    assert f"<{tmp_path}>" in kept[2] and "fsync(" in kept[2]


def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"old": True})
    for kind in (KeyboardInterrupt, OSError):
        with pytest.raises(kind), whole(tmp_path / "a.json") as partial:
            partial.write_text("half")
            raise kind
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"set": {1}})
    assert read_json(tmp_path / "a.json") == {"old": True} and os.listdir(tmp_path) == ["a.json"]


def test_a_folder_takes_the_place_of_another_and_of_what_a_kill_left(tmp_path):
    for name in ("model", ".model.partial", ".model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("")
    with whole(tmp_path / "model") as folder:
        folder.mkdir()
        (folder / "new").write_text("")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["new"]


def test_two_writers_of_one_file_leave_one_of_theirs(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gte.files import write_json\n"
        "for n in range(60): write_json(Path('shared.json'), [sys.argv[1]] * 5_000)"
    )
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    both = [subprocess.Popen([sys.executable, "-c", code, name], cwd=tmp_path, env=environment) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert json.loads((tmp_path / "shared.json").read_text()) in [["a"] * 5_000, ["b"] * 5_000]
    assert os.listdir(tmp_path) == ["shared.json"]


def test_a_filesystem_that_cannot_flush_a_folder_is_written_to_all_the_same(tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(22, "Invalid argument")
        flush(handle)

    monkeypatch.setattr("os.fsync", fsync)
    write_json(tmp_path / "a.json", {})
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):  # of a disk that fails, which must be told
        put(tmp_path / "a.json", tmp_path / "b.json")


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", "1", '{"a": 1', "\x00", "[" * 100_000, b"\xff{}"])
def test_what_is_no_json_object_is_a_value_error_that_says_so(line):
    with pytest.raises(ValueError, match="JSON"):
        json_object(line)
    assert json_object('{"a": [1]}') == {"a": [1]}


def test_read_json_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json", list) == [1]
    with pytest.raises(UserError, match=r"a\.json must hold a JSON object; get it again"):
        read_json(tmp_path / "a.json")


def test_nothing_else_in_the_sources_renames_a_file():
    """A rename by hand is one that nobody flushes."""
    by_hand = []
    for path in sorted((SRC / "gte").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = getattr(node.func.value, "id", "")
                renames = node.func.attr in ("rename", "renames") and owner in ("os", "shutil", "path", "file", "part")
                replaces = node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
                if renames or replaces or (owner == "os" and node.func.attr == "replace"):
                    by_hand.append(f"{path.relative_to(SRC)}:{node.lineno}")
    assert [place.split(":")[0] for place in by_hand] == ["gte/files.py"] * 3
