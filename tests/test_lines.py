"""Errors and notes stand on lines of their own, behind a progress bar too: read off a terminal, as a user sees it."""

import ast
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
BAR = "import sys; from tqdm import tqdm; from gte.errors import tell\n"


def screen(output: str) -> list[str]:
    """The lines that a terminal shows of what is written to it: newline, return, up, erase to the end of a line."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part == "\x1b[A":
            row -= 1
        elif part == "\x1b[K":
            lines[row] = lines[row][:column]
        else:
            assert not part.startswith("\x1b"), part
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def on_a_terminal(*command: str, errors_to=None) -> list[str]:
    """The screen after a command; its stderr is the terminal too, or a file."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(SRC), "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=theirs, stderr=errors_to or theirs, env=environment, stdin=theirs)
    os.close(theirs)
    written = bytearray()

    def read() -> None:
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                return
            if not part:
                return
            written.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    process.wait(timeout=600)
    reader.join()
    os.close(ours)
    return screen(written.decode())


def test_the_terminal_of_this_test_does_what_one_does():
    assert screen("ab\rc\nd\x1b[A\rx\x1b[K\n") == ["x", " d"] and screen("abc\r\x1b[Kd\r\n") == ["d", ""]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_note_stands_above_the_bar_which_goes_on(stream):
    code = BAR + (
        f"bar = tqdm(total=4, file=sys.{stream}, mininterval=0)\n"
        "for n in range(4):\n    bar.update()\n    n == 1 and tell('note: of step 2')\nbar.close()"
    )
    lines = on_a_terminal(sys.executable, "-c", code)
    assert lines.count("note: of step 2") == 1 and sum("4/4" in line for line in lines) == 1
    assert lines.index("note: of step 2") < next(n for n, line in enumerate(lines) if "4/4" in line)
    assert not [line for line in lines if "note" in line and line != "note: of step 2"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_error_is_the_last_line_and_the_bar_stays_above_it(stream):
    code = BAR + (
        "from gte.build import one_line_errors; from gte.errors import UserError\n"
        f"with one_line_errors():\n    bar = tqdm(total=4, file=sys.{stream}, mininterval=0); bar.update(3)\n"
        "    raise UserError('the disk is full')"
    )
    *above, last, empty = on_a_terminal(sys.executable, "-c", code)
    assert last == "error: the disk is full" and empty == "" and any("3/4" in line for line in above)


def test_the_line_of_another_process_takes_the_bars_line(tmp_path):
    code = (
        "import os, subprocess, sys; sys.stdout.write('75%|###  | 3/4'); sys.stdout.flush()\n"
        "subprocess.run([sys.executable, '-c', \"from gte.errors import tell; tell('error: a rank died')\"])"
    )
    assert on_a_terminal(sys.executable, "-c", code) == ["error: a rank died", ""]


def test_the_note_of_a_signal_to_a_sweep_takes_the_bars_line_of_its_point():
    code = (
        "import sys; sys.stdout.write('75%|###  | 3/4'); sys.stdout.flush()\n"
        "from hydra_plugins.processes import Processes; Processes().hand_on(15, None)"
    )
    note = "note: SIGTERM ends the points after their step; once more kills them"
    assert on_a_terminal(sys.executable, "-c", code) == [note, ""]


def test_a_file_gets_the_line_alone(tmp_path):
    with open(tmp_path / "log", "w") as log:
        on_a_terminal(sys.executable, "-c", BAR + "bar = tqdm(total=4); tell('note: a')", errors_to=log)
    assert "note: a\n" in (tmp_path / "log").read_text() and "\x1b" not in (tmp_path / "log").read_text()


def test_nothing_else_writes_errors_and_notes_to_stderr():
    by_hand = []
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"):
                continue
            to_stderr = any(key.arg == "file" and "stderr" in ast.unparse(key.value) for key in node.keywords)
            if to_stderr and "gpu" not in path.parts:  # `make gpu` draws no bar
                by_hand.append(f"{path.relative_to(SRC)}:{node.lineno}")
    assert [place.split(":")[0] for place in by_hand] == ["gte/errors.py"]
