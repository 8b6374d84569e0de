"""A log file gets a line now and then, and none from what is quick."""

import itertools
import time
from types import SimpleNamespace

from gte import ticker
from gte.ticker import spell, still_at


def test_long_work_says_now_and_then_how_long_it_has_been_at_it_and_short_work_nothing(monkeypatch):
    said, minutes = [], itertools.count(step=60)
    monkeypatch.setattr(ticker, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    limit = time.monotonic() + 60
    with still_at("reading", said.append, every=0.01):
        while len(said) < 3 and time.monotonic() < limit:
            time.sleep(0.005)
    count = len(said)
    assert said[:3] == ["reading: 1 min", "reading: 2 min", "reading: 3 min"]
    time.sleep(0.1)
    with still_at("reading", said.append):
        pass
    assert len(said) == count


def test_time_is_said_as_people_say_it():
    assert [spell(seconds) for seconds in (4.4, 61, 3_600, 7_380)] == ["4 s", "1 min", "1 h 00 min", "2 h 03 min"]
