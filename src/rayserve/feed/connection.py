"""One subscriber's connection, as the hub sees it.

HELLO ──► WELCOME, TABLE        ACK, FACTS, REPORT ──► the hub's callbacks
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from rayserve.feed.messages import (
    ACK,
    FACTS,
    HELLO,
    MAX_UP_BYTES,
    REPORT,
    TABLE,
    WELCOME,
    Ack,
    Cutter,
    FeedViolation,
    Hello,
    message,
)
from rayserve.feed.peer import peer_uid
from rayserve.model.facts import Facts, Report
from rayserve.model.packed import Stamp

if TYPE_CHECKING:
    from rayserve.feed.hub import Hub

__all__ = ["Connection"]

log = logging.getLogger("rayserve.feed")

_HELLO_WITHIN_S = 5.0

T = TypeVar("T")


class Connection(asyncio.Protocol):
    """One subscriber's connection.

    Attributes:
        hello: who it is, None until it said so.
        acked: stamp of the last table that it acknowledged.
    """

    def __init__(self, hub: Hub) -> None:
        """Belong to `hub`."""
        self._hub = hub
        self._cutter = Cutter(MAX_UP_BYTES)
        self._transport: asyncio.Transport | None = None
        self._full = False
        self._sent: Stamp = (-1, -1)
        self._greeting: asyncio.TimerHandle | None = None
        self.hello: Hello | None = None
        self.acked: Stamp = (-1, -1)

    def __str__(self) -> str:
        """Return the name for messages."""
        return self.hello.process if self.hello is not None else "a stranger"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the user, then wait for HELLO."""
        self._transport = cast(asyncio.Transport, transport)
        try:
            uid = peer_uid(transport.get_extra_info("socket"))
        except OSError as error:
            return self.drop(f"it left at once: {error}")
        if uid != self._hub.uid:
            return self.drop(f"it belongs to user {uid}, not {self._hub.uid}")
        self._hub.connections.add(self)
        # `pause_writing` from the first unsent byte on: that is when the next table should wait.
        self._transport.set_write_buffer_limits(high=0)
        self._greeting = asyncio.get_running_loop().call_later(_HELLO_WITHIN_S, self.drop, "it never said hello")
        return None

    def data_received(self, data: bytes) -> None:
        """Take its messages; whatever is not one ends the connection."""
        if self._transport is None:
            return
        try:
            for kind, payload in self._cutter.feed(data):
                self._take(kind, payload)
        except (FeedViolation, msgspec.MsgspecError) as error:
            self.drop(f"it sent garbage: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._leave()

    def pause_writing(self) -> None:
        """Let the next table wait."""
        self._full = True

    def resume_writing(self) -> None:
        """Send the newest table, if one waited."""
        self._full = False
        self.offer()

    def offer(self) -> None:
        """Send the hub's table if this subscriber has not got it and its buffer is empty."""
        latest = self._hub.latest
        if self._transport is None or self.hello is None or self._full or latest.stamp <= self._sent:
            return
        self._transport.write(message(TABLE, latest.after(self._sent)))
        self._sent = latest.stamp

    def drop(self, why: str) -> None:
        """End the connection, sent or not; a living subscriber connects anew and gets the table."""
        if self._transport is not None:
            log.warning("feed: %s is cut off: %s", self, why)
            self._transport.abort()
            self._leave()

    def _leave(self) -> None:
        self._transport = None
        if self._greeting is not None:
            self._greeting.cancel()
        if self in self._hub.connections:
            self._hub.connections.discard(self)
            self._hub.moved()
            if self.hello is not None:
                self._hub.on_gone(self.hello)

    def _take(self, kind: int, payload: bytes) -> None:
        if self.hello is None:
            if kind != HELLO:
                raise FeedViolation(f"message kind {kind} before hello")
            self._greet(_decode(payload, Hello))
        elif kind == ACK:
            ack = _decode(payload, Ack)
            self.acked = max(self.acked, (ack.epoch, ack.version))
            self._hub.moved()
        elif kind == FACTS:
            self._hub.on_facts(_decode(payload, Facts))
        elif kind == REPORT:
            self._hub.on_report(_decode(payload, Report))
        else:
            raise FeedViolation(f"message kind {kind}")

    def _greet(self, hello: Hello) -> None:
        self.hello = hello
        if self._greeting is not None:
            self._greeting.cancel()
        if self._transport is not None:
            self._transport.write(message(WELCOME, self._hub.welcome))
        self._hub.on_hello(hello)
        self.offer()


def _decode(payload: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(payload, type=kind)
