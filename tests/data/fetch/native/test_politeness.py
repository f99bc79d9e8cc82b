"""Whose turn it is."""

from tinygptv.data.fetch.guard import Origin
from tinygptv.data.fetch.native.politeness import Request, Schedule, Site
from tinygptv.data.fetch.native.robots import Robots


def site(name: str, schedule: Schedule, slots: int = 8, seconds_between: float = 0.0) -> Site:
    made = Site(Origin("http", name, 80), robots=Robots())
    schedule.admit(made, slots, seconds_between, now=0.0)
    return made


def asked(schedule: Schedule, now: float) -> list[str]:
    """What may be asked for at a moment, in order."""
    return [taken[1].url for taken in iter(lambda: schedule.take(now), None)]


def test_what_came_first_is_asked_first_whatever_its_site() -> None:
    schedule = Schedule()
    one, other = site("one", schedule), site("other", schedule)
    for number, where in enumerate([one, one, other, one, other]):
        schedule.add(where, Request(str(number), lambda *_: None), now=0.0)
    assert asked(schedule, 0.0) == ["0", "1", "2", "3", "4"]


def test_a_site_that_is_full_or_rests_holds_nobody_up() -> None:
    schedule = Schedule()
    full, resting, free = (
        site("full", schedule, slots=1),
        site("slow", schedule, seconds_between=2.0),
        site("f", schedule),
    )
    for number, where in enumerate([full, full, resting, resting, free]):
        schedule.add(where, Request(str(number), lambda *_: None), now=0.0)
    assert asked(schedule, 0.0) == ["0", "2", "4"]
    assert schedule.next_due() == 2.0
    schedule.finish(full, now=1.0)
    assert asked(schedule, 1.0) == ["1"]
    assert asked(schedule, 2.0) == ["3"]


def test_robots_txt_alone_is_asked_for_before_it_is_known() -> None:
    schedule = Schedule()
    unknown = site("unknown", schedule)
    unknown.robots = None
    schedule.add(unknown, Request("0", lambda *_: None), now=0.0)
    assert asked(schedule, 0.0) == []
    schedule.add(unknown, Request("robots", lambda *_: None, is_for_robots=True, turn=0), now=0.0)
    assert asked(schedule, 0.0) == ["robots"]
