"""Whether a call may wait, and what it is told if not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.policy.shed import Rate, estimate_wait_s, refuse, retry_after_s


def saturated(rate: Rate, start: float, per_second: float, seconds: float) -> float:
    """Let calls end evenly while others wait; return the time of the last."""
    now = start
    for step in range(int(per_second * seconds) + 1):
        now = start + step / per_second
        rate.count(now, waiting=True)
    return now


def test_the_wait_is_calls_ahead_by_completions_per_second() -> None:
    assert estimate_wait_s(30, 10.0) == 3.0
    assert estimate_wait_s(0, 10.0) == 0.0
    assert estimate_wait_s(30, 0.0) == 0.0  # nothing measured, nothing claimed


@pytest.mark.parametrize(
    ("wait", "seconds"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (59.5, 60), (1e9, 60), (math.inf, 60), (-3.0, 1)]
)
def test_retry_after_is_whole_seconds_from_1_to_60(wait: float, seconds: int) -> None:
    assert retry_after_s(wait) == seconds


def test_a_call_that_would_wait_past_its_deadline_is_refused_at_once() -> None:
    refusal = refuse(ahead=100, max_queued=1000, completions_per_s=10.0, time_left_s=9.0)
    assert refusal is not None
    assert (refusal.wait_s, refusal.retry_after_s) == (10.0, 10)
    assert refusal.why == "the wait would be 10.0 s (100 calls ahead), and the call has 9.0 s left"
    assert refuse(100, 1000, 10.0, 10.0) is None


def test_case_20_a_full_line_refuses_whatever_was_measured() -> None:
    unknown = refuse(ahead=1000, max_queued=1000, completions_per_s=0.0, time_left_s=60.0)
    assert unknown is not None and unknown.retry_after_s == 1
    assert unknown.why == "1000 calls wait already (max_queued=1000)"
    known = refuse(1000, 1000, 100.0, 60.0)
    assert known is not None and known.retry_after_s == 10
    assert refuse(999, 1000, 0.0, 60.0) is None
    assert refuse(0, 0, 0.0, 60.0) is not None


@given(st.integers(0, 2000), st.integers(0, 2000), st.floats(0, 1e5), st.floats(-10, 100))
def test_a_refusal_always_has_a_cause(ahead: int, max_queued: int, rate: float, time_left: float) -> None:
    refusal = refuse(ahead, max_queued, rate, time_left)
    if refusal is None:
        assert ahead < max_queued and estimate_wait_s(ahead, rate) <= time_left
    else:
        assert 1 <= refusal.retry_after_s <= 60


@pytest.mark.parametrize("per_second", [2.0, 40.0, 1000.0])
def test_the_rate_is_what_was_completed_while_calls_waited(per_second: float) -> None:
    rate = Rate()
    now = saturated(rate, 5.0, per_second, 4.0)
    assert rate.per_second(now) == pytest.approx(per_second, rel=0.01)


def test_the_rate_follows_a_change_within_its_window() -> None:
    rate = Rate()
    now = saturated(rate, 0.0, 100.0, 30.0)
    now = saturated(rate, now, 10.0, 11.0)
    assert rate.per_second(now) == pytest.approx(10.0, rel=0.1)


def test_demand_is_not_mistaken_for_capacity() -> None:
    rate = Rate()
    for second in range(0, 100, 10):
        rate.count(float(second), waiting=False)
    assert rate.per_second(100.0) == 0.0
    # A burst comes: the first completion with a line behind it starts the clock, and is not counted itself.
    rate.count(100.0, waiting=True)
    assert rate.per_second(100.5) == 0.0
    for step in range(1, 9):
        rate.count(100.0 + step / 100, waiting=True)
    assert rate.per_second(100.08) == pytest.approx(100.0)


def test_few_completions_are_believed_only_after_a_second() -> None:
    rate = Rate()
    rate.count(0.0, waiting=True)
    rate.count(0.5, waiting=True)
    assert rate.per_second(0.5) == 0.0
    assert rate.per_second(1.0) == 1.0


def test_a_long_silence_leaves_nothing_known() -> None:
    rate = Rate()
    now = saturated(rate, 0.0, 50.0, 2.0)
    assert rate.per_second(now) > 0
    assert rate.per_second(now + 20.0) == 0.0


def test_a_moment_without_a_line_starts_the_measure_anew() -> None:
    rate = Rate()
    now = saturated(rate, 0.0, 50.0, 2.0)
    rate.count(now + 0.1, waiting=False)
    assert rate.per_second(now + 0.1) == 0.0
    rate.count(now + 0.2, waiting=True)
    rate.count(now + 1.2, waiting=True)
    assert rate.per_second(now + 1.2) == pytest.approx(1.0)
