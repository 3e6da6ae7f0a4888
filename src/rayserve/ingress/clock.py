"""The ingress's clock: one timer for all connections, and what each of them may still take its time for.

    beat, twice a second ─► now, date ─► each connection whose `due` has passed ─► overdue()

No request and no connection has a timer of its own: a time limit is a number that the beat looks at, so it is met
up to half a second late, never early. Tests hand in a time of their own and call `tick` themselves.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from rayserve.ingress import render

__all__ = ["Clock", "Watched"]

_BEAT_S: Final = 0.5


class Clock:
    """Coarse time, and the connections it watches.

    Attributes:
        now: monotonic seconds, good to half a second; free to read.
        date: value of the Date header, refreshed with `now`.
        watched: open connections.
    """

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        """Make a clock that shows the present; `read` gives monotonic seconds."""
        self._read = read
        self.now = read()
        self.date = render.http_date(time.time())
        self.watched: set[Watched] = set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick twice a second for as long as `loop` runs."""
        loop.call_later(_BEAT_S, self.start, loop)  # first: a tick that fails must not be the last one
        self.tick()

    def tick(self) -> None:
        """Refresh `now` and `date`, and tell the connections whose time is up."""
        self.now = now = self._read()
        self.date = render.http_date(time.time())
        for connection in [each for each in self.watched if each.due < now]:
            connection.overdue()


class Watched:
    """What the clock needs of a connection: named time limits that may run side by side, and the earliest of them.

    Attributes:
        due: when the clock calls `overdue`, on its scale.
    """

    __slots__ = ("_limits", "due", "limit")

    def __init__(self) -> None:
        """Start without a limit."""
        self._limits: dict[str, float] = {}
        self.limit = math.inf  # the earliest of the running limits
        self.due = math.inf

    def allow(self, what: str, until: float) -> None:
        """Run the limit `what` until then; a limit that runs already is set anew."""
        self._limits[what] = until
        self.limit = min(self._limits.values())
        self.due = min(self.due, self.limit)

    def lift(self, what: str) -> None:
        """Stop the limit `what`; harmless if it does not run. `due` is not moved."""
        if self._limits.pop(what, None) is not None:
            self.limit = min(self._limits.values(), default=math.inf)

    def running(self, what: str) -> bool:
        """Return whether the limit `what` runs."""
        return what in self._limits

    def exceeded(self, now: float) -> list[str]:
        """Return the limits that have passed; they stop here."""
        passed = [what for what, until in self._limits.items() if until < now]
        for what in passed:
            self.lift(what)
        return passed

    def overdue(self) -> None:
        """Hear that `due` has passed."""
        raise NotImplementedError
