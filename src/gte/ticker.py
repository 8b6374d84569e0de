"""A sign of life in a log file: a line a minute while something works that says nothing itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gte.errors import tell

EVERY = 60.0  # seconds between two lines


@contextmanager
def still_at(what: str, report: Callable[[str], None] = tell, every: float | None = None) -> Iterator[None]:
    """Reports "<what>: 3 min" each minute while the block runs.

    what: the work, in a few words. report: takes the line. every: seconds between two lines, EVERY by default.
    """
    start, done = time.monotonic(), threading.Event()
    every = EVERY if every is None else every

    def tick() -> None:
        while not done.wait(every):
            report(f"{what}: {spell(time.monotonic() - start)}")

    thread = threading.Thread(target=tick, daemon=True, name="still-at")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def spell(seconds: float) -> str:
    """A length of time as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
