"""One process writes a folder at a time; its lock is gone when it is, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_inputs
from trainings import TINY, wait_for

from gte.build import is_first_rank
from gte.errors import UserError
from gte.inference.index import update
from gte.locks import HELD, locked

HOLD = f"""# holds the lock of argv[1], with a forked child that outlives it, until it is killed
import os, sys, time
sys.path.insert(0, {str(ROOT / "src")!r})
from pathlib import Path
from gte.locks import locked
with locked(Path(sys.argv[1]), "writing to", "out="):
    if os.fork() == 0:
        print("held", flush=True)  # by the child, which has let the lock go once it runs
        time.sleep(30)
        os._exit(0)
    time.sleep(30)
"""


def hold(target: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, target], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def is_free(target: Path) -> bool:
    try:
        with locked(target, "writing to", "out="):
            return True
    except UserError:
        return False


def test_a_lock_names_its_holder_and_ends_with_it_though_a_forked_child_lives_on(tmp_path):
    process = hold(tmp_path / "run")
    with pytest.raises(UserError) as refused, locked(tmp_path / "run", "writing to", "out="):
        pass
    line = str(refused.value)
    assert line.startswith(f"another process is writing to {tmp_path / 'run'} (pid {process.pid} on ")
    assert " since 20" in line and line.endswith("give another out=") and "\n" not in line
    assert is_free(tmp_path / "other")
    process.kill()
    process.wait()
    assert (tmp_path / ".run.lock").exists() and is_free(tmp_path / "run")


def test_a_lock_leaves_no_file_behind_and_is_not_taken_twice(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "run", "writing to", "out="):
            assert not is_free(tmp_path / "run") and len(HELD) == 1
            assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
        assert not list(tmp_path.iterdir()) and not HELD


def test_a_lock_whose_file_was_replaced_while_it_was_waited_for_is_not_taken(tmp_path, monkeypatch):
    """A holder removes the file as it lets go: who opened it before has a lock that nobody else will see."""
    import gte.locks as files

    flock, once = files.fcntl.flock, []

    def late(lock, how):
        flock(lock, how)
        if not once:
            once.append(os.fstat(lock).st_ino)
            (tmp_path / ".run.lock").unlink()
            (tmp_path / ".run.lock").touch()

    monkeypatch.setattr(files.fcntl, "flock", late)
    with locked(tmp_path / "run", "writing to", "out="):
        assert not is_free(tmp_path / "run")


def test_a_filesystem_without_locks_is_said_and_does_not_stop_the_work(tmp_path, monkeypatch, capsys):
    import errno

    import gte.locks as files

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with locked(tmp_path / "run", "writing to", "out="):
        pass
    assert "note: " in capsys.readouterr().err and not HELD


@pytest.mark.parametrize(
    "command",
    [
        ["train", *TINY, "data.dir={prepared}", "out=busy"],
        ["train", *TINY, "data.dir={prepared}", "out=run", "checkpoint_dir=busy"],
        ["eval", "checkpoint=bm25", "data_dir=tasks", "suite=mteb", "tasks=[STS12]", "out=busy"],
        ["export", "checkpoint=run", "out=busy"],
        ["embed", "checkpoint=run", "in=texts.txt", "out=busy"],
        ["mine", "in=raw/a.jsonl", "out=busy"],
        ["bench", "benchmark=loss", "out=busy"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_a_second_process_in_a_folder_is_refused_before_it_writes(script, prepared, tmp_path, command):
    write_inputs(tmp_path, 8)
    (tmp_path / "texts.txt").write_text("a text")
    target = "busy.partial" if command[0] == "embed" else "busy"
    with locked(tmp_path / target, "writing to", "out="):
        line = script.refused(*(word.format(prepared=prepared) for word in command))
    assert f"another process is writing to {tmp_path / target}" in line.replace("to busy", f"to {tmp_path / 'busy'}")
    assert f"(pid {os.getpid()} on " in line
    assert not (tmp_path / target).exists()  # nor are .hydra's settings written over those of the run that holds it
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".csv", ".npy", ".safetensors")]


def test_checkpoints_of_a_run_that_goes_on_are_not_another_runs(script, prepared, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    command = ["train", *TINY, f"data.dir={prepared}", "out=other", "checkpoint_dir=run/checkpoints", "stage.steps=1"]
    with locked(tmp_path / "run", "writing to", "out="):
        assert f"another process is writing to {tmp_path / 'run'} (pid" in script.refused(*command)
    assert not (tmp_path / "other").exists() and not (tmp_path / "run" / "checkpoints").exists()
    assert script(*command)[0] == 0 and (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_a_second_update_of_an_index_is_refused(tmp_path):
    with (
        locked(tmp_path / "index.parquet", "updating", "out="),
        pytest.raises(UserError, match="another process is up"),
    ):
        update(tmp_path / "index.parquet", [], None)


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "gte"}, False),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "gte"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash", "LOCAL_RANK": "1"}, False),
    ],
)
def test_one_rank_of_a_run_asks_for_its_lock(monkeypatch, variables, first):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_NTASKS", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank() is first


POINT = """# a point of a sweep: marks that it runs, ends by SIGTERM with 75 after a moment, as a training does
import os, signal, sys, time
from pathlib import Path
name = sys.argv[1]
def stop(*_):
    Path(f"{name}.told").touch()
    time.sleep(0.3)
    Path(f"{name}.saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, signal.SIG_IGN if name == "deaf" else stop)
Path(f"{name}.begins").write_text(str(os.getpid()))
Path(f"{name}.begins").rename(f"{name}.runs")  # never there without its number
time.sleep(60)
"""
LAUNCHER = f"""
import sys
from types import SimpleNamespace
sys.modules["gte.build"] = SimpleNamespace(build=None, require_prepared=None, without_hydra=None)  # it would load torch
sys.path.insert(0, {str(ROOT / "src")!r})
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from hydra_plugins.processes import Processes
points = Processes(int(sys.argv[1]))
with points.told_to_stop(), ThreadPoolExecutor(points.parallel) as pool:
    running = [pool.submit(points.wait_for, [sys.executable, "point.py", name], Path(name)) for name in sys.argv[2:]]
print([one.result() for one in running])
"""


def launch(folder: Path, *names: str, parallel: int) -> subprocess.Popen:
    (folder / "point.py").write_text(POINT)
    command = [sys.executable, "-c", LAUNCHER, str(parallel), *names]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_sweep_that_is_told_to_stop_waits_for_its_points_and_begins_no_other(tmp_path):
    launcher = launch(tmp_path, "one", "two", parallel=1)
    wait_for((tmp_path / "one.runs").exists, launcher)
    launcher.send_signal(signal.SIGTERM)
    out, err = launcher.communicate(timeout=600)
    assert "[75, 75]" in out and (tmp_path / "one.saved").exists() and not (tmp_path / "two.runs").exists(), err
    assert "note: SIGTERM ends the points after their step" in err


def test_a_second_signal_kills_the_points(tmp_path):
    launcher = launch(tmp_path, "deaf", parallel=1)
    wait_for((tmp_path / "deaf.runs").exists, launcher)
    launcher.send_signal(signal.SIGINT)
    assert "once more kills them" in launcher.stderr.readline().replace("== deaf", "")
    launcher.send_signal(signal.SIGINT)
    out, err = launcher.communicate(timeout=600)
    assert "[-9]" in out, err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_points_end_when_their_launcher_is_killed(tmp_path):
    launcher = launch(tmp_path, "one", "two", parallel=2)
    for name in ("one", "two"):
        wait_for((tmp_path / f"{name}.runs").exists, launcher)
    pids = [int((tmp_path / f"{name}.runs").read_text()) for name in ("one", "two")]
    launcher.kill()
    launcher.communicate()
    ended = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    wait_for(lambda: not any(map(lives, pids)), ended)
    ended.kill()
    assert not any(map(lives, pids)) and all((tmp_path / f"{name}.saved").exists() for name in ("one", "two"))


@pytest.mark.slow
@pytest.mark.chaos
def test_a_sweep_of_trainings_stops_by_a_signal_and_the_same_command_goes_on(prepared, tmp_path):
    point = [*TINY, f"data.dir={prepared}", "seed=1", "loss=improved", "evaluate_every=null"]
    point += ["checkpoint_every=3"]
    sweep = [sys.executable, ROOT / "src/train.py", "-m", "+experiment=batch_size", "scale=laptop"]
    command = [*sweep, *point, "stage.global_batch=8,16"]  # after that of TINY
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "stage.steps=400"], cwd=tmp_path, env=variables, **pipes)
    runs = tmp_path / "multirun/batch_size"
    wait_for(lambda: list(runs.glob("*/checkpoints/last.ckpt")), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 75 and "error: told to stop: 2 of 2 points are not done" in err, err
    assert "stopped after" in out and "Traceback" not in err
    done = subprocess.run([*command, "stage.steps=60"], cwd=tmp_path, env=variables, **pipes)
    assert done.returncode == 0 and "goes on after step" in done.stdout, done.stderr


def test_a_run_whose_folder_is_removed_goes_on_and_says_so(script, prepared, tmp_path, monkeypatch):
    from gte.training.task import ContrastiveTask

    check = ContrastiveTask.check_ids

    def removed(task, batch):
        if batch.step == 12:  # at once: a checkpoint may be under way, whose files would come back amid a removal
            (tmp_path / "run").rename(tmp_path / "removed")
        if batch.step == 18:
            (tmp_path / "run" / "metrics.csv").unlink(missing_ok=True)
        check(task, batch)

    monkeypatch.setattr(ContrastiveTask, "check_ids", removed)
    code, _, err = script("train", *TINY, f"data.dir={prepared}", "out=run", "logger.csv.every=2", "checkpoint_every=6")
    assert code == 0 and err.count("metrics.csv was removed: a new one begins at step") >= 1, err
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",")[0].startswith("step") or "train/loss" in lines[0]
    assert [int(line.split(",")[lines[0].split(",").index("step")]) for line in lines[1:]] == list(range(18, 24))
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"last.ckpt", "step-0000018.ckpt", "step-0000024.ckpt"} <= kept
    assert (tmp_path / "run" / "training.json").exists()


def test_a_page_that_a_full_disk_kept_from_being_written_is_written_by_the_same_command(script, prepared, tmp_path):
    command = ["train", *TINY, f"data.dir={prepared}", "out=run", "stage.steps=2", "resume=auto"]
    script.draws = True
    assert script(*command)[0] == 0
    for name in ("report.html", "loss.png"):
        (tmp_path / "run" / name).unlink()
    assert "was done already" in script(*command)[1]
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "loss.png").exists()


def test_checkpoints_that_become_a_file_end_the_run_in_one_line(script, prepared, tmp_path, monkeypatch):
    from gte.training.task import ContrastiveTask

    check = ContrastiveTask.check_ids

    def replaced(task, batch):
        if batch.step == 4:
            task.trainer.strategy.checkpoint_io.finish()  # a write under way would make the folder anew
            shutil.rmtree(tmp_path / "run" / "checkpoints")
            (tmp_path / "run" / "checkpoints").touch()
        check(task, batch)

    monkeypatch.setattr(ContrastiveTask, "check_ids", replaced)
    command = ["train", *TINY, f"data.dir={prepared}", "out=run", "checkpoint_every=3", "stage.steps=12"]
    assert "cannot write" in script.refused(*command)
    assert "checkpoints is a file where checkpoints should go" in script.refused(*command, "resume=auto")


def test_a_folder_without_a_state_is_no_checkpoint(tmp_path, capsys):
    from gte.models.saved import newest_whole
    from gte.training.checkpoint import WholeFiles

    files = WholeFiles(tmp_path)
    files.save_checkpoint({"weight": 1}, tmp_path / "step-0000003.ckpt")
    files.finish()
    (tmp_path / "last.ckpt").mkdir()
    assert newest_whole(tmp_path) == tmp_path / "step-0000003.ckpt"
    assert "last.ckpt is a folder without any state" in capsys.readouterr().err


def test_a_second_name_that_cannot_be_given_names_what_is_kept(tmp_path):
    from gte.training.checkpoint import WholeFiles

    files = WholeFiles(tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.touch()
    files.then(lambda: last.write_bytes(b""), last)
    with pytest.raises(UserError, match=r"cannot write .*last.ckpt: .*Not a directory.* is kept.*resume=auto"):
        files.finish()
