"""The way out of a connection: answers in the order of their requests, at the pace of the client.

    exchange.write ─► its turn? ─► transport ─► client          credit ◄── only while the client takes what is there
                       └► kept until then

Whatever ends a connection ends here, politely or not, and gives up the calls whose answers cannot be sent any more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from rayserve.ingress.clock import Watched

if TYPE_CHECKING:
    from rayserve.ingress.exchange import Exchange
    from rayserve.ingress.site import Site

__all__ = ["Answers"]

_log = logging.getLogger(__name__)
_STUCK_S: Final = 30.0  # how long a client may take nothing of its answer
_LINGER_S: Final = 2.0  # how long the rest of a refused body is read and dropped
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing drops unsent bytes and tells the peer so

# Time limits, in the words `Watched` knows them by.
_TAKE, _END = "take", "end"


class Answers(Watched):
    """One client connection as its exchanges see it.

    Attributes:
        site: what all connections share.
        client: "host:port" of the peer.
        proxied: the peer is a proxy whose word about its own client counts.
        queue: exchanges in the order of their requests, answered ones only while they wait for their turn.
        keeps: another request may follow those in the queue.
        lingers: the client may still be sending: closing at once would be a reset.
        ended: nothing more will be sent; the connection is closing or closed.
        stuck: the client does not take its answers; the transport's buffer is full.
        transport: asyncio's.
    """

    __slots__ = (
        "_closing", "_level", "_owing", "_soon", "client", "ended", "keeps", "lingers", "proxied", "queue", "site",
        "stuck", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, site: Site) -> None:
        """Start with nothing to send."""
        super().__init__()
        self.site = site
        self.client = ""
        self.proxied = False
        self.queue: deque[Exchange] = deque()
        self.keeps = True
        self.lingers = False
        self.ended = False
        self.stuck = False
        self._soon: list[bytes] = []  # leaves with the next write, or when this turn of the loop is over
        self._closing: Exchange | None = None  # the connection ends behind its answer, whatever follows
        self._level = math.inf  # bytes in the transport's buffer at the last look, and those added since
        self._owing: dict[Exchange, int] = {}  # answer bytes not yet granted back to the replica

    # -- what the way in does -----------------------------------------------------------------------

    def stop(self) -> None:
        """Understand nothing more of what the client sends."""
        raise NotImplementedError

    def serve_on(self) -> None:
        """Hear that there is room for another request."""
        raise NotImplementedError

    def room(self, exchange: Exchange) -> None:
        """Hear that a replica took some of the request's body."""
        raise NotImplementedError

    def drop_input(self) -> None:
        """Read on, so that the client can finish sending, and drop what comes."""
        raise NotImplementedError

    # -- writing, called by exchanges ---------------------------------------------------------------

    def write(self, exchange: Exchange, data: bytes | memoryview) -> None:
        """Send bytes of an answer, or keep them until it is its turn."""
        if self._soon:
            self._send_soon()
        if self.queue[0] is exchange:
            self.transport.write(data)
            if self.stuck:
                self._level += len(data)
        elif exchange.pending is None:
            exchange.pending = [data]
        else:
            exchange.pending.append(data)

    def write_soon(self, exchange: Exchange, data: bytes) -> None:
        """Like `write`, but what one turn of the loop writes leaves together: a chunk costs less than a system call."""
        if self.stuck or self.queue[0] is not exchange:
            self.write(exchange, data)
            return
        if not self._soon:
            self.site.loop.call_soon(self._send_soon)
        self._soon.append(data)

    def _send_soon(self) -> None:
        soon, self._soon = self._soon, []
        if soon and not self.transport.is_closing():
            self.transport.write(b"".join(soon))

    def consumed(self, exchange: Exchange, size: int) -> None:
        """Return credit for answer bytes, once the client's connection has taken them."""
        if self.stuck or self.queue[0] is not exchange:
            self._owing[exchange] = self._owing.get(exchange, 0) + size
        else:
            self.site.router.grant(exchange, size)

    def _grant(self) -> None:
        if self.queue and not self.stuck:
            size = self._owing.pop(self.queue[0], 0)
            if size:
                self.site.router.grant(self.queue[0], size)

    def keeps_after(self, exchange: Exchange) -> bool:
        """Return whether the connection serves on behind this answer."""
        return self.keeps or self.queue[-1] is not exchange

    def close_after(self, exchange: Exchange) -> None:
        """Send nothing behind the answer of `exchange`: its end is the end of the connection."""
        self.stop()
        self._closing = exchange

    def finished(self) -> None:
        """Hear that an answer is complete; send what waited behind it."""
        queue, site = self.queue, self.site
        while queue and queue[0].ended:
            done = queue.popleft()
            site.held -= done.size
            if self._owing:
                self._owing.pop(done, None)
            if site.log is not None:
                site.log(done.log_line())
            if done is self._closing or (not self.keeps and not queue):
                self.end()
                return
            if queue:
                self._send_pending(queue[0])
        self.serve_on()

    def _send_pending(self, exchange: Exchange) -> None:
        pending, exchange.pending = exchange.pending, None
        if pending is not None:
            for data in pending:
                self.write(exchange, data)
            self._grant()

    def break_off(self, exchange: Exchange, why: str) -> None:
        """End the connection in the middle of an answer, so that the client sees that it is not whole."""
        _log.warning("cut the answer to %s: %s", self.client, why)
        if exchange.ends_by_close:  # anything but a reset would look like its proper end
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.lingers = False
            self.end()

    # -- a client that does not take its answers ----------------------------------------------------

    def pause_writing(self) -> None:
        """Hear that the client takes its answer too slowly: replicas get no more credit."""
        self.stuck = True
        self._level = self.transport.get_write_buffer_size()
        self.allow(_TAKE, self.site.clock.now + _STUCK_S)

    def resume_writing(self) -> None:
        """Hear that the client has caught up."""
        self.stuck = False
        self.lift(_TAKE)
        self._grant()
        self.serve_on()

    def judge_taking(self, what: str) -> None:
        """Cut a client that took nothing of what waits for it since the last look."""
        left = self.transport.get_write_buffer_size()
        if left and left < self._level:
            self._level = left
            self.allow(what, self.site.clock.now + _STUCK_S)
        elif left:
            self.cut(f"it took nothing of its answer for {_STUCK_S:.0f} s")
        else:
            self.transport.abort()  # it had its time to send the rest of what it was sending

    # -- the end ------------------------------------------------------------------------------------

    def cut(self, why: str) -> None:
        """Close at once; bytes that the client has not taken are lost."""
        _log.info("cut the connection of %s: %s", self.client, why)
        self.transport.abort()

    def end(self) -> None:
        """Close, politely: a client that still sends would meet a reset and lose our answer (RFC 9112 section 9.6)."""
        if self.ended:
            return
        self._send_soon()
        self.ended = True
        self.stop()
        self.abandon()
        self._level = math.inf
        if self.lingers and not self.transport.is_closing():
            self.transport.write_eof()
            self.allow(_END, self.site.clock.now + _LINGER_S)
            self.drop_input()
        else:
            self.transport.close()
            self.allow(_END, self.site.clock.now + _STUCK_S)

    def abandon(self) -> None:
        """Give up the calls whose answers cannot be sent any more."""
        site = self.site
        for exchange in self.queue:
            if not exchange.ended:
                exchange.ended = True
                exchange.status = exchange.status or 499  # the client closed the connection, as nginx has it
                site.router.abandon(exchange)
            site.held -= exchange.size
            if site.log is not None:
                site.log(exchange.log_line())
        self.queue.clear()
        self._owing.clear()
