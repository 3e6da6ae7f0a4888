"""What one process counts about its calls, cumulative since it started: the source of /metrics.

router ── per (endpoint, backend) Tally ──► facts() ──► feed ──► controller
"""

from __future__ import annotations

from bisect import bisect_left

from rayserve.model.facts import BUCKETS_S, Row

__all__ = ["Tally"]


class Tally:
    """Counters of one (endpoint, backend) pair in this process."""

    __slots__ = ("answered", "assigned", "backend", "endpoint", "failed", "in_flight", "latency", "latency_sum_s",
                 "retried", "statuses", "waiting")  # fmt: skip

    def __init__(self, endpoint: str, backend: str) -> None:
        """Start at zero."""
        self.endpoint = endpoint
        self.backend = backend
        self.assigned = 0
        self.answered = 0
        self.retried = 0
        self.in_flight = 0
        self.waiting = 0
        self.failed: dict[str, int] = {}
        self.statuses = [0, 0, 0, 0, 0, 0]  # by hundreds
        self.latency = [0] * (len(BUCKETS_S) + 1)
        self.latency_sum_s = 0.0

    def answer(self, seconds: float) -> None:
        """Count an answer whose head came `seconds` after the call was submitted."""
        self.answered += 1
        self.latency[bisect_left(BUCKETS_S, seconds)] += 1
        self.latency_sum_s += seconds

    def fail(self, reason: str) -> None:
        """Count a call that ended with an error of ours."""
        self.failed[reason] = self.failed.get(reason, 0) + 1

    def row(self) -> Row:
        """Return the counts as they travel."""
        return Row(
            endpoint=self.endpoint,
            backend=self.backend,
            assigned=self.assigned,
            answered=self.answered,
            failed=dict(self.failed),
            statuses={f"{hundreds}xx": count for hundreds, count in enumerate(self.statuses) if count},
            latency=list(self.latency),
            latency_sum_s=self.latency_sum_s,
            in_flight=self.in_flight,
            waiting=self.waiting,
            retried=self.retried,
        )
