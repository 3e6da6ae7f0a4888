"""Events counted over the last seconds, in a fixed ring of buckets; the time is an argument.

Used by `retry.Budget` and `shed.Rate`. Adding is a comparison and an addition; nothing grows with the load.
"""

from __future__ import annotations

__all__ = ["SlidingCount"]


class SlidingCount:
    """How many events the last `window_s` seconds saw, exact to one bucket.

    Time may come from any monotonic clock; a moment earlier than one already seen counts as the latest seen.
    """

    __slots__ = ("_counts", "_latest", "_total", "_width_s")

    def __init__(self, window_s: float = 10.0, buckets: int = 10) -> None:
        self._width_s = window_s / buckets
        self._counts = [0] * buckets
        self._latest: int | None = None  # number of the newest bucket, counted from time 0
        self._total = 0

    def add(self, now: float, events: int = 1) -> None:
        """Count `events` at time `now` (seconds)."""
        bucket = int(now / self._width_s)
        if bucket != self._latest:
            bucket = self._move(bucket)
        self._counts[bucket % len(self._counts)] += events
        self._total += events

    def total(self, now: float) -> int:
        """Return the events of the window that ends at `now`."""
        bucket = int(now / self._width_s)
        if bucket != self._latest:
            self._move(bucket)
        return self._total

    def start(self, now: float) -> float:
        """Return when the window that ends at `now` began: the edge of its oldest bucket."""
        bucket = int(now / self._width_s)
        if self._latest is not None:
            bucket = max(bucket, self._latest)
        return (bucket - len(self._counts) + 1) * self._width_s

    def clear(self) -> None:
        """Forget all events."""
        self._counts = [0] * len(self._counts)
        self._total = 0

    def _move(self, bucket: int) -> int:
        """Empty the buckets between the latest and `bucket`, and return the latest now."""
        latest = self._latest
        if latest is None:
            self._latest = bucket
            return bucket
        if bucket <= latest:
            return latest
        size = len(self._counts)
        for passed in range(max(latest + 1, bucket - size + 1), bucket + 1):
            self._total -= self._counts[passed % size]
            self._counts[passed % size] = 0
        self._latest = bucket
        return bucket
