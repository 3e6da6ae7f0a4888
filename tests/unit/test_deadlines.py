"""The ring of deadlines: never early, at most a bucket late, one timer, and only while something waits."""

import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from rayserve.router.call import Call
from rayserve.router.deadlines import BUCKET_S, Deadlines


class Clock:
    """A loop of which only the clock is there."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, function: Callable[[], None]) -> Any:
        self.timers.append((when, function))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def advance(self, to: float, late_s: float = 0.0) -> None:
        while self.timers and min(when for when, _ in self.timers) <= to:
            when, function = self.timers.pop(0)
            self.now = max(self.now, when + late_s)
            late_s = 0.0
            function()
        self.now = max(self.now, to)


def ring(clock: Clock, expired: Callable[[Call], None]) -> Deadlines:
    return Deadlines(cast(Any, clock), expired, clock.time)


def call(deadline: float) -> Call:
    return Call("e", deadline, False)


def test_a_deadline_is_noticed_never_early_and_within_20_ms() -> None:
    clock = Clock()
    when: dict[Call, float] = {}
    deadlines = ring(clock, lambda call: when.update({call: clock.now}))
    draw = random.Random(1)
    calls = []
    for _ in range(2000):
        clock.advance(clock.now + draw.random() * 0.01)
        calls.append(call(clock.now + draw.choice([0.0, 0.001, 0.016, 0.5, 3.0])))
        deadlines.add(calls[-1])
    clock.advance(clock.now + 10)

    assert len(when) == len(calls)
    assert all(0.0 <= when[each] - each.deadline <= 0.020 for each in calls)


def test_a_call_that_ended_is_not_expired() -> None:
    clock = Clock()
    gone: list[Call] = []
    deadlines = ring(clock, gone.append)
    first, second = call(1000.5), call(1000.5)
    deadlines.add(first)
    deadlines.add(second)
    deadlines.remove(first)
    deadlines.remove(first)
    clock.advance(1002)

    assert gone == [second]


def test_the_timer_runs_only_while_something_waits() -> None:
    clock = Clock()
    deadlines = ring(clock, lambda call: None)
    assert clock.timers == []
    each = call(1001.0)
    deadlines.add(each)
    assert len(clock.timers) == 1
    deadlines.remove(each)
    clock.advance(1000.0 + 3 * BUCKET_S)
    assert clock.timers == []
    clock.advance(2000.0)
    deadlines.add(call(2000.5))
    assert len(clock.timers) == 1
    clock.advance(2001.0)
    assert clock.timers == []


def test_what_a_call_does_at_its_end_may_add_and_remove_others() -> None:
    clock = Clock()
    gone: list[Call] = []
    late = call(1000.9)

    def expired(each: Call) -> None:
        gone.append(each)
        if each is first:
            deadlines.remove(second)
            deadlines.add(late)

    deadlines = ring(clock, expired)
    first, second = call(1000.1), call(1000.1)
    # A set has no order: make sure that `first` ends before the other is looked at.
    deadlines.add(first)
    clock.advance(1000.1)
    deadlines.add(second)
    clock.advance(1002.0)

    assert first in gone and late in gone
    assert clock.timers == []


def test_an_error_at_one_call_keeps_the_clock_running(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    gone: list[Call] = []

    def expired(each: Call) -> None:
        if each.endpoint == "bad":
            raise RuntimeError("no")
        gone.append(each)

    deadlines = ring(clock, expired)
    for index in range(3):
        deadlines.add(call(1000.1 + index))
        bad = Call("bad", 1000.1 + index, False)
        deadlines.add(bad)
    clock.advance(1005.0)

    assert len(gone) == 3
    assert "endpoint 'bad' could not be ended" in caplog.text


def test_after_a_pause_of_the_process_all_that_is_due_ends_at_once() -> None:
    clock = Clock()
    gone: list[Call] = []
    deadlines = ring(clock, gone.append)
    calls = [call(1000.0 + index) for index in range(100)]
    for each in calls:
        deadlines.add(each)
    clock.advance(1050.5, late_s=49.9)

    assert set(gone) == set(calls[:51])
    clock.advance(1200.0)
    assert set(gone) == set(calls)


def test_closing_forgets_everything() -> None:
    clock = Clock()
    gone: list[Call] = []
    deadlines = ring(clock, gone.append)
    each = call(1000.5)
    deadlines.add(each)
    deadlines.close()
    clock.advance(1002.0)
    deadlines.remove(each)

    assert gone == []
    assert clock.timers == []
