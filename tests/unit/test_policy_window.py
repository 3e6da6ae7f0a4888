"""Events counted over the last seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rayserve.policy.window import SlidingCount


def test_events_leave_after_the_window() -> None:
    window = SlidingCount(window_s=10, buckets=10)
    window.add(100.0, 5)
    window.add(105.5)
    assert window.total(105.5) == 6
    assert window.total(109.9) == 6
    assert window.total(110.0) == 1
    assert window.total(115.0) == 0


def test_a_long_silence_empties_it_at_once() -> None:
    window = SlidingCount(10, 10)
    window.add(3.0, 7)
    assert window.total(1e9) == 0


def test_a_clock_that_steps_back_counts_as_standing_still() -> None:
    window = SlidingCount(10, 10)
    window.add(50.0)
    window.add(20.0)
    assert window.total(10.0) == 2
    assert window.start(10.0) == 41.0


def test_clear_forgets() -> None:
    window = SlidingCount(10, 10)
    window.add(50.0, 9)
    window.clear()
    assert window.total(50.0) == 0
    window.add(51.0)
    assert window.total(51.0) == 1


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3)), max_size=60), st.floats(0, 30))
def test_it_agrees_with_a_list_of_all_events(steps: list[tuple[float, int]], wait: float) -> None:
    window = SlidingCount(window_s=10, buckets=20)
    now, events = 0.0, []
    for pause, count in steps:
        now += pause
        window.add(now, count)
        events.append((now, count))
    now += wait
    start = window.start(now)
    assert window.total(now) == sum(count for at, count in events if at >= start)
    assert 9.5 - 1e-6 < now - start <= 10
