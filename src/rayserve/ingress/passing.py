"""A request body that goes on to a replica while the client still sends it.

    bytes of the connection ─► Length | Chunked ─► exchange.upload ─► DATA under the replica's credit
                                    no room there: `full`, and reading pauses ◄── WINDOW ─► room

Only where every backend of the endpoint asks for that: a slow client then holds a slot on a replica. A body that comes
together with its head, or whole at once, is submitted whole like any other. When the answer is complete before the
body is, the rest is read and dropped, up to a limit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from rayserve.ingress.body import Chunked, Length
from rayserve.ingress.incoming import LOOK_S, Incoming
from rayserve.ingress.refusal import Refusal
from rayserve.wire.codec import MAX_SMALL

if TYPE_CHECKING:
    from rayserve.ingress.exchange import Exchange
    from rayserve.ingress.site import Site

__all__ = ["Passing"]

_AHEAD: Final = 64 * 1024  # bytes that may wait here for credit until reading pauses
_DROPPED: Final = 256 * 1024  # bytes of a body that are read for nothing, to keep the connection


class Passing(Incoming):
    """One body on its way through."""

    __slots__ = ("_came", "_dropped", "_paused")

    def __init__(self, site: Site, exchange: Exchange, decoder: Length | Chunked, timeout_s: float) -> None:
        """Make ready; see `Incoming`."""
        super().__init__(site, exchange, decoder, timeout_s)
        self._came = 0
        self._dropped = 0
        self._paused = False  # since the last look the replica, not the client, was what held the body up

    def begin_early(self) -> None:
        """Submit the call before any of its body is here, unless that is small: then it is likely to come at once."""
        decoder = self._decoder
        if isinstance(decoder, Chunked) or decoder.left > MAX_SMALL:
            self._begin()

    def _begin(self) -> None:
        self.begun = True
        self.exchange.upload = self._upload()
        self._came = self.exchange.size
        self._site.router.submit(self.exchange)
        self.room()

    def feed(self, data: bytes, start: int) -> int:
        """Pass body bytes from `data[start:]` on; return where they end.

        Raises:
            Refusal: broken framing, or too much.
        """
        if not self.begun:
            end = super().feed(data, start)
            if not self._decoder.done:
                self._begin()
            return end
        pieces, end = self._decoder.feed(data, start)
        size = sum(map(len, pieces))
        self._came += size
        exchange, upload = self.exchange, self.exchange.upload
        if exchange.ended or upload is None:
            self._dropped += size
            return end
        for piece in pieces:
            upload.push(piece)
        self._site.router.pump(exchange)
        self.room()
        if self._site.held > self._site.options.max_buffered_bytes:
            raise Refusal(503, "queue_full", self._site.full())
        return end

    def room(self) -> None:
        """Count anew what is held: all of it until the replica took some, then what waits for credit."""
        exchange, upload = self.exchange, self.exchange.upload
        if exchange.ended or upload is None:  # what it held was counted off with the answer
            return
        held = upload.size if upload.granted else self._came
        self._site.held += held - exchange.size
        exchange.size = held
        self._paused = self._paused or self.full

    @property
    def full(self) -> bool:
        """Whether reading pauses: too much waits for the replica's credit."""
        upload = self.exchange.upload
        return self.begun and not self.exchange.ended and upload is not None and upload.size > _AHEAD

    @property
    def forgone(self) -> bool:
        """Whether the answer is complete and too much is left of the body to read it for nothing."""
        left = self._decoder.left if isinstance(self._decoder, Length) else 0
        return self.begun and self.exchange.ended and self._dropped + left > _DROPPED

    def whole(self) -> bool:
        """Return whether all of it has come."""
        if not self.begun:
            return super().whole()
        upload = self.exchange.upload
        if self._decoder.done and upload is not None and not self.exchange.ended:
            upload.ended = True
            self._site.router.pump(self.exchange)
        return self._decoder.done

    def next_look(self, now: float) -> float:
        """Return when to judge this body next: once a replica has the call, `timeout_s` is the router's to watch."""
        if not self.begun:
            return super().next_look(now)
        return now + LOOK_S if self._site.options.min_body_rate else math.inf

    def judge(self, now: float) -> Refusal | None:
        """Return the refusal of a body that came too slowly while there was room for it."""
        if not self.begun:
            return super().judge(now)
        paused, self._paused = self._paused, self.full
        if paused:
            self._marked = self._came
            return None
        return self._too_slow(self._came, now)
