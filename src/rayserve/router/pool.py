"""A pool: one backend as this router sees it: its channels, the line in front of them, its counts.

table's row ─► apply ─► a channel per replica, connected or retired
call ─► join ─► line ─► room: some channel has a slot ─► router.send(call, channel)
                 ▲      give: this channel has been offered one
                 └── put_back: refused, or lost before it started
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from rayserve.model.table import Backend
from rayserve.policy import shed
from rayserve.policy.pick import pick
from rayserve.policy.retry import Budget
from rayserve.router.call import LINED, Call
from rayserve.router.channel import Channel
from rayserve.router.counts import Tally

if TYPE_CHECKING:
    from rayserve.router.router import Router

__all__ = ["Pool"]

_RATED_FOR_S: Final = 0.01  # how long a measured rate is good for, when many calls join the line


class Pool:
    """One backend's channels and waiting line in this process.

    Attributes:
        row: the backend as the table has it.
        channels: replica id → channel, for every replica of the table.
        candidates: the same channels as a list, for `pick`.
        line: calls that wait for a slot, first come first served.
        rate: measured completions, for the estimate of a wait.
        budget: of second attempts.
        tallies: endpoint → counters of its calls here.
    """

    __slots__ = ("_rated", "_rated_at", "_router", "budget", "candidates", "channels", "line", "rate", "row", "tallies")

    def __init__(self, router: Router, row: Backend) -> None:
        """Make a pool without channels."""
        self._router = router
        self.row = row
        self.channels: dict[str, Channel] = {}
        self.candidates: list[Channel] = []
        self.line: OrderedDict[Call, None] = OrderedDict()
        self.rate = shed.Rate()
        self._rated = 0.0  # completions per second, as of `_rated_at`
        self._rated_at = -math.inf
        self.budget = Budget()
        self.tallies: dict[str, Tally] = {}

    # -- the table ----------------------------------------------------------------------------------

    def apply(self, row: Backend) -> None:
        """Connect to the replicas of a new row, and take leave of those it lists no more."""
        self.row = row
        for gone in self.channels.keys() - {replica.id for replica in row.replicas}:
            self._retire(self.channels.pop(gone))
        for replica in row.replicas:
            channel = self.channels.get(replica.id)
            if channel is None:
                channel = self.channels[replica.id] = Channel(self._router, self, replica, row.max_concurrent_queries)
                self._router.connector.connect(channel)
            else:
                channel.resize(row.max_concurrent_queries)
        self.candidates = list(self.channels.values())
        self.room()

    def drop(self) -> list[Call]:
        """Take leave of all replicas: the backend was deleted; return the calls that waited for it."""
        for channel in self.candidates:
            self._retire(channel)
        self.channels.clear()
        self.candidates = []
        calls = list(self.line)
        self.line.clear()
        return calls

    def _retire(self, channel: Channel) -> None:
        channel.retire()
        self._router.connector.forget(channel)

    @property
    def alive(self) -> bool:
        """Whether some replica can be reached."""
        return any(channel.ready and not channel.draining for channel in self.candidates)

    # -- the line -----------------------------------------------------------------------------------

    def join(self, call: Call) -> shed.Refusal | None:
        """Let `call` wait at the end of the line; return why not if it may not."""
        now = self._router.clock()
        if not 0 <= now - self._rated_at < _RATED_FOR_S:
            self._rated, self._rated_at = self.rate.per_second(now), now
        refusal = shed.refuse(len(self.line), self.row.max_queued, self._rated, call.deadline - now)
        if refusal is None:
            call.state = LINED
            self.line[call] = None
        return refusal

    def put_back(self, call: Call) -> None:
        """Put a call that had left the line back to its head, behind those that came before it."""
        line = self.line
        call.state = LINED
        line[call] = None
        line.move_to_end(call, last=False)
        earlier = []
        for other in line:
            if other.order > call.order:
                break
            if other is not call:
                earlier.append(other)
        for other in reversed(earlier):
            line.move_to_end(other, last=False)

    def room(self) -> None:
        """Send calls of the line while some replica has room."""
        router, line = self._router, self.line
        while line:
            channel = pick(self.candidates, router.draw())
            if channel is None:
                return
            call, _ = line.popitem(last=False)
            router.send(call, channel)

    def give(self, channel: Channel) -> bool:
        """Send the first call of the line to this very channel; False if nobody waits."""
        line = self.line
        while line:
            call, _ = line.popitem(last=False)
            if self._router.send(call, channel):
                return True
        return False

    # -- counts -------------------------------------------------------------------------------------

    def tally(self, endpoint: str) -> Tally:
        """Return the counters of `endpoint` on this backend."""
        tally = self.tallies.get(endpoint)
        if tally is None:
            tally = self.tallies[endpoint] = Tally(endpoint, self.row.tag)
        return tally

    def freed(self, slots: int) -> None:
        """Count calls whose slots are free again."""
        self.rate.count(self._router.clock(), bool(self.line), slots)
