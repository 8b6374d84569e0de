"""A log file gets a line now and then, and none from what is quick."""

import time

from gte.ticker import spell, still_at


def test_long_work_says_now_and_then_how_long_it_has_been_at_it_and_short_work_nothing():
    said = []
    with still_at("reading", said.append, every=0.05):
        time.sleep(0.23)
    assert 2 <= len(said) <= 4 and set(said) == {"reading: 0 s"}
    time.sleep(0.1)
    count = len(said)
    with still_at("reading", said.append):
        pass
    assert len(said) == count


def test_time_is_said_as_people_say_it():
    assert [spell(seconds) for seconds in (4.4, 61, 3_600, 7_380)] == ["4 s", "1 min", "1 h 00 min", "2 h 03 min"]
