"""Threads follow the cores that a process really gets; what the user says of threads wins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gte import cores
from gte.cores import Cores, allowed_cores, threads_for, usage

ROOT = Path(__file__).parents[1]


def group(root: Path, lines: str, **files: str) -> Path:
    """A system's /proc and /sys with this process in a control group; files: below /sys/fs/cgroup, __ for /."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        name = name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/a/b\n", {"a__b__cpu_max": "max 100000\n", "a__cpu_max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"a__b__cpu_max": "max 100000\n", "a__cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/a\n", {"a__cpu_max": "380000 100000\n"}, 4),
        ("0::/a\n", {"a__cpu_max": "350000 100000\n"}, 3),
        ("5:cpu,cpuacct:/x\n3:memory:/y\n", {"cpu__x__cfs_quota_us": "300000", "cpu__x__cfs_period_us": "100000"}, 3),
        ("5:cpu:/x\n", {"cpu__x__cfs_quota_us": "-1", "cpu__x__cfs_period_us": "100000"}, 8),
        ("5:cpuset:/x\n", {"cpu__x__cfs_quota_us": "100000", "cpu__x__cfs_period_us": "100000"}, 8),
        ("5:cpu:/gone\n", {"cpu__cfs_quota_us": "100000", "cpu__cfs_period_us": "50000"}, 2),
    ],
)
def test_a_quota_of_a_control_group_or_of_one_above_bounds_the_cores(tmp_path, monkeypatch, lines, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert allowed_cores(group(tmp_path, lines, **files)) == expected


@pytest.mark.parametrize(
    ("allowed", "elsewhere", "threads"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 0.5, 1), (2, 1.0, 1), (2, 2.0, 1), (1, 1.0, 1), (8, 0.2, 8), (8, 3.0, 5), (8, 8, 4)],
)
def test_a_core_that_others_use_is_a_thread_less_down_to_half(allowed, elsewhere, threads):
    assert threads_for(allowed, elsewhere, near=allowed) == threads


@pytest.mark.parametrize(("elsewhere", "threads"), [(0.0, 8), (40.0, 8), (56.2, 8), (59.0, 5), (64.0, 4)])
def test_others_on_a_large_node_take_no_thread_of_a_quota_while_cores_are_idle(
    two_cores, monkeypatch, elsewhere, threads
):
    """As a container of 8 cores on a node of 64 sees them, which counted the 40 of others against its 8."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "quotas", lambda root: [8.0])
    watched = Cores()
    two_cores[:] = 10.0, 10 * elsewhere + 5.0, 5.0
    said = watched.start()
    assert watched.threads == threads and os.environ["OMP_NUM_THREADS"] == str(threads)
    assert said.startswith("note: 8 of 64 cores") and ("others use" in said) is (threads < 8)


@pytest.fixture
def two_cores(monkeypatch):
    """A process on two cores, whose look at the system is told in `now`: (time, all CPU seconds, its own)."""
    for name in [name for name in os.environ if cores.USERS.match(name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(cores.OURS, "")
    monkeypatch.delenv(cores.OURS)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    now = [0.0, 0.0, 0.0]
    monkeypatch.setattr(cores, "usage", lambda: tuple(now))
    monkeypatch.setattr(cores.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cores, "quotas", lambda root: [])
    before = torch.get_num_threads()
    yield now
    torch.set_num_threads(before)


def test_threads_follow_the_load_while_a_run_goes_on(two_cores):
    watched = Cores()
    two_cores[:] = 1.0, 2.0, 2.0
    assert watched.start() == "" and os.environ["OMP_NUM_THREADS"] == "2"
    for seconds, all_cores, own, threads in [
        (4.0, 8.0, 5.0, 2),  # too early to look again
        (7.0, 14.0, 8.0, 1),  # others used 6 seconds of 6: one core
        (13.0, 26.0, 13.0, 1),
        (19.0, 32.0, 19.0, 2),  # and went
    ]:
        two_cores[:] = seconds, all_cores, own
        watched.look_again()
        assert watched.threads == threads, seconds
    assert torch.get_num_threads() == 2


def test_a_busy_machine_is_said_and_a_pool_or_a_rank_is_left_alone(two_cores):
    watched = Cores()
    two_cores[:] = 1.0, 2.0, 1.0
    assert watched.start().startswith("note: 2 of 2 cores, others use 1.0: 1 thread ")
    watched.share(2)
    two_cores[:] = 20.0, 2.0, 1.0
    watched.look_again()
    assert watched.threads == 1
    pool = Cores()
    two_cores[:] = 40.0, 42.0, 1.0
    pool.look_again()
    assert pool.threads == 2


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"])
def test_the_users_own_settings_win(two_cores, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    before = dict(os.environ)
    watched = Cores()
    two_cores[:] = 9.0, 18.0, 0.0
    assert watched.start() == ""
    watched.look_again()
    assert watched.threads == 2 and dict(os.environ) == before


@pytest.mark.parametrize("name", ["KMP_DUPLICATE_LIB_OK", "OMP_DISPLAY_ENV", "OMP_STACKSIZE"])
def test_a_setting_of_openmp_that_says_nothing_of_threads_is_no_word_on_them(two_cores, monkeypatch, name):
    monkeypatch.setenv(name, "TRUE")
    watched = Cores()
    two_cores[:] = 9.0, 18.0, 0.0
    assert watched.start().startswith("note: 2 of 2 cores, others use 2.0: 1 thread")


@pytest.mark.skipif(usage() is None, reason="this system does not say what its cores do")
def test_the_work_of_ones_children_is_ones_own():
    code = """
import os, signal, subprocess, sys, time
from gte.cores import usage
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
def stopped():  # what it has used, held still meanwhile
    busy.send_signal(signal.SIGSTOP)
    os.waitpid(busy.pid, os.WUNTRACED)
    facts = open(f"/proc/{busy.pid}/stat").read().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")
child, before, mine = stopped(), usage(), time.process_time()
busy.send_signal(signal.SIGCONT)
end = time.monotonic() + 0.8
while time.monotonic() < end or time.process_time() - mine < 0.1: pass
child = stopped() - child
after, mine = usage(), time.process_time() - mine
busy.kill(), busy.wait()
print(after[2] - before[2] - mine, child, after[1] - before[1], after[2] - before[2])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    counted, child, everybody, own = map(float, run.stdout.split())
    assert counted == pytest.approx(child, abs=0.05) and child > 0.02
    assert everybody >= own - 0.1
