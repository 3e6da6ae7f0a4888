"""The intake: the replica's hard limit, its queue, and how calls are gathered into batches.

    OPEN ─► admit (limit, draining) ─► body whole ─► ready ─► take() ─► user code ─► release ─► offer

The routers' counts are estimates; the limit here is the truth. A router that was refused takes turns with others:
each free slot is offered (FREE) to one of them, who takes it with its next OPEN or declines.
Calls whose caller left or whose time is up leave the queue without ever reaching user code.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from rayserve.model.table import BatchRule
from rayserve.replica.inflow import Inflow
from rayserve.replica.turns import Turns
from rayserve.replica.work import Work
from rayserve.wire.heads import BUSY, DRAINING

if TYPE_CHECKING:
    from rayserve.replica.session import Session

__all__ = ["Intake"]

_LAPSE_S: Final = 0.05


def _nothing() -> None:
    """Stand in until somebody cares."""


def _never(delay_s: float, function: Callable[[], None]) -> None:
    """Stand in for a clock."""


class Intake:
    """Admission and queue of one replica.

    Attributes:
        limit: calls admitted at once, at most.
        rule: how batches are gathered.
        draining: every OPEN is refused from now on.
        admitted: calls admitted and not ended.
        queue: admitted calls that are whole and wait for user code.
        sizes: size → batches of that size.
        released: why → batches released because of it.
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
        self.streams = False  # request bodies reach user code while they arrive
        self.admitted = 0
        self.queue: deque[Work] = deque()
        self.sizes: dict[int, int] = {}
        self.released: dict[str, int] = {}
        self.wake: Callable[[], None] = _nothing  # called on the reading thread when a call became ready
        self.hold: Callable[[Inflow], None] = Inflow.wait  # holds a thread of user code until more of a body is there
        self.drained: Callable[[], None] = _nothing  # called when draining is over
        self.later: Callable[[float, Callable[[], None]], None] = _never  # calls a function after so many seconds
        self.crowded = False  # some routers take turns
        self._turns = Turns()
        self._moves = 0  # slots taken and given back
        self._lock = threading.Lock()

    # -- slots --------------------------------------------------------------------------------------

    def admit(self, session: Session) -> bytes:
        """Take a slot for a call of `session`; return b"" or why it is refused."""
        with self._lock:
            if self.draining:
                return DRAINING
            if self.admitted < self.limit:
                self.admitted += 1
                self._moves += 1
                if self.crowded:
                    self._turns.took(session)
                return b""
            self._turns.refused(session)
            arm, self.crowded = not self.crowded, True
        if arm:
            self.later(_LAPSE_S, partial(self._lapse, self._moves))
        return BUSY

    def enlist(self, session: Session) -> bool:
        """Let a link whose call ends take turns with those that wait; False if it does, or nobody waits."""
        with self._lock:
            return bool(self._turns.rotation) and not session.gone and self._turns.join(session)

    def release(self, session: Session | None = None) -> None:
        """Give a slot back.

        Args:
            session: whose call it was; what it hears is flushed with that call's last frame.
        """
        chosen: list[Session] = []
        with self._lock:
            self.admitted -= 1
            self._moves += 1
            over = self.draining and not self.admitted
            if self.crowded:
                chosen = self._choose()
        for other in chosen:
            other.free(now=other is not session)
        if over:
            self.drained()

    def leave(self, session: Session) -> None:
        """Hear that a router has nothing to send, or is gone: what was on offer to it goes to the next."""
        with self._lock:
            self._turns.leave(session)
            self.crowded = bool(self._turns.rotation)
            chosen = self._choose()
        for other in chosen:
            other.free()

    def resize(self, limit: int, rule: BatchRule) -> None:
        """Take a new limit and batch rule from the table."""
        with self._lock:
            self.limit = limit
            self.rule = rule
            chosen = self._choose()
        for session in chosen:
            session.free()

    def _choose(self) -> list[Session]:
        return [] if self.draining else self._turns.choose(self.limit - self.admitted, self.limit)

    def _lapse(self, moves: int) -> None:
        """Look, while routers wait, whether nothing moves because those that were offered all slots do not react."""
        chosen: list[Session] = []
        with self._lock:
            if not self.crowded:
                return
            if moves == self._moves and not self.admitted:
                self._turns.offers.clear()
                chosen = self._choose()
        for session in chosen:
            session.free()
        self.later(_LAPSE_S, partial(self._lapse, self._moves))

    def drain(self) -> None:
        """Refuse every later call; `drained` is called when those admitted have ended."""
        with self._lock:
            self.draining = True
            over = not self.admitted
        if over:
            self.drained()

    # -- the queue ----------------------------------------------------------------------------------

    def ready(self, work: Work) -> None:
        """Queue a call whose body is whole."""
        work.queued = True
        self.queue.append(work)
        self.wake()

    def withdraw(self, work: Work) -> bool:
        """Take a call out of the queue; False if it is not there (any more): user code has it, or will."""
        try:
            self.queue.remove(work)
        except (ValueError, IndexError):  # IndexError: another thread took one meanwhile
            return False
        return True

    def take(self) -> Work | None:
        """Return the next call that may still run; the others are refused or dropped here."""
        queue = self.queue
        while queue:
            try:
                work = queue.popleft()
            except IndexError:  # another user thread was quicker
                return None
            now = time.monotonic()
            if (work.deadline >= now and not work.cancelled) or work.may_run(now):
                return work
        return None

    def gather(self, batch: list[Work], fits: Callable[[Work], bool]) -> bool:
        """Add queued calls that may share `batch` to it, in order, up to `rule.max_size`.

        Args:
            batch: calls that `take` returned.
            fits: whether a call may share it; it may end the call instead.

        Returns:
            Whether calls of another kind wait.
        """
        size = self.rule.max_size
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
        return bool(passed)

    def count(self, size: int, why: str) -> None:
        """Count a batch of `size` released because of `why`: "full", "idle", "timeout" or "deadline"."""
        with self._lock:
            self.sizes[size] = self.sizes.get(size, 0) + 1
            self.released[why] = self.released.get(why, 0) + 1
