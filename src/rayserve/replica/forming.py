"""One batch on the event loop, while it still takes calls.

add(work) … ─► full | idle: nothing else was there | timeout | deadline ─► why
"""

from __future__ import annotations

import asyncio
import math
import time

from rayserve.model.table import BatchRule
from rayserve.replica.gather import halfway
from rayserve.replica.work import Work

__all__ = ["Forming"]


class Forming:
    """A batch that forms; all of it on the loop's thread.

    Attributes:
        key: what its calls share.
        works: its calls, in order.
        why: resolves to the reason of its release.
    """

    __slots__ = ("_due", "_loop", "_rule", "_timer", "_until", "key", "why", "works")

    def __init__(self, loop: asyncio.AbstractEventLoop, rule: BatchRule, key: object) -> None:
        """Start empty; with no wait configured the batch closes in the loop's next turn, over what is there."""
        self.key = key
        self.works: list[Work] = []
        self.why: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._rule = rule
        self._until = time.monotonic() + rule.wait_s
        self._due = math.inf
        self._timer: asyncio.Handle | None = None

    @property
    def open(self) -> bool:
        """Whether it takes more calls."""
        return not self.why.done()

    def add(self, work: Work) -> None:
        """Take a call; it leaves by itself if it is given up meanwhile."""
        self.works.append(work)
        work.on_cancel = lambda: self._leave(work)
        if len(self.works) >= self._rule.max_size:
            self._release("full")
        elif not self._rule.wait_s:
            if self._timer is None:
                self._timer = self._loop.call_soon(self._release, "idle")
        else:
            now = time.monotonic()
            due = min(self._until, halfway(work, now))
            if due < self._due:
                self._due = due
                if self._timer is not None:
                    self._timer.cancel()
                why = "timeout" if due == self._until else "deadline"
                self._timer = self._loop.call_later(max(due - now, 0.0), self._release, why)

    def _leave(self, work: Work) -> None:
        if self.open:
            self.works.remove(work)
            work.session.drop(work)
            if not self.works:
                self._release("idle")

    def _release(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.open:
            self.why.set_result(why)
