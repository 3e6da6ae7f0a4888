"""The bodies of a connection's requests: gathered here, or passed on while they arrive.

    head ─► _begin_body ─► all of it is here: the request is whole
                       └─► Incoming, Passing ◄── _read_body ◄── bytes          whole ─► the next head

A body whose request is answered already is read on for a while, for nothing, so that the connection can be used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rayserve.ingress import render
from rayserve.ingress.answers import Answers
from rayserve.ingress.body import Chunked, Length
from rayserve.ingress.incoming import Incoming
from rayserve.ingress.passing import Passing
from rayserve.wire.codec import MAX_SMALL

if TYPE_CHECKING:
    from rayserve.ingress.exchange import Exchange
    from rayserve.ingress.site import Site

__all__ = ["BODY", "Bodies"]

BODY: Final = "body"  # a time limit, in the words `Watched` knows them by


class Bodies(Answers):
    """One client connection as a source of bodies.

    Attributes:
        incoming: the body that is being read.
    """

    __slots__ = ("_buffer", "_held_back", "_position", "incoming")

    def __init__(self, site: Site) -> None:
        """Start at the beginning of a head."""
        super().__init__(site)
        self.incoming: Incoming | None = None
        self._buffer = b""  # received and not yet understood, from `_position` on
        self._position = 0
        self._held_back = False  # what is in the buffer may not be served yet

    def _begin_body(self, exchange: Exchange, length: int | None, timeout_s: float) -> bool:
        """Take a body that is here already, which is the common case; True if it is still to be gathered."""
        site, start = self.site, self._position
        if length is not None and length <= MAX_SMALL and start + length <= len(self._buffer):
            self._position = end = start + length
            exchange.body = self._buffer[start:end]
            exchange.size = length
            site.held += length
            return False
        if exchange.head.expect_continue and start >= len(self._buffer):
            self.write(exchange, render.CONTINUE)
        decoder = Length(length) if length is not None else Chunked(exchange.max_body_bytes, site.limits)
        if exchange.endpoint in site.streaming_endpoints:
            self.incoming = passing = Passing(site, exchange, decoder, timeout_s)
            if start >= len(self._buffer):
                passing.begin_early()
        else:
            self.incoming = Incoming(site, exchange, decoder, timeout_s)
        self.allow(BODY, self.incoming.next_look(site.clock.now))
        return True

    def _read_body(self, incoming: Incoming) -> bool:
        """Read on in a body; False if more must come, or nothing may for now."""
        begun = incoming.begun
        self._position = incoming.feed(self._buffer, self._position)
        if incoming.whole():
            self.incoming = None
            self.lift(BODY)
            if not incoming.begun:
                self.site.router.submit(incoming.exchange)
            return True
        if incoming.forgone:
            self._leave_off()
            return False
        if incoming.begun is not begun:
            self.allow(BODY, incoming.next_look(self.site.clock.now))
        self._held_back = incoming.full
        return False

    def room(self, exchange: Exchange) -> None:
        """Hear that a replica took some of a body; read on if it is the one that is arriving."""
        incoming = self.incoming
        if incoming is not None and incoming.exchange is exchange:
            incoming.room()
            self.serve_on()

    # -- when the answer is first -------------------------------------------------------------------

    def _leave_off(self) -> None:
        """Read no more of a body whose answer is complete; what would follow it is not served either."""
        self.incoming = None
        self.stop()
        self.lingers = True
        if not self.queue:
            self.end()

    def close_after(self, exchange: Exchange) -> None:
        """Send nothing behind the answer of `exchange`, whose own body may be arriving still."""
        if self.incoming is not None and self.incoming.exchange is exchange:
            self.keeps = False
            self._closing = exchange
        else:
            super().close_after(exchange)

    def end(self) -> None:
        """Close, politely to a client that still sends the body of what was answered."""
        if self.incoming is not None and self.incoming.exchange.ended:
            self.lingers = True
        super().end()
