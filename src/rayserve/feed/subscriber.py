"""A router process's side of the feed.

    hub ── WELCOME, TABLE ──► on_welcome, on_table ──► ACK
    facts() once a second, if changed ──► FACTS        report(…) ──► REPORT

Lives on the I/O loop of an ingress, a driver or a replica. It reconnects for ever; meanwhile the last table stays in
force. After each reconnect the facts and the newest report of each replica go up again: one may arrive twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec

from rayserve.feed.messages import (
    ACK,
    FACTS,
    HELLO,
    MAX_DOWN_BYTES,
    REPORT,
    TABLE,
    WELCOME,
    Ack,
    Cutter,
    FeedViolation,
    Hello,
    Welcome,
    message,
)
from rayserve.feed.peer import peer_uid
from rayserve.model.facts import Facts, Report
from rayserve.model.packed import TableReader
from rayserve.model.table import RoutingTable

__all__ = ["Subscriber"]

_RECONNECT_S = 0.05
_RECONNECT_MAX_S = 1.0
_FACTS_EVERY_S = 1.0

log = logging.getLogger("rayserve.feed")


def _ignore() -> None:
    """Stand in for a callback that nobody wants."""


class Subscriber:
    """Keeps one process fed with tables; all but `report` belongs to the thread of its event loop.

    Attributes:
        connected: the hub is reachable and its table is in force here. False also means that tables may have changed
            unseen: a driver should wait a moment for it before its next call.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        process: str,
        kind: str,
        replica: str = "",
        on_welcome: Callable[[Welcome], None],
        on_table: Callable[[RoutingTable], None],
        facts: Callable[[], Facts],
        on_lost: Callable[[], None] = _ignore,
    ) -> None:
        """Prepare a subscriber; `start` connects it.

        Args:
            path: of the hub's unix socket.
            process: a name unique per process life.
            kind: "ingress" | "handle" | "replica".
            replica: the replica's id, "" for others.
            on_welcome: called first after each connect.
            on_table: called with each table; it must be in force when this returns, as the ACK leaves right after.
            facts: called once a second for the counts so far.
            on_lost: called when a connection ended.
        """
        self.path = str(path)
        self.hello = Hello(process, kind, os.getpid(), replica)
        self.on_welcome, self.on_table, self.facts, self.on_lost = on_welcome, on_table, facts, on_lost
        self.connected = False
        self.reader = TableReader()
        self._reports: dict[str, Report] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._link: _Link | None = None

    def start(self) -> None:
        """Begin to connect, on the running event loop; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._stay_connected(), name="feed")

    def close(self) -> None:
        """Leave the feed for good."""
        if self._task is not None:
            self._task.cancel()
        if self._link is not None:
            self._link.end()

    def report(self, report: Report) -> None:
        """Send a report up, now or once connected; from any thread. A newer one of the same replica replaces it."""
        if self._loop is None:
            self._reports[report.replica] = report
        else:
            self._loop.call_soon_threadsafe(self._report, report)

    def _report(self, report: Report) -> None:
        self._reports[report.replica] = report
        if self._link is not None:
            self._link.send(REPORT, report)

    async def _stay_connected(self) -> None:
        pause_s = _RECONNECT_S
        while True:
            self._link = await self._connect()
            if self._link is not None:
                had_table = await self._link.ended
                self._link = None
                self.connected = False
                self.on_lost()
                if had_table:
                    pause_s = _RECONNECT_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RECONNECT_MAX_S)

    async def _connect(self) -> _Link | None:
        """Return a connection that introduced this process, None if there is no hub now."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, self.path)
            if peer_uid(sock) != os.getuid():
                raise PermissionError(f'"{self.path}" is served by another user')
            _, link = await loop.create_unix_connection(lambda: _Link(self), sock=sock)
        except OSError as error:
            log.debug("feed: no hub at %s: %s", self.path, error)
            sock.close()
            return None
        except asyncio.CancelledError:
            sock.close()
            raise
        link.send(HELLO, self.hello)
        for report in self._reports.values():
            link.send(REPORT, report)
        return link


class _Link(asyncio.Protocol):
    """One connection to the hub; `ended` resolves to whether it ever brought a table."""

    def __init__(self, owner: Subscriber) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._cutter = Cutter(MAX_DOWN_BYTES)
        self._transport: asyncio.Transport | None = None
        self._full = False
        self._had_table = False
        self._last_facts = b""
        self._tick: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[bool] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._cutter.feed(data):
                self._take(kind, payload)
        except (FeedViolation, msgspec.MsgspecError):
            log.exception("feed: the hub at %s sent garbage; connecting anew", self._owner.path)
            self.end()
        except Exception:
            log.exception("feed: a table from %s could not be put in force; connecting anew", self._owner.path)
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._tick is not None:
            self._tick.cancel()
        if not self.ended.done():
            self.ended.set_result(self._had_table)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def send(self, kind: int, payload: msgspec.Struct) -> None:
        if self._transport is not None:
            self._transport.write(message(kind, payload))

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take(self, kind: int, payload: bytes) -> None:
        owner = self._owner
        if kind == WELCOME:
            owner.on_welcome(msgspec.msgpack.decode(payload, type=Welcome))
            self._send_facts()
        elif kind == TABLE:
            table = self._owner.reader.read(payload)
            owner.on_table(table)
            self._had_table = owner.connected = True
            self.send(ACK, Ack(table.epoch, table.version))
        else:
            raise FeedViolation(f"message kind {kind}")

    def _send_facts(self) -> None:
        """Send the counts if they changed, and come back in a second; a hub that does not read gets none."""
        self._tick = self._loop.call_later(_FACTS_EVERY_S, self._send_facts)
        if self._full or self._transport is None:
            return
        facts = msgspec.msgpack.encode(self._owner.facts())
        if facts != self._last_facts:
            self._last_facts = facts
            self._transport.write(message(FACTS, facts))
