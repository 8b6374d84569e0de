"""When tasks ran, in whichever process: the clock is the machine's."""

import time


def span_of_sleep(seconds: float) -> tuple[float, float]:
    """Sleep, and say from when to when."""
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()


def most_at_a_time(spans: list[tuple[float, float]]) -> int:
    """The greatest number of spans that overlap."""
    return max(sum(begun <= other < ended for begun, ended in spans) for other, _ in spans)
