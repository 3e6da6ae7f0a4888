"""The doorkeeper's side of the feed.

    publish(table) ──► each connection ──► ACK ──► settled(): who is late?
    FACTS, REPORT of each subscriber ──► on_facts, on_report

A subscriber that reads slowly, or not at all, never holds up another one: a table waits until the last one left its
buffer, and only the newest waits. Whoever sends garbage, or is another user's, is cut off.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from rayserve.feed.connection import Connection
from rayserve.feed.messages import Hello, Welcome
from rayserve.model.facts import Facts, Report
from rayserve.model.packed import Latest, Stamp

__all__ = ["Hub"]

_BACKLOG = 1024


def _ignore(_: object) -> None:
    """Stand in for a callback that nobody wants."""


class Hub:
    """All subscribers of one node; lives on one event loop."""

    def __init__(
        self,
        path: str | Path,
        welcome: Welcome,
        *,
        on_hello: Callable[[Hello], None] = _ignore,
        on_facts: Callable[[Facts], None] = _ignore,
        on_report: Callable[[Report], None] = _ignore,
        on_gone: Callable[[Hello], None] = _ignore,
        uid: int | None = None,
    ) -> None:
        """Prepare a hub; `start` binds it.

        Args:
            path: of the unix socket, in a folder that only this user can enter.
            welcome: the first message to each subscriber.
            on_hello: called when a subscriber introduced itself.
            on_facts: called with each FACTS.
            on_report: called with each REPORT.
            on_gone: called when a subscriber's connection ended, for whatever reason.
            uid: the only user who may connect; None: this process's.
        """
        self.path = str(path)
        self.welcome = welcome
        self.uid = os.getuid() if uid is None else uid
        self.on_hello, self.on_facts, self.on_report, self.on_gone = on_hello, on_facts, on_report, on_gone
        self.latest = Latest()
        self.connections: set[Connection] = set()
        self._server: asyncio.AbstractServer | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Bind the socket, in place of one that a dead predecessor left, and accept from now on."""
        Path(self.path).unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Connection(self), self.path, backlog=_BACKLOG)
        Path(self.path).chmod(0o600)

    def close(self) -> None:
        """Cut all subscribers off and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.drop("the hub closes")
        Path(self.path).unlink(missing_ok=True)

    def subscribers(self) -> list[Hello]:
        """Return who introduced itself and is connected."""
        return [connection.hello for connection in self.connections if connection.hello is not None]

    def publish(self, table: bytes) -> Stamp:
        """Send a newer table to every subscriber, and to all that come later; return the stamp now in force.

        An older table than the present one (of a controller that does not know it was replaced) changes nothing, nor
        do changes to another one.

        Raises:
            msgspec.MsgspecError: these bytes are no table.
        """
        if self.latest.take(table):
            for connection in self.connections:
                connection.offer()
        return self.latest.stamp

    async def settled(self, stamp: Stamp, timeout_s: float) -> list[Connection]:
        """Wait until each present subscriber acknowledged `stamp` or newer, or is gone.

        Args:
            stamp: of a published table.
            timeout_s: wait at most so long.

        Returns:
            the late ones; they still are connected.
        """
        asked = [connection for connection in self.connections if connection.hello is not None]
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            late = [one for one in asked if one in self.connections and one.acked < stamp]
            left_s = until - loop.time()
            if not late or left_s <= 0:
                return late
            moved: asyncio.Future[None] = loop.create_future()
            self._waiting.add(moved)
            await asyncio.wait([moved], timeout=left_s)
            self._waiting.discard(moved)

    def moved(self) -> None:
        """Let `settled` look again: a subscriber acknowledged, or left."""
        waiting, self._waiting = self._waiting, set()
        for one in waiting:
            if not one.done():
                one.set_result(None)
