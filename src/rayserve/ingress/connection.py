"""One client connection: bytes in, exchanges in order, bytes out.

    data_received ─► head ─► body ─► Exchange ─► router          (at most 16 at once, then reading pauses)
    client        ◄─ transport ◄── the first exchange of the queue; the others keep their bytes until it is their turn

No task, no future and no timer belongs to a request; the site's clock looks at `due` twice a second.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import Final, cast

from rayserve.ingress import render
from rayserve.ingress.body import Chunked, Length
from rayserve.ingress.exchange import Exchange
from rayserve.ingress.head import (
    Head,
    Refusal,
    check_partial,
    parse_head,
    skip_empty_lines,
    timeout_ms,
    valid_request_id,
)  # fmt: skip
from rayserve.ingress.site import Found, Site, Sweepable, Turned
from rayserve.router.call import Upload
from rayserve.wire.codec import MAX_SMALL

__all__ = ["Connection"]

_log = logging.getLogger(__name__)
_PIPELINE: Final = 16  # requests of one connection under way at once
_BODY_GRACE_S: Final = 5.0  # how long a body may be slow before its rate is judged
_STUCK_S: Final = 30.0  # how long a client may take nothing of its answer
_LINGER_S: Final = 2.0  # how long the rest of a refused body is read and dropped
_WRITE_HIGH: Final = 256 * 1024


class Connection(asyncio.Protocol, Sweepable):
    """One accepted TCP connection."""

    __slots__ = (
        "_body", "_body_read", "_body_since", "_buffer", "_closing", "_deaf", "_exchange", "_head_due", "_lingers",
        "_owing", "_pieces", "_position", "_reading", "_stuck", "_stuck_due", "_working", "client", "keeps",
        "queue", "scheme", "site", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, site: Site) -> None:
        """Make the protocol of a connection that is about to be accepted."""
        self.site = site
        self.client = ""
        self.scheme = "http"
        self.queue: deque[Exchange] = deque()
        self.keeps = True  # the connection may serve another request after those in the queue
        self._buffer = b""
        self._position = 0
        self._body: Length | Chunked | None = None  # decoder of the body that is being read
        self._exchange: Exchange | None = None  # the exchange that body belongs to
        self._pieces: list[bytes | memoryview] = []
        self._body_read = 0
        self._body_since = 0.0
        self._head_due = math.inf
        self._reading = True
        self._working = False
        self._closing: Exchange | None = None  # the last exchange this connection serves
        self._deaf = False  # bytes from the client are dropped
        self._lingers = False
        self._stuck = False  # the transport's buffer is full
        self._stuck_due = math.inf
        self._owing: dict[Exchange, int] = {}  # answer bytes not yet granted back to the replica

    # -- the transport's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve a client."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)
        peer = transport.get_extra_info("peername")
        if peer:
            self.client = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        site = self.site
        self.due = site.now + site.options.head_timeout_s
        site.connections.add(self)
        if len(site.connections) > site.options.max_connections:
            detail = f"this server holds max_connections={site.options.max_connections} already; try again"
            self._refuse(Refusal(503, "queue_full", detail))

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up whatever the client still waited for."""
        self.site.connections.discard(self)
        self._deaf = True
        self.keeps = False
        self._drop_body()
        router = self.site.router
        for exchange in self.queue:
            if not exchange.ended:
                router.abandon(exchange)
                exchange.ended = True
            self.site.held -= exchange.size
        self.queue.clear()
        self._owing.clear()

    def eof_received(self) -> bool:
        """Keep a half-closed connection until its answers are sent."""
        self.keeps = False
        if self._body is not None:
            return False  # the rest of this body will never come
        return bool(self.queue)

    def pause_writing(self) -> None:
        """Hear that the client takes its answer too slowly: replicas get no more credit."""
        self._stuck = True
        self._stuck_due = self.site.now + _STUCK_S
        self._set_due()

    def resume_writing(self) -> None:
        """Hear that the client has caught up."""
        self._stuck = False
        self._stuck_due = math.inf
        self._grant()
        self._set_due()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._deaf:
            return
        if self._buffer:
            self._buffer = self._buffer[self._position :] + data
        else:
            self._buffer = data
        self._position = 0
        self._work()

    # -- reading ------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self._working or self._deaf:
            return
        self._working = True
        try:
            while self._position < len(self._buffer) and not self._deaf:
                if not (self._read_head() if self._body is None else self._read_body()):
                    break
            if self._position >= len(self._buffer):
                self._buffer = b""
                self._position = 0
        except Refusal as refusal:
            self._refuse(refusal)
        finally:
            self._working = False
        self._set_due()

    def _read_head(self) -> bool:
        """Read one head; False if there is no whole one, or no room for another request."""
        if not self.keeps:
            self._deaf = True
            return False
        buffer, site = self._buffer, self.site
        start = skip_empty_lines(buffer, self._position)
        end = buffer.find(b"\r\n\r\n", start)
        if end < 0:
            self._position = start
            check_partial(buffer[start:] if start else buffer, site.limits)
            if self._head_due == math.inf:
                self._head_due = site.now + site.options.head_timeout_s
            return False
        if len(self.queue) >= _PIPELINE:
            if self._reading:
                self._reading = False
                self.transport.pause_reading()
            return False
        end += 4
        self._position = end
        self._head_due = math.inf
        self._begin(parse_head(buffer[start:end], site.limits))
        return True

    def _begin(self, head: Head) -> None:
        """Route a request and read its body."""
        site, fields = self.site, head.fields
        sent = fields.get("x-request-id")
        request_id = site.request_id(sent if sent is not None and valid_request_id(sent) else None)
        found = site.find(head)
        if isinstance(found, Turned):
            self._turn(Exchange(self, head, None, request_id, 0.0), found)
            return
        options = found.endpoint.options
        timeout_s = options.timeout_s
        asked = fields.get("x-request-timeout-ms")
        exchange = Exchange(self, head, found, request_id, timeout_s)
        if asked is not None:
            try:
                timeout_s = min(timeout_s, timeout_ms(asked) / 1000)
            except Refusal as refusal:
                self._turn(exchange, Turned(refusal.status, refusal.reason, refusal.detail))
                return
            exchange.deadline = min(exchange.deadline, exchange.deadline - options.timeout_s + timeout_s)
        if "x-serve-call-method" in fields and (turned := _forbidden(found, fields["x-serve-call-method"])):
            self._turn(exchange, turned)
            return
        length = head.content_length
        if head.chunked or length:
            turned = self._too_large(found, length or 0)
            if turned is not None:
                self._turn(exchange, turned)
                return
            if self._small_body(exchange, length):
                return
            if head.expect_continue and not self.queue:
                self.transport.write(render.CONTINUE)
            limit = options.max_body_bytes
            self._body = Chunked(limit, site.limits) if length is None else Length(length)
            self._exchange = exchange
            self._body_since = site.now
            self._body_read = 0
            self.queue.append(exchange)
            return
        self.queue.append(exchange)
        site.router.submit(exchange)

    def _small_body(self, exchange: Exchange, length: int | None) -> bool:
        """Take a body that is here already; the common case, without a decoder."""
        if length is None or length > MAX_SMALL:
            return False
        end = self._position + length
        if end > len(self._buffer):
            return False
        exchange.body = self._buffer[self._position : end]
        exchange.size = length
        self.site.held += length
        self._position = end
        self.queue.append(exchange)
        self.site.router.submit(exchange)
        return True

    def _too_large(self, found: Found, length: int) -> Turned | None:
        options, site = found.endpoint.options, self.site
        if length > options.max_body_bytes:
            detail = f"the body has {length} bytes; endpoint {found.endpoint.name!r} takes {options.max_body_bytes}"
            return Turned(413, "too_large", f"{detail} (max_body_bytes)")
        if site.held + length > site.options.max_buffered_bytes:
            return Turned(503, "queue_full", f"{site.held} bytes of request bodies are held here already; try again")
        return None

    def _read_body(self) -> bool:
        body, exchange = self._body, self._exchange
        assert body is not None and exchange is not None
        pieces, self._position = body.feed(self._buffer, self._position)
        for piece in pieces:
            self._pieces.append(piece)
            size = len(piece)
            exchange.size += size
            self._body_read += size
            self.site.held += size
        if self.site.held > self.site.options.max_buffered_bytes:
            raise Refusal(503, "queue_full", f"{self.site.held} bytes of request bodies are held here; try again")
        if not body.done:
            return False
        self._body = None
        self._exchange = None
        pieces, self._pieces = self._pieces, []
        if exchange.size <= MAX_SMALL:
            exchange.body = b"".join(pieces)
        else:
            upload = exchange.upload = Upload()
            for piece in pieces:
                upload.push(piece)
            upload.ended = True
        self.site.router.submit(exchange)
        return True

    def _turn(self, exchange: Exchange, turned: Turned) -> None:
        """Answer a request ourselves, before its body."""
        head = exchange.head
        length = head.content_length or 0
        if head.chunked or length > len(self._buffer) - self._position:
            self._stop(exchange)  # where the next request would begin is not known yet
            self._lingers = True
        else:
            self._position += length
        self.queue.append(exchange)
        if turned.reason:
            exchange.turn(turned.status, turned.reason, turned.detail, turned.headers)
        else:
            exchange.reply(turned.status, turned.headers, turned.body)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer bytes that are no request, and close: what follows cannot be trusted."""
        exchange = self._exchange
        self._drop_body()
        if exchange is None:
            exchange = Exchange(self, render.NO_HEAD, None, self.site.request_id(None), 0.0)
            self.queue.append(exchange)
        self._stop(exchange)
        self._lingers = True
        exchange.turn(refusal.status, refusal.reason, refusal.detail)

    def _drop_body(self) -> None:
        self._body = None
        self._exchange = None
        self._pieces = []

    # -- writing, called by exchanges ---------------------------------------------------------------

    def write(self, exchange: Exchange, data: bytes | memoryview) -> None:
        """Send bytes of an answer, or keep them until it is its turn."""
        if self.queue and self.queue[0] is exchange:
            self.transport.write(data)
        else:
            exchange.pending.append(data)

    def consumed(self, exchange: Exchange, size: int) -> None:
        """Return credit for answer bytes, once the client's connection has taken them."""
        if self._stuck or self.queue[0] is not exchange:
            self._owing[exchange] = self._owing.get(exchange, 0) + size
        else:
            self.site.router.grant(exchange, size)

    def _grant(self) -> None:
        if self.queue and not self._stuck:
            size = self._owing.pop(self.queue[0], 0)
            if size:
                self.site.router.grant(self.queue[0], size)

    def close_after(self, exchange: Exchange) -> None:
        """Serve nothing behind `exchange`."""
        self._stop(exchange)

    def _stop(self, exchange: Exchange) -> None:
        self.keeps = False
        self._deaf = True
        self._closing = exchange

    def finished(self, exchange: Exchange) -> None:
        """Hear that an answer is complete; send what waited behind it."""
        queue = self.queue
        while queue and queue[0].ended:
            done = queue.popleft()
            self.site.held -= done.size
            self._owing.pop(done, None)
            if self.site.log is not None:
                self.site.log(done.log_line())
            if done is self._closing or (not self.keeps and not queue and self._body is None):
                self._end()
                return
            if queue:
                for data in queue[0].pending:
                    self.transport.write(data)
                queue[0].pending = []
                self._grant()
        if not self._working and not self._deaf:
            if not self._reading:
                self._reading = True
                self.transport.resume_reading()
            if self._buffer:
                self._work()
            else:
                self._set_due()

    def _end(self) -> None:
        """Close, politely: a client that still sends would meet a reset and lose our answer (RFC 9112 section 9.6)."""
        self._deaf = True
        if self._lingers and not self.transport.is_closing():
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._buffer = b""
            self.due = self.site.now + _LINGER_S
            if not self._reading:
                self._reading = True
                self.transport.resume_reading()
        else:
            self.transport.close()

    def cut(self, why: str) -> None:
        """Break the connection, so that the client sees that its answer is not whole."""
        _log.warning("cut the connection of %s: %s", self.client, why)
        self.transport.abort()

    # -- time ---------------------------------------------------------------------------------------

    def _set_due(self) -> None:
        site = self.site
        if self._deaf and not self.queue:
            return  # closing or lingering
        if self._stuck:
            self.due = self._stuck_due
        elif self._body is not None:
            self.due = site.now + _BODY_GRACE_S
        elif self._head_due != math.inf:
            self.due = self._head_due
        elif self.queue:
            self.due = math.inf
        else:
            self.due = site.now + site.options.keep_alive_s

    def overdue(self) -> None:
        """Hear that `due` has passed: end what took too long."""
        site = self.site
        if self._stuck:
            self.cut(f"it took nothing of its answer for {_STUCK_S:.0f} s")
        elif self._body is not None:
            waited = site.now - self._body_since
            if self._body_read < (waited - _BODY_GRACE_S) * site.options.min_body_rate or not self._body_read:
                rate = f"{self._body_read} bytes in {waited:.0f} s; min_body_rate is {site.options.min_body_rate:.0f}/s"
                self._refuse(Refusal(408, "stalled", f"the body came too slowly: {rate}"))
            else:
                self.due = site.now + 1.0
        elif self._head_due != math.inf:
            self._head_due = math.inf
            self._refuse(Refusal(408, "stalled", f"no whole head within {site.options.head_timeout_s:.0f} s"))
        else:
            self.transport.close()

    def drain(self) -> None:
        """Close when idle; finish what is under way first."""
        if not self.queue and self._body is None:
            self._deaf = True
            self.transport.close()
        else:
            self.keeps = False


def _forbidden(found: Found, method: str) -> Turned | None:
    """Return the refusal of a call method that the endpoint does not allow; the replica knows what exists."""
    allowed = found.endpoint.options.call_methods
    name = found.endpoint.name
    if allowed is False or (isinstance(allowed, tuple) and method not in allowed):
        choices = ", ".join(allowed) if isinstance(allowed, tuple) and allowed else "none"
        return Turned(404, "not_found", f"endpoint {name!r} lets no client call method {method!r}; allowed: {choices}")
    return None
