"""One ingress connection without a socket: a transport that notes, a router that keeps the calls, a clock by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from rayserve.ingress.clock import Clock
from rayserve.ingress.connection import Connection
from rayserve.ingress.exchange import Exchange
from rayserve.ingress.options import IngressOptions
from rayserve.ingress.site import Site
from rayserve.model.table import Endpoint, EndpointOptions, RoutingTable, Traffic
from rayserve.wire import heads
from rayserve.wire.codec import END


class FakeTransport:
    """What a connection does to its transport."""

    def __init__(self, peer: tuple[str, int] = ("192.0.2.1", 5000)) -> None:
        self.peer = peer
        self.sent = b""
        self.writes = 0
        self.reading = True
        self.state = "open"  # open, eof, closed or aborted
        self.unsent = 0

    def get_extra_info(self, name: str) -> Any:
        return self.peer if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.state in ("closed", "aborted")

    def write(self, data: bytes) -> None:
        assert self.state == "open"
        self.sent += data
        self.writes += 1

    def write_eof(self) -> None:
        self.state = "eof"

    def close(self) -> None:
        self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


class FakeRouter:
    """Keeps the calls; the test answers them."""

    def __init__(self) -> None:
        self.table: RoutingTable | None = None
        self.calls: list[Exchange] = []
        self.abandoned: list[Exchange] = []
        self.refusals: list[tuple[str, str]] = []
        self.granted = 0

    def clock(self) -> float:
        return 0.0

    def apply(self, table: RoutingTable) -> None:
        self.table = table

    def submit(self, call: Exchange) -> None:
        self.calls.append(call)

    def abandon(self, call: Exchange) -> None:
        self.abandoned.append(call)

    def drop(self, call: Exchange) -> None:
        self.abandoned.append(call)

    def refused(self, endpoint: str, reason: str) -> None:
        self.refusals.append((endpoint, reason))

    def grant(self, call: Exchange, size: int) -> None:
        self.granted += size


class FakeLoop:
    """Runs what is due when the test says so."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for callback in due:
            callback()


class FakeClient:
    """A connection to a site with one endpoint, `/x`."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        self.loop = FakeLoop()
        self.router = FakeRouter()
        self.clock = Clock(lambda: self.now)
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.site = Site(loop, cast(Any, self.router), IngressOptions(**options), self.clock)
        endpoint = Endpoint("e", "/x", ("GET", "POST"), Traffic({"b": 1.0}), EndpointOptions(timeout_s=60))
        self.site.apply(RoutingTable("i", 1, 1, (endpoint,)))
        self.transport = FakeTransport()
        self.connection = Connection(self.site)
        self.connection.connection_made(cast(asyncio.BaseTransport, self.transport))

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.clock.tick()

    def take(self) -> bytes:
        """Return what was sent to the client since the last look."""
        sent, self.transport.sent = self.transport.sent, b""
        return sent


def answer(exchange: Exchange, body: bytes, size: int | None = None, end: bool = True, status: int = 200) -> None:
    """Answer as a replica would; `size` None announces the true one, -1 a stream."""
    head = heads.encode(heads.Answer(status, b"", len(body) if size is None else size))
    exchange.answered(END if end else 0, head, body)
