"""So many tasks at a time on a machine, whichever of its worker processes they are in: so memory has a bound.

Daft calls a source's functions some eight at a time in each worker. Each first takes a slot, a file that is locked; the
kernel gives it back where a process is killed. So the last source, alone, has all slots, and many sources at once have
no more of them.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gte.cores import allowed_cores
from gte.locks import NO_LOCKS

SLOTS = "GTE_SLOTS"  # names the folder of slots to worker processes; empty: this process has one
ONE_CORE = "GTE_ONE_CORE"  # in the environment of a process that a cluster gives one core
WAITS = 0.02  # seconds between two looks for a free slot: one process waits in one thread
ONE_WAITS = threading.Lock()
OWN = threading.BoundedSemaphore(allowed_cores())  # of a process that is no worker


def one_core() -> bool:
    """Whether this process is a cluster's that has one core, whatever the machine has."""
    return ONE_CORE in os.environ


def make_slots(folder: Path, count: int) -> None:
    """Makes the slots of a machine's workers."""
    for number in range(count):
        (folder / str(number)).touch()


@contextmanager
def slot() -> Iterator[None]:
    """Waits for a slot and holds it while the block runs."""
    folder = os.environ.get(SLOTS)
    if folder is None:
        with OWN:
            yield
    elif not folder:
        with ONE_WAITS:
            yield
    else:
        with ONE_WAITS:
            held = take(Path(folder))
        try:
            yield
        finally:
            os.close(held)


def take(folder: Path) -> int:
    """The descriptor of a slot that was free; of the first one where the filesystem has no locks.

    Raises FileNotFoundError where the folder of slots is gone.
    """
    while True:
        for number in range(len(os.listdir(folder)) or 1):
            held = os.open(folder / str(number), os.O_RDWR)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return held
            except OSError as error:
                if error.errno in NO_LOCKS:
                    return held
                os.close(held)
                if not isinstance(error, BlockingIOError):
                    raise
        time.sleep(WAITS)
