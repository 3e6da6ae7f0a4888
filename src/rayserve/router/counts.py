"""What one process counts about its calls, cumulative since it started: the source of /metrics.

router ── per (endpoint, backend) Tally ──► rows ──► feed ──► controller
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sized
from typing import TYPE_CHECKING

from rayserve.model.facts import BUCKETS_S, Row

if TYPE_CHECKING:
    from rayserve.router.channel import Channel
    from rayserve.router.pool import Pool

__all__ = ["Tally", "rows"]


class Tally:
    """Counters of one (endpoint, backend) pair in this process."""

    __slots__ = (
        "answered", "assigned", "backend", "endpoint", "failed", "latency", "latency_sum_s", "left", "retried",
        "statuses",
    )  # fmt: skip

    def __init__(self, endpoint: str, backend: str) -> None:
        """Start at zero."""
        self.endpoint = endpoint
        self.backend = backend
        self.assigned = 0
        self.answered = 0
        self.retried = 0
        self.left = 0
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
            retried=self.retried,
            left=self.left,
        )


def rows(
    tallies: Iterable[Tally], parked: Mapping[str, Sized], pools: Iterable[Pool], channels: Collection[Channel]
) -> list[Row]:
    """Return all counts of a router, and per backend what is in flight and waiting now.

    Args:
        tallies: of calls that never got a backend.
        parked: endpoint → calls that wait for traffic.
        pools: all backends.
        channels: all that have a link.
    """
    found = [tally.row() for tally in tallies]
    found += [Row(endpoint=name, backend="", waiting=len(calls)) for name, calls in parked.items()]
    for pool in pools:
        found += [tally.row() for tally in pool.tallies.values()]
        flying = sum(len(channel.streams) for channel in channels if channel.pool is pool)
        found.append(Row(endpoint="", backend=pool.row.tag, in_flight=flying, waiting=len(pool.line)))
    return found
