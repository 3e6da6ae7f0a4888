"""A pool: one backend as this router sees it: its channels, the line in front of them, its counts."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from rayserve.model.table import Backend
from rayserve.policy.retry import Budget
from rayserve.policy.shed import Rate
from rayserve.router.call import Call
from rayserve.router.counts import Tally

if TYPE_CHECKING:
    from rayserve.router.channel import Channel

__all__ = ["Pool"]


class Pool:
    """One backend's channels and waiting line in this process.

    Attributes:
        row: the backend as the table has it.
        channels: replica id → channel, for every replica of the table.
        candidates: the same channels as a list, for `pick`.
        line: calls that wait for a slot, first come first served.
        rate: measured completions, for the estimate of a wait.
        budget: of second attempts.
    """

    __slots__ = ("budget", "candidates", "channels", "line", "rate", "row", "tallies")

    def __init__(self, row: Backend) -> None:
        """Make a pool without channels."""
        self.row = row
        self.channels: dict[str, Channel] = {}
        self.candidates: list[Channel] = []
        self.line: OrderedDict[Call, None] = OrderedDict()
        self.rate = Rate()
        self.budget = Budget()
        self.tallies: dict[str, Tally] = {}

    def tally(self, endpoint: str) -> Tally:
        """Return the counters of `endpoint` on this backend."""
        tally = self.tallies.get(endpoint)
        if tally is None:
            tally = self.tallies[endpoint] = Tally(endpoint, self.row.tag)
        return tally

    @property
    def alive(self) -> bool:
        """Whether some replica can be reached."""
        return any(channel.ready and not channel.draining for channel in self.candidates)
