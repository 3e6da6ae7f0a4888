"""The retry table, what counts as idempotent, and the budget."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.errors import REASONS
from rayserve.policy.retry import Budget, Fail, Progress, Retry, after_loss, is_idempotent

_ALL = list(itertools.product([False, True], [1, 2, 3], [False, True]))


@pytest.mark.parametrize("progress", [Progress.NOT_WRITTEN, Progress.REJECTED])
@pytest.mark.parametrize(("idempotent", "attempts", "budget_left"), _ALL)
def test_what_no_replica_took_is_picked_again(
    progress: Progress, idempotent: bool, attempts: int, budget_left: bool
) -> None:
    assert after_loss(progress, idempotent, attempts, budget_left) == Retry(charged=False)


@pytest.mark.parametrize(("attempts", "budget_left"), [(1, True), (5, False)])
def test_what_was_announced_never_and_not_started_is_picked_again(attempts: int, budget_left: bool) -> None:
    assert after_loss(Progress.UNSEEN, False, attempts, budget_left) == Retry(charged=False)


@pytest.mark.parametrize("progress", [Progress.UNSEEN, Progress.GIVEN_UP, Progress.STARTED])
def test_an_idempotent_call_that_may_have_started_runs_twice_at_most(progress: Progress) -> None:
    assert after_loss(progress, True, 1, True) == Retry(charged=True)
    for attempts, budget_left in [(2, True), (1, False)]:
        outcome = after_loss(progress, True, attempts, budget_left)
        assert isinstance(outcome, Fail)
        assert (outcome.reason, outcome.cut) == ("replica_lost", False)


@pytest.mark.parametrize("progress", [Progress.GIVEN_UP, Progress.STARTED])
def test_a_call_that_must_not_run_twice_is_lost_once_it_may_have_started(progress: Progress) -> None:
    outcome = after_loss(progress, False, 1, True)
    assert isinstance(outcome, Fail)
    assert (outcome.reason, outcome.cut) == ("replica_lost", False)
    assert 'retry="always"' in outcome.detail


@pytest.mark.parametrize(
    ("progress", "reason", "cut"),
    [
        (Progress.STREAMED, "replica_lost", False),
        (Progress.ANSWERING, "replica_lost", True),
        (Progress.FAILED, "user_exception", False),
    ],
)
@pytest.mark.parametrize(("idempotent", "attempts", "budget_left"), _ALL)
def test_what_cannot_be_taken_back_is_never_tried_again(
    progress: Progress, reason: str, cut: bool, idempotent: bool, attempts: int, budget_left: bool
) -> None:
    outcome = after_loss(progress, idempotent, attempts, budget_left)
    assert isinstance(outcome, Fail)
    assert (outcome.reason, outcome.cut) == (reason, cut)


@given(st.sampled_from(Progress), st.booleans(), st.integers(1, 5), st.booleans())
def test_every_row_ends_in_a_known_reason_or_a_retry(
    progress: Progress, idempotent: bool, attempts: int, budget_left: bool
) -> None:
    outcome = after_loss(progress, idempotent, attempts, budget_left)
    if isinstance(outcome, Fail):
        assert outcome.reason in REASONS
    elif outcome.charged:
        assert idempotent and attempts == 1 and budget_left


@pytest.mark.parametrize(
    ("method", "retry", "key", "expected"),
    [
        ("GET", "idempotent", False, True),
        ("HEAD", "idempotent", False, True),
        ("OPTIONS", "idempotent", False, True),
        ("POST", "idempotent", False, False),
        ("PUT", "idempotent", False, False),
        ("", "idempotent", False, False),
        ("POST", "idempotent", True, True),
        ("POST", "always", False, True),
        ("", "always", False, True),
        ("GET", "never", True, False),
    ],
)
def test_what_is_idempotent(method: str, retry: str, key: bool, expected: bool) -> None:
    assert is_idempotent(method, retry, key) is expected


def test_a_quiet_backend_may_retry_three_times_in_ten_seconds() -> None:
    budget = Budget()
    for _ in range(3):
        assert budget.left(100.0)
        budget.spend(100.0)
    assert not budget.left(100.0)
    assert not budget.left(108.9)
    assert budget.left(110.0)


def test_a_busy_backend_may_retry_a_fifth_of_its_calls() -> None:
    budget = Budget()
    budget.called(50.0, 100)
    for _ in range(20):
        assert budget.left(50.0)
        budget.spend(50.0)
    assert not budget.left(50.0)
    budget.called(50.0, 5)
    assert budget.left(50.0)


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["call", "loss"])), max_size=80))
def test_retries_never_exceed_the_budget(steps: list[tuple[float, str]]) -> None:
    budget = Budget()
    now = 0.0
    calls: list[float] = []
    spent: list[float] = []
    for pause, step in steps:
        now += pause
        if step == "call":
            budget.called(now)
            calls.append(now)
        elif budget.left(now):
            budget.spend(now)
            spent.append(now)
            # Each count is exact to a bucket of one second.
            recent_spent = sum(at > now - 9 for at in spent)
            recent_calls = sum(at > now - 10 for at in calls)
            assert recent_spent <= max(3, 0.2 * recent_calls)
