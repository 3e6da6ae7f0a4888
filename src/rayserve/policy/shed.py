"""Whether a call may wait at all: a line that cannot be served in time is refused at its end.

    calls ahead ÷ measured completions per second = estimated wait ──► wait | refuse, Retry-After

Refusing at once costs microseconds; waiting for a 504 costs a slot and the client's time. Where nothing was
measured nothing is refused, but for a line that is full.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rayserve.policy.window import SlidingCount

__all__ = ["Rate", "Refusal", "estimate_wait_s", "refuse", "retry_after_s"]

_RETRY_AFTER_MIN_S = 1
_RETRY_AFTER_MAX_S = 60


def estimate_wait_s(ahead: int, completions_per_s: float) -> float:
    """Return how long a call with `ahead` others before it waits, in seconds; 0.0 if nothing was measured.

    Args:
        ahead: calls in the line before it.
        completions_per_s: `Rate.per_second`; 0.0 means unknown.
    """
    return ahead / completions_per_s if completions_per_s > 0 else 0.0


def retry_after_s(wait_s: float) -> int:
    """Return the `Retry-After` of a refused call: its estimated wait in whole seconds, rounded up, 1–60."""
    return max(_RETRY_AFTER_MIN_S, math.ceil(min(wait_s, _RETRY_AFTER_MAX_S)))


class Refusal(NamedTuple):
    """Why a call may not wait, and when to come again.

    Attributes:
        why: for the message, after the backend's name.
        wait_s: the estimated wait in seconds; 0.0 if nothing was measured.
        retry_after_s: the value of `Retry-After`, 1–60.
    """

    why: str
    wait_s: float
    retry_after_s: int


def refuse(ahead: int, max_queued: int, completions_per_s: float, time_left_s: float) -> Refusal | None:
    """Return None if a call may join the line of its backend, else the refusal (503 `queue_full`).

    Args:
        ahead: calls in the line before it.
        max_queued: the line's length at most.
        completions_per_s: `Rate.per_second`; 0.0 means unknown.
        time_left_s: until the call's deadline.
    """
    wait_s = estimate_wait_s(ahead, completions_per_s)
    if ahead >= max_queued:
        why = f"{ahead} calls wait already (max_queued={max_queued})"
    elif wait_s > time_left_s:
        left_s = max(time_left_s, 0.0)
        why = f"the wait would be {wait_s:.1f} s ({ahead} calls ahead), and the call has {left_s:.1f} s left"
    else:
        return None
    return Refusal(why, wait_s, retry_after_s(wait_s))


class Rate:
    """Completions per second of a backend *while calls wait for it*, which is what it can do.

    Counted without a line, the figure would be the demand: after a quiet minute of one call each ten seconds, the
    first burst would be refused as if the backend could do no more. So the clock starts at the first completion that
    leaves a slot somebody waits for, and starts anew once nobody does; in between every slot was taken all the time.
    The rate is believed after `ENOUGH` completions, or after one in a whole second.
    """

    ENOUGH = 8
    LONG_ENOUGH_S = 1.0

    __slots__ = ("_completed", "_since")

    def __init__(self, window_s: float = 10.0) -> None:
        """Measure over the last `window_s` seconds."""
        self._completed = SlidingCount(window_s, buckets=20)
        self._since: float | None = None

    def count(self, now: float, waiting: bool, calls: int = 1) -> None:
        """Count calls that ended, however they did: their slots are free again.

        Args:
            now: seconds, monotonic.
            waiting: the line was not empty at that moment, before the slots were given on.
            calls: how many ended at that moment.
        """
        if self._since is not None and waiting:
            self._completed.add(now, calls)
        elif waiting:
            self._since = now
            self._completed.add(now, calls - 1)
        elif self._since is not None:
            self._since = None
            self._completed.clear()

    def per_second(self, now: float) -> float:
        """Return the measured rate at time `now`; 0.0 while there is too little to go by."""
        if self._since is None:
            return 0.0
        completed = self._completed.total(now)
        lasted_s = now - max(self._since, self._completed.start(now))
        if completed == 0 or lasted_s <= 0 or (completed < self.ENOUGH and lasted_s < self.LONG_ENOUGH_S):
            return 0.0
        return completed / lasted_s
