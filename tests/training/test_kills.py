"""Nothing is lost: runs killed at any moment, damaged checkpoints, a full disk, signals."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import loaded_from
from launch import script
from logs import curve, logged, rows, segments
from task_folders import write_sts
from trainings import DROPPING, TINY, Begun, begin, command, lasting, wait_for, watched

from gte import loss
from gte.errors import UserError
from gte.models.load import damage
from gte.models.saved import newest_first, newest_whole
from gte.training import ranks
from gte.training.checkpoint import WholeFiles


def newest_step(folder) -> int:
    return max((int(file.stem.removeprefix("step-")) for file in folder.glob("step-*.ckpt")), default=0)


def is_beyond(folder, step: int) -> bool:
    return newest_step(folder) > step


def equal_weights(run, other) -> bool:
    one, two = (torch.load(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (run, other))
    return all(torch.equal(value, two[key]) for key, value in one.items())


def kill_and_finish(prepared, tmp_path, kills: int, *arguments, model=DROPPING) -> None:
    """A run that is killed so often, and then left to go on to its end, is equal to one left alone."""
    function = watched if "evaluate_every=5" in arguments else script
    run = partial(Begun, tmp_path, *lasting(prepared, *arguments, model=model), function=function)
    whole = run("out=whole")
    assert whole.wait() == 0, whole.said
    generator, folder = random.Random(0), tmp_path / "killed" / "checkpoints"
    evaluating = tmp_path / "evaluating"
    moments = {"any": lambda: True, "writing": lambda: any(folder.glob("*.partial")), "evaluating": evaluating.exists}
    for kill in range(kills):
        evaluating.unlink(missing_ok=True)
        before = newest_step(folder)
        process = run("out=killed")
        moment = list(moments)[kill % (3 if function is watched else 2)]
        wait_for(partial(is_beyond, folder, before), process)
        wait_for(moments[moment], process)
        time.sleep(generator.random() * (0.05 if moment == "any" else 0.005))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run was done before it was killed: give it more steps"
    last = run("out=killed")
    assert last.wait() == 0, last.said
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert equal_weights(tmp_path / "killed", tmp_path / "whole")
    if "logger=wandb" in arguments:
        losses = {int(row["step"]): float(row["train/loss"]) for row in rows(tmp_path / "killed") if row["train/loss"]}
        assert logged(sum(segments(tmp_path / "killed"), []))["train/loss"] == pytest.approx(losses)


@pytest.mark.parametrize("start", ["random weights", "loaded from disk"])
def test_a_killed_run_is_equal_to_one_left_alone(request, prepared, tmp_path, start):
    model = DROPPING
    if start == "loaded from disk":
        model = loaded_from(request.getfixturevalue("pretrained"), TINY)
    kill_and_finish(prepared, tmp_path, 1, "stage.steps=60", model=model)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(("precision", "kills"), [("32-true", 21), ("bf16-mixed", 7), ("16-mixed", 7)])
def test_a_run_that_is_killed_often_is_equal_to_one_left_alone(prepared, tmp_path, monkeypatch, precision, kills):
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_sts(tmp_path / "suite" / "Related")
    logging = ["logger=wandb", "evaluate_every=5", "evaluate.data_dir=suite"]
    kill_and_finish(prepared, tmp_path, kills, "stage.steps=300", f"trainer.precision={precision}", *logging)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_and_says_so_by_its_code(prepared, tmp_path, number):
    process = Begun(tmp_path, *lasting(prepared, "stage.steps=5000", "out=run"))
    wait_for(lambda: newest_first(tmp_path / "run" / "checkpoints"), process)
    process.send_signal(number)
    assert process.wait() == 75 and "go on with resume=auto" in process.said, process.said
    steps = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert steps == len(curve(tmp_path / "run")) and f"stopped after {steps} steps" in process.said
    assert f"{steps:,} of 5,000 steps, not finished" in (tmp_path / "run" / "report.html").read_text()


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(
    ("settings", "died"),
    [
        (["workers=2"], "DataLoader worker"),
        (["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"], "[rank: 1] Child process"),
    ],
    ids=["data worker", "rank"],
)
def test_where_one_process_dies_the_run_ends_in_one_line(prepared, tmp_path, settings, died):
    process = begin(tmp_path, *command(prepared, "stage.steps=5000", *settings, "out=run"))
    wait_for(lambda: newest_first(tmp_path / "run" / "checkpoints"), process)
    for pid in children(process):
        os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode != 0 and died in line and "resume=auto" in line and err.count(died) == 1, err
    assert newest_whole(tmp_path / "run" / "checkpoints") is not None


STARTER = """
import os, subprocess, sys, time
from gte.training.ranks import tie_to_starter
tie_to_starter()
rank = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], env=os.environ | {"LOCAL_RANK": "1"})
time.sleep(600)
"""
RANK = """
import os, sys, time
from gte.training.ranks import tie_to_starter, untie
starter = os.getppid()
tie_to_starter()
if sys.argv[1] == "trains":
    untie()
print("ready", flush=True)
while os.getppid() == starter:
    time.sleep(0.01)
time.sleep(0.5)
print("alone", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a signal at the death of a parent is Linux's")
@pytest.mark.parametrize(("state", "said"), [("waits", ""), ("trains", "alone\n")])
def test_a_rank_ends_with_the_one_that_started_it_until_it_trains(state, said):
    environment = os.environ | {"PYTHONPATH": str(Path(loss.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, RANK, state], env=environment, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "ready\n"
        first.kill()
        assert first.stdout.read() == said  # to the end of both processes


def test_a_training_that_no_script_began_has_nothing_to_untie(monkeypatch):
    monkeypatch.delenv(ranks.STARTER, raising=False)
    ranks.untie()


@pytest.mark.slow
@pytest.mark.chaos
def test_no_rank_is_left_where_the_first_one_is_told_to_stop_before_they_train(prepared, tmp_path):
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "stage.steps=5000", "out=run"]
    process = begin(tmp_path, *command(prepared, *two))
    while "GLOBAL_RANK: 1" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)  # both hold its pipes
    assert process.returncode == -signal.SIGTERM and not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture
def checkpoints(tmp_path):
    """A folder of step-0000001, step-0000002 and last."""
    files = WholeFiles(tmp_path)
    for name in ("step-0000001", "step-0000002", "last"):
        files.save_checkpoint({"weight": torch.arange(500.0), "name": name}, tmp_path / f"{name}.ckpt")
    files.finish()
    return tmp_path


def test_every_cut_and_every_flipped_bit_of_a_tensor_is_seen(checkpoints):
    file = checkpoints / "last.ckpt"
    content = file.read_bytes()
    assert damage(file) is None and newest_whole(checkpoints) == file
    start = content.index(torch.arange(500.0).numpy().tobytes())
    generator = random.Random(0)
    for _ in range(100):
        place = generator.randrange(start, start + 2000)
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :])
        assert damage(file)
        file.write_bytes(content[: generator.randrange(len(content))])
        assert damage(file)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(checkpoints, capsys):
    for name in ("last.ckpt", "step-0000002.ckpt"):
        os.truncate(checkpoints / name, 900)
    assert newest_whole(checkpoints) == checkpoints / "step-0000001.ckpt"
    said = capsys.readouterr().err
    assert "last.ckpt is truncated" in said and "step-0000002.ckpt is truncated" in said
    os.truncate(checkpoints / "step-0000001.ckpt", 900)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        newest_whole(checkpoints)


def test_a_full_disk_leaves_the_old_checkpoint_and_says_how_to_go_on(checkpoints, monkeypatch):
    before = (checkpoints / "last.ckpt").read_bytes()
    (checkpoints / ".last.ckpt.partial").symlink_to("/dev/full")
    files, later = WholeFiles(Path("run")), []
    files.save_checkpoint({"weight": torch.zeros(10**6)}, checkpoints / "last.ckpt")
    files.then(lambda: later.append("old ones removed"), Path("run"))
    with pytest.raises(UserError, match=r"No space left.*last.ckpt is kept;.* go on with resume=auto out=run"):
        files.finish()
    with pytest.raises(UserError, match="No space left"):
        files.teardown()
    assert (checkpoints / "last.ckpt").read_bytes() == before and not list(checkpoints.glob("*.partial")) and not later


def test_training_goes_on_while_a_checkpoint_of_that_step_is_written(tmp_path):
    files, gate, weight = WholeFiles(tmp_path), threading.Event(), torch.zeros(4)
    files.then(gate.wait, tmp_path)  # a disk that takes its time
    files.jobs.clear()
    files.save_checkpoint({"nested": [{"weight": weight}]}, tmp_path / "a.ckpt")
    files.look()
    weight += 1
    assert not list(tmp_path.iterdir())
    gate.set()
    files.finish()
    assert torch.equal(torch.load(tmp_path / "a.ckpt")["nested"][0]["weight"], torch.zeros(4))


def test_the_newest_checkpoint_is_taken_also_where_a_kill_left_last_behind(checkpoints):
    names = [file.stem for file in newest_first(checkpoints)]
    assert names == ["last", "step-0000002", "step-0000001"]
    os.utime(checkpoints / "last.ckpt", (1, 1))
    assert [file.stem for file in newest_first(checkpoints)] == ["step-0000002", "last", "step-0000001"]
    for second, name in enumerate(("step-0000001", "last", "step-0000002"), 1):
        os.utime(checkpoints / f"{name}.ckpt", (second, second))
    assert [file.stem for file in newest_first(checkpoints)] == ["step-0000002", "last", "step-0000001"]
    (checkpoints / "last.ckpt").unlink()
    os.link(checkpoints / "step-0000002.ckpt", checkpoints / "last.ckpt")  # as a run leaves them
    assert [file.stem for file in newest_first(checkpoints)] == names
    (checkpoints / "last.ckpt").unlink()
    assert newest_whole(checkpoints) == checkpoints / "step-0000002.ckpt"


def test_a_checkpoint_of_another_schema_is_refused_with_the_commit_that_wrote_it(script, prepared, tmp_path):
    assert script("train", *TINY, f"data.dir={prepared}", "stage.steps=2", "out=run")[0] == 0
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(file)
    content["encoder"]["schema"] = 3
    content["history"][-1]["commit"] = "abc1234"
    torch.save(content, file)
    for words in (
        ["train", *TINY, f"data.dir={prepared}", "resume=auto", "out=run"],
        ["export", "checkpoint=run", "out=m"],
    ):
        line = script.refused(*words)
        assert "has checkpoint schema 3, this version reads 2" in line and "commit abc1234" in line


def test_only_the_newest_and_the_multiples_stay(script, prepared, tmp_path):
    asked = ["checkpoint_every=2", "keep_last=2", "keep_every=6", "keep_initial=true", "stage.steps=14", "out=run"]
    assert script("train", *TINY, f"data.dir={prepared}", *asked)[0] == 0
    names = sorted(file.name for file in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["last.ckpt", *(f"step-{step:07d}.ckpt" for step in (0, 6, 12, 14))]
    assert (tmp_path / "run/checkpoints/last.ckpt").samefile(tmp_path / "run/checkpoints/step-0000014.ckpt")
    back = ["resume=run/checkpoints/step-0000006.ckpt", "stage.steps=10", *asked[:3], "out=run"]
    assert script("train", *TINY, f"data.dir={prepared}", *back)[0] == 0
    names = {file.name for file in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"step-0000008.ckpt", "step-0000010.ckpt"} <= names  # the steps that were left behind are not newer


@pytest.mark.slow
@pytest.mark.chaos
def test_where_a_rank_of_torchrun_dies_all_end_and_it_is_named(prepared, tmp_path):
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "stage.steps=5000", "out=run"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = begin(tmp_path, *torchrun, *command(prepared, *ranks)[1:])
    wait_for(lambda: newest_first(tmp_path / "run" / "checkpoints"), process)
    os.kill(children(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0 and "error: a process of this run died (Connection" in err, err
    assert "resume=auto" in err and re.search(r"exitcode *: -9", err) and re.search(r"rank *: 1 ", err), err
    assert newest_whole(tmp_path / "run" / "checkpoints") is not None
