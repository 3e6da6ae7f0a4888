"""The intake: the replica's hard limit, its queue, and how calls are gathered into batches.

    OPEN ─► admit (limit, draining) ─► body whole ─► ready ─► take() ─► user code ─► release ─► FREE

The routers' counts are estimates; the limit here is the truth. Calls whose caller left or whose time
is up leave the queue without ever reaching user code.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from rayserve.model.table import BatchRule
from rayserve.replica.work import Work
from rayserve.wire.heads import BUSY, DRAINING

if TYPE_CHECKING:
    from rayserve.replica.session import Session

__all__ = ["Intake"]


def _nothing() -> None:
    """Stand in until somebody cares."""


class Intake:
    """Admission and queue of one replica.

    Attributes:
        limit: calls admitted at once, at most.
        rule: how batches are gathered.
        draining: every OPEN is refused from now on.
        admitted: calls admitted and not ended.
        queue: admitted calls that are whole and wait for user code.
    """

    def __init__(self, limit: int, rule: BatchRule) -> None:
        """Make an empty intake; `wake` and `drained` are set by whoever builds the replica.

        Args:
            limit: see above.
            rule: see above.
        """
        self.limit = limit
        self.rule = rule
        self.draining = False
        self.admitted = 0
        self.queue: deque[Work] = deque()
        self.sizes: dict[int, int] = {}
        self.released: dict[str, int] = {}
        self.wake: Callable[[], None] = _nothing  # called on the reading thread when a call became ready
        self.drained: Callable[[], None] = _nothing  # called when draining is over
        self._refused: OrderedDict[Session, None] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, session: Session) -> bytes:
        """Take a slot for a call of `session`; return b"" or why it is refused."""
        with self._lock:
            if self.draining:
                return DRAINING
            if self.admitted >= self.limit:
                self._refused[session] = None
                return BUSY
            self.admitted += 1
            return b""

    def release(self) -> None:
        """Give a slot back; a router that was refused hears of it, one per slot, in turn."""
        with self._lock:
            self.admitted -= 1
            over = self.draining and not self.admitted
            session = None
            if self._refused and not self.draining:
                session, _ = self._refused.popitem(last=False)
        if session is not None:
            session.free()
        if over:
            self.drained()

    def drain(self) -> None:
        """Refuse every later call; `drained` is called when those admitted have ended."""
        with self._lock:
            self.draining = True
            over = not self.admitted
        if over:
            self.drained()

    def forget(self, session: Session) -> None:
        """Drop a lost link from those that wait for a free slot."""
        with self._lock:
            self._refused.pop(session, None)

    def ready(self, work: Work) -> None:
        """Queue a call whose body is whole."""
        work.queued = True
        self.queue.append(work)
        self.wake()

    def take(self) -> Work | None:
        """Return the next call that may still run; the others are refused or dropped here."""
        queue = self.queue
        while queue:
            try:
                work = queue.popleft()
            except IndexError:  # another user thread was quicker
                return None
            if work.cancelled:
                work.session.drop(work)
            elif work.deadline < time.monotonic():
                work.session.expire(work)
            else:
                return work
        return None

    def gather(self, batch: list[Work], fits: Callable[[Work], bool]) -> list[Work]:
        """Add queued calls that may share `batch` to it, in order, up to `rule.max_size`; return it.

        Args:
            batch: calls that `take` returned.
            fits: whether a call may share it.
        """
        size = self.rule.max_size
        if len(batch) >= size or not self.queue:
            return batch
        passed: list[Work] = []
        while len(batch) < size:
            work = self.take()
            if work is None:
                break
            if fits(work):
                batch.append(work)
            elif not work.ended:
                passed.append(work)
        self.queue.extendleft(reversed(passed))
        return batch

    def count(self, size: int, why: str) -> None:
        """Count a batch of `size` released because of `why`: "full", "idle", "timeout" or "deadline"."""
        self.sizes[size] = self.sizes.get(size, 0) + 1
        self.released[why] = self.released.get(why, 0) + 1
