"""Deadlines of all calls in flight, in a ring of 16 ms buckets with one timer.

    add(call) ─► bucket of its deadline ─► timer at the bucket's end ─► expired(call)

A call costs a set insertion and a removal; there is no timer per call. A deadline is noticed up to
16 ms late, never early, and the timer only runs while some call is waiting for something.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from rayserve.router.call import Call

__all__ = ["BUCKET_S", "Deadlines"]

_log = logging.getLogger(__name__)
BUCKET_S = 0.016


class Deadlines:
    """The ring."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        expired: Callable[[Call], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty ring.

        Args:
            loop: runs the timer.
            expired: called with each call whose deadline passed, after it left the ring.
            clock: the time in seconds, on the same scale as the loop's.
        """
        self._loop = loop
        self._clock = clock
        self._expired = expired
        self._buckets: dict[int, set[Call]] = {}
        self._ticked = 0  # the last bucket that was emptied
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """Watch the deadline of `call`."""
        index = int(call.deadline / BUCKET_S) + 1
        if self._timer is None:
            self._ticked = int(self._clock() / BUCKET_S)
            self._arm()
        if index <= self._ticked:
            index = self._ticked + 1
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = set()
        bucket.add(call)
        call.bucket = bucket
        self._waiting += 1

    def remove(self, call: Call) -> None:
        """Stop watching `call`; harmless if it is not watched."""
        bucket = call.bucket
        if bucket is not None:
            bucket.discard(call)
            call.bucket = None
            self._waiting -= 1

    def _arm(self) -> None:
        self._timer = self._loop.call_at((self._ticked + 1) * BUCKET_S, self._tick)

    def _tick(self) -> None:
        now = int(self._clock() / BUCKET_S)
        # After a pause of the process many buckets are due at once; then looking at those that exist is cheaper.
        if now - self._ticked > len(self._buckets):
            due = sorted(index for index in self._buckets if index <= now)
        else:
            due = [index for index in range(self._ticked + 1, now + 1) if index in self._buckets]
        self._ticked = max(now, self._ticked)
        late = [(bucket, call) for bucket in map(self._buckets.pop, due) for call in bucket]
        if self._waiting > len(late):
            self._arm()
        else:
            self._buckets.clear()
            self._timer = None
        # The ring is in order again: what the calls' owners do now, even if they raise, cannot stop the clock.
        for bucket, call in late:
            if call.bucket is bucket:  # ending one call may end another
                call.bucket = None
                self._waiting -= 1
                try:
                    self._expired(call)
                except Exception:
                    _log.exception("a call to endpoint %r could not be ended at its deadline", call.endpoint)

    def close(self) -> None:
        """Stop the timer and forget every call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for bucket in self._buckets.values():
            for call in bucket:
                call.bucket = None
        self._buckets.clear()
        self._waiting = 0
