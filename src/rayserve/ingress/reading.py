"""The way into a connection: bytes of the client become requests, in order, and the router's.

    data_received ─► head ─► body ─► Exchange ─► router          (at most 16 at once, then reading pauses)
                       │      └─► its upload, where backends want bodies as they arrive
                       └──────┴─► Turned or Refusal ─► an answer of our own

Reading also pauses while the client takes no answers, so that one that only sends costs a bounded amount of memory.
"""

from __future__ import annotations

from typing import Final

from rayserve.ingress import render, upgrade
from rayserve.ingress.bodies import BODY, Bodies
from rayserve.ingress.exchange import Exchange
from rayserve.ingress.head import Head, Refusal, check_partial, parse_head, skip_empty_lines, timeout_ms
from rayserve.ingress.site import Site
from rayserve.ingress.turned import Turned
from rayserve.ingress.upgrade import Upgrade
from rayserve.wire.heads import Failure

__all__ = ["HEAD", "Reading"]

HEAD: Final = "head"  # a time limit, in the words `Watched` knows them by

_PIPELINE: Final = 16  # requests of one connection under way at once
_TURN: Final = 64  # heads, or reads of a body, of one connection until the others get a turn
_RECHECK: Final = 4 * 1024  # an unfinished line of a head is looked at again when it grew by so much
_REMEMBERED: Final = 2 * 1024  # bytes of a head that an idle connection may keep
_CR: Final = 13


class Reading(Bodies):
    """One client connection as a source of requests."""

    __slots__ = ("_checked", "_deaf", "_known", "_reading", "_working")

    def __init__(self, site: Site) -> None:
        """Start at the beginning of a head."""
        super().__init__(site)
        self._checked = 0  # bytes of an unfinished head that were looked at
        self._reading = True
        self._working = False
        self._deaf = False  # bytes from the client are dropped
        self._known: tuple[bytes, Head] | None = None  # the last head, as it came and as it was understood

    def set_due(self) -> None:
        """Work out anew when the clock is to look at this connection."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._deaf:
            self.lingers = True
            return
        if self._buffer:
            self._buffer = self._buffer[self._position :] + data
            self._position = 0
        else:
            self._buffer = data
        self._work()

    # -- reading ------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Understand as much of the buffer as may be served now."""
        if self._working or self._deaf:
            return
        self._working = True
        self._held_back = self.incoming is not None and self.incoming.full
        try:
            for _ in range(_TURN):
                if self._held_back or self._position >= len(self._buffer) or self._deaf:
                    break
                if not (self._read_head() if self.incoming is None else self._read_body(self.incoming)):
                    break
            else:
                self._held_back = True
                self.site.loop.call_soon(self._work)
        except Refusal as refusal:
            self.refuse(refusal)
        finally:
            self._working = False
        if self._position >= len(self._buffer):
            self._buffer = b""
            self._position = 0
        if self._reading is self._held_back:
            self._read(not self._held_back)
        self.set_due()

    def serve_on(self) -> None:
        """Go on with what was held back."""
        if self._working:
            return
        if self._buffer or not self._reading:
            self._work()
        else:
            self.set_due()

    def _read(self, on: bool) -> None:
        self._reading = on
        if self.transport.is_closing():
            return
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _read_head(self) -> bool:
        """Read one head; False if there is no whole one, or no room for another request."""
        if self.queue and type(self.queue[-1]) is Upgrade:
            self._held_back = True  # it may be no HTTP, that shows with the answer
            return False
        if not self.keeps:
            self.stop()
            self.lingers = True
            return False
        buffer, start = self._buffer, self._position
        if buffer[start] == _CR:
            start = self._position = skip_empty_lines(buffer, start)
        end = buffer.find(b"\r\n\r\n", start if not self._checked else max(start, start + self._checked - 3))
        if end < 0:
            self._check_unfinished(buffer, start)
            return False
        if self._checked:
            self._checked = 0
            self.lift(HEAD)
        if len(self.queue) >= _PIPELINE or self.stuck:
            self._held_back = True
            return False
        self._position = end + 4
        self._begin(self._understood(buffer[start : end + 4]))
        return True

    def _understood(self, raw: bytes) -> Head:
        """Judge and read a head; the same bytes as those before mean the same."""
        known = self._known
        if known is not None and known[0] == raw:
            return known[1]
        head = parse_head(raw, self.site.limits)
        self._known = (raw, head) if len(raw) <= _REMEMBERED else None
        return head

    def _check_unfinished(self, buffer: bytes, start: int) -> None:
        """Refuse what cannot become a head; one that comes byte by byte is not read anew for each of them."""
        size, checked = len(buffer) - start, self._checked
        if not size:  # nothing but empty lines
            self._checked = 0
            self.lift(HEAD)
            return
        if not checked:
            self.allow(HEAD, self.site.clock.now + self.site.options.head_timeout_s)
        if not checked or size - checked >= _RECHECK or buffer.find(b"\n", start + checked) >= 0:
            check_partial(buffer[start:] if start else buffer, self.site.limits)
            self._checked = size

    def _begin(self, head: Head) -> None:
        """Route a request, and have its body read."""
        site, fields = self.site, head.fields
        request_id = site.request_id(fields.get("x-request-id"))
        if not head.keep_alive or site.closes:
            self.keeps = False  # what follows a "close" is not served (RFC 9112 section 9.6)
        found = site.find(head)
        if isinstance(found, Turned):
            self._turn(Exchange(self, head, None, request_id, 0.0), found)
            return
        timeout_s = found.endpoint.options.timeout_s
        length = head.content_length
        if (
            (
                length
                and length > min(found.endpoint.options.max_body_bytes, site.options.max_buffered_bytes - site.held)
            )
            or "x-request-timeout-ms" in fields
            or "x-serve-call-method" in fields
        ):
            objection = site.objection(found, head)
            if objection is not None:
                self._turn(Exchange(self, head, found, request_id, timeout_s), objection)
                return
            if "x-request-timeout-ms" in fields:
                timeout_s = min(timeout_s, timeout_ms(fields["x-request-timeout-ms"]) / 1000)
        exchange = Exchange(self, head, found, request_id, timeout_s)
        if head.upgrade and upgrade.wanted(site, head, found):
            objection = upgrade.objection(site, head, bool(self.queue))
            if objection is not None:
                self._turn(exchange, objection)
                return
            exchange = Upgrade(self, head, found, request_id, timeout_s)
        self.queue.append(exchange)
        if (length or head.chunked) and self._begin_body(exchange, length, timeout_s):
            return
        site.router.submit(exchange)

    # -- answers of our own -------------------------------------------------------------------------

    def _turn(self, exchange: Exchange, turned: Turned) -> None:
        """Answer a request ourselves, before its body."""
        head = exchange.head
        length = head.content_length or 0
        if head.chunked or length > len(self._buffer) - self._position:
            self.stop()  # where the next request would begin is not known yet
            self.lingers = True
        else:
            self._position += length
        self.queue.append(exchange)
        if turned.reason:
            self.site.router.refused(exchange.endpoint, turned.reason)
            exchange.turn(turned.status, turned.reason, turned.detail, turned.headers)
        else:
            exchange.reply(turned.status, turned.headers, turned.body)

    def refuse(self, refusal: Refusal) -> None:
        """Answer bytes that are no request, and close: what follows cannot be trusted."""
        incoming, self.incoming = self.incoming, None
        if incoming is None:
            exchange = Exchange(self, render.NO_HEAD, None, self.site.request_id(), 0.0)
            self.queue.append(exchange)
        elif incoming.exchange.ended:
            self._leave_off()
            return
        else:
            exchange = incoming.exchange
            if incoming.begun:
                self.site.router.drop(exchange)
        self.stop()
        self.lingers = True
        self.site.router.refused(exchange.endpoint, refusal.reason)
        failure = Failure(refusal.reason, refusal.detail, refusal.status)
        exchange.failed(failure, b"", retry_after_s=1 if refusal.status == 503 else 0)

    def stop(self) -> None:
        """Understand nothing more of what the client sends."""
        self.keeps = False
        self._deaf = True
        self._buffer = b""
        self._position = 0
        if not self._reading:
            self.lingers = True
        self.lift(HEAD)
        self.lift(BODY)

    def hand_over(self) -> bytes | None:
        """Leave HTTP for good, in favour of another protocol; return what the client sent behind its last request.

        None: it sends no more.
        """
        sent = None if self._deaf else self._buffer[self._position :]
        if not self._reading:
            self._read(True)
        self.stop()
        self.ended = True
        self.queue.clear()
        self.site.clock.watched.discard(self)
        return sent

    def drop_input(self) -> None:
        """Read on, so that the client can finish sending; `data_received` drops what comes."""
        if not self._reading:
            self._read(True)
