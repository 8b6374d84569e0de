"""How many processor cores this process really gets, and as many threads; looked at again while it runs.

OpenMP's threads wait for each other by spinning. Where another process has the core of one of them, the others burn
theirs: two threads beside two busy processes are slower than one. Nothing here loads PyTorch.
"""

import os
import re
import sys
import time
from math import ceil
from pathlib import Path

# settings of the user's own, which win; those of OpenMP that say nothing of threads aside, as conda and macOS need one
USERS = re.compile(
    r"(?!KMP_(DUPLICATE_LIB_OK|WARNINGS|SETTINGS|STACKSIZE)|OMP_(DISPLAY_|STACKSIZE|TOOL|DEBUG))"
    r"(OMP_|GOMP_|KMP_|MKL_NUM_THREADS$|OPENBLAS_NUM_THREADS$)"
)
OURS = "GTE_THREADS"  # marks, for processes started from this one, that OMP_NUM_THREADS is ours
EVERY = 5.0  # seconds between two looks: long enough for the kernel's ticks of 10 ms
SLACK = 0.35  # cores that others may use without costing a thread: a desktop is never quite idle
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def near_cores() -> int:
    """The cores on which this process may run, by its affinity; a quota may be less."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use: its affinity, bounded by the CPU quota of its control groups (v1 and v2).

    root: where /proc and /sys are.
    """
    return max(1, min([near_cores(), *(int(quota + 0.25) for quota in quotas(root))]))


def quotas(root: Path) -> list[float]:
    """The quotas in cores of this process's control group and of all above it."""
    found = []
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return found
    for _, controllers, path in groups:
        if controllers not in ("", "cpu") and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controllers and "cpu")
        for folder in [Path(path.lstrip("/")), *Path(path.lstrip("/")).parents]:
            found += quota_of(mount / folder)
    return found


def quota_of(folder: Path) -> list[float]:
    """The quota in cores that a control group sets; none where it sets none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):  # "max" is no number
        return []


def threads_for(cores: int, elsewhere: float, near: int) -> int:
    """Threads to use: at most `cores`, at least half of them, since others that want all leave a fair share.

    Args:
        cores: that this process is allowed to use at a time.
        elsewhere: cores that other processes use.
        near: among how many: a quota of 8 cores of a node of 64 is not touched by others who use 40.
    """
    return min(cores, max(near - max(0, ceil(elsewhere - SLACK)), ceil(cores / 2)))


class Cores:
    """The threads of this process. `by_user`: the environment says how many, and nothing is changed here."""

    def __init__(self):
        self.by_user = OURS not in os.environ and any(map(USERS.match, os.environ))
        self.allowed, self.ranks = allowed_cores(), 1
        self.threads = self.allowed
        self.watching = False  # whether `start` was called here: a process of a pool is told its threads
        self.before = usage()

    def elsewhere(self) -> float | None:
        """The cores that other processes used since the last look; None where the system does not say."""
        now, before = usage(), self.before
        if not now or not before or now[0] - before[0] < 10 / TICKS:
            return None
        self.before = now
        seconds = now[0] - before[0]
        return max(0.0, (now[1] - before[1]) - (now[2] - before[2])) / seconds

    def start(self) -> str:
        """Set the environment that PyTorch's libraries read when they are loaded; a line about it, where it is less.

        Returns: "" where this process has all cores of the machine, or the user says how many threads.
        """
        if self.by_user:
            return ""
        self.watching = True
        used = self.elsewhere() or 0.0
        self.threads = threads_for(self.allowed, used, near_cores())
        os.environ |= {"OMP_NUM_THREADS": str(self.threads), OURS: str(self.threads)}
        if self.threads == (os.cpu_count() or 1) or os.environ.get("LOCAL_RANK", "0") != "0":
            return ""
        if self.threads > 1 and self.threads < self.allowed:
            os.environ["OMP_WAIT_POLICY"] = "passive"  # they share cores with others: waiting must not burn them
        busy = f", others use {used:.1f}" if self.threads < self.allowed else ""
        few = f"{self.allowed} of {os.cpu_count()} cores{busy}"
        return f"note: {few}: {self.threads} thread{'s' * (self.threads > 1)} (OMP_NUM_THREADS= takes another number)"

    def share(self, ranks: int, divided: bool = False) -> None:
        """Share the cores with other ranks of this run on this machine, which are each started with as many threads.

        Args:
            ranks: how many there are.
            divided: whether the cores that this process is allowed are its own share already, as srun gives them.
        """
        self.ranks = ranks
        if not self.by_user and ranks > 1 and not divided:
            self.threads = max(1, self.allowed // ranks)
            os.environ |= {"OMP_NUM_THREADS": str(self.threads), OURS: str(self.threads)}
            self.apply()

    def look_again(self) -> None:
        """Follow the load, at most every few seconds: fewer threads while others use the cores, more once they do not.

        To be called between steps, in the thread that computes.
        """
        if not self.watching or self.ranks > 1 or self.allowed == 1:
            return
        if self.before and time.monotonic() - self.before[0] < EVERY:
            return
        used = self.elsewhere()
        if used is not None and (threads := threads_for(self.allowed, used, near_cores())) != self.threads:
            self.threads = threads
            self.apply()

    def apply(self) -> None:
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.threads)


def usage() -> tuple[float, float, float] | None:
    """(now, CPU seconds of all processes on the allowed cores, those of this process and its children)."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        busy = 0
        for name, *numbers in map(str.split, lines):
            if name in cores:
                user, _, system, _, _, irq, softirq, *_ = map(int, numbers)  # not `nice`: it gives way
                busy += user + system + irq + softirq
    except (OSError, AttributeError, ValueError):
        return None
    own = os.times()
    own_seconds = own.user + own.system + own.children_user + own.children_system
    return time.monotonic(), busy / TICKS, own_seconds + children_seconds()


def children_seconds() -> float:
    """CPU seconds of the running children of this process, such as data workers."""
    seconds = 0.0
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                facts = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                seconds += (int(facts[11]) + int(facts[12])) / TICKS
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return seconds


CORES = Cores()  # of this process; made when a script begins, so that the first look has a while behind it
