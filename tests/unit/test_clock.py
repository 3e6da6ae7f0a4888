import math

from rayserve.ingress.clock import Clock, Watched


class Probe(Watched):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[list[str]] = []
        self.clock = Clock(lambda: 0.0)

    def overdue(self) -> None:
        self.heard.append(self.exceeded(self.clock.now))
        self.due = self.limit


def test_the_date_and_the_time_move_with_the_ticks() -> None:
    now = 5.0
    clock = Clock(lambda: now)
    assert clock.now == 5.0
    now = 9.0
    assert clock.now == 5.0
    clock.tick()

    assert clock.now == 9.0
    assert clock.date.endswith(b" GMT")


def test_limits_run_side_by_side_and_the_earliest_is_due() -> None:
    now = 0.0
    clock = Clock(lambda: now)
    probe = Probe()
    probe.clock = clock
    clock.watched.add(probe)
    probe.allow("late", 10.0)
    probe.allow("early", 5.0)
    assert (probe.due, probe.limit) == (5.0, 5.0)

    for now in (5.0, 5.5, 7.0, 10.5, 20.0):  # noqa: B007 - read by the clock
        clock.tick()

    assert probe.heard == [["early"], ["late"]]
    assert probe.due == math.inf


def test_a_limit_that_is_lifted_is_never_heard_of() -> None:
    probe = Probe()
    probe.allow("a", 5.0)
    probe.allow("b", 7.0)
    assert probe.running("a")
    probe.lift("a")
    probe.lift("a")

    assert not probe.running("a")
    assert probe.limit == 7.0
    assert probe.exceeded(100.0) == ["b"]
    assert probe.limit == math.inf


def test_a_limit_may_be_set_anew() -> None:
    probe = Probe()
    probe.allow("a", 5.0)
    probe.allow("a", 9.0)

    assert probe.limit == 9.0
    assert probe.exceeded(6.0) == []
