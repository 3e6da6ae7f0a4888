"""A request body that is still arriving: its pieces, and whether they come fast enough.

    bytes of the connection ─► Length | Chunked ─► pieces ─► whole ─► exchange.body, or exchange.upload if it is large

Bodies are gathered whole before a replica hears of the call, so that a slow client holds memory here, which is
counted and bounded, and not a slot there; `passing` has those that backends want as they arrive. A body that came
together with its head never meets this class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from rayserve.ingress.body import Chunked, Length
from rayserve.ingress.exchange import Exchange
from rayserve.ingress.refusal import Refusal
from rayserve.router.call import Upload
from rayserve.wire.codec import MAX_SMALL

if TYPE_CHECKING:
    from rayserve.ingress.site import Site

__all__ = ["LOOK_S", "Incoming"]

LOOK_S: Final = 10.0  # how often the rate of a body is judged, over the time since the last look
_TINY: Final = 4 * 1024  # pieces up to this are gathered in blocks: an object each would outweigh their bytes
_BLOCK: Final = 64 * 1024


class Incoming:
    """One body on its way in.

    Attributes:
        exchange: the request it belongs to.
        ends: when the request's time is up, on the site's clock.
        pieces: what has come so far, tiny pieces joined.
        begun: the router has the call already.
    """

    __slots__ = ("_began", "_block", "_decoder", "_marked", "_site", "begun", "ends", "exchange", "pieces")

    def __init__(self, site: Site, exchange: Exchange, decoder: Length | Chunked, timeout_s: float) -> None:
        """Start to gather what `decoder` hands out, for `exchange`, within `timeout_s`."""
        self.exchange = exchange
        self.ends = site.clock.now + timeout_s
        self.begun = False
        self._site = site
        self._decoder = decoder
        self._began = site.clock.now
        self.pieces: list[bytes | bytearray | memoryview] = []
        self._block: bytearray | None = None  # the last piece, while tiny ones may be added to it
        self._marked = 0  # bytes that had come at the last look

    def feed(self, data: bytes, start: int) -> int:
        """Take body bytes from `data[start:]`; return where they end.

        Raises:
            Refusal: broken framing, or too much.
        """
        site = self._site
        pieces, end = self._decoder.feed(data, start)
        size = 0
        for piece in pieces:
            size += len(piece)
            if len(piece) > _TINY:
                self._block = None
                self.pieces.append(piece)
                continue
            if self._block is None or len(self._block) >= _BLOCK:
                self._block = bytearray()
                self.pieces.append(self._block)
            self._block += piece
        self.exchange.size += size
        site.held += size
        if site.held > site.options.max_buffered_bytes:
            raise Refusal(503, "queue_full", site.full())
        return end

    @property
    def full(self) -> bool:
        """Whether no more is to be read from the client for now."""
        return False

    @property
    def forgone(self) -> bool:
        """Whether what is left is not worth reading."""
        return False

    def room(self) -> None:
        """Hear that the replica took some of it."""

    def whole(self) -> bool:
        """Return whether all of it is here; if so it is the exchange's now."""
        if not self._decoder.done:
            return False
        exchange = self.exchange
        if exchange.size <= MAX_SMALL:
            exchange.body = b"".join(self.pieces)
        else:
            exchange.upload = self._upload()
            exchange.upload.ended = True
        return True

    def _upload(self) -> Upload:
        upload = Upload()
        for piece in self.pieces:
            upload.push(memoryview(piece) if isinstance(piece, bytearray) else piece)
        return upload

    def next_look(self, now: float) -> float:
        """Return when to judge this body next."""
        return min(now + LOOK_S, self.ends) if self._site.options.min_body_rate else self.ends

    def judge(self, now: float) -> Refusal | None:
        """Return the refusal of a body that came too slowly since the last look, or in all."""
        came = self.exchange.size
        if now >= self.ends:
            waited = f"{came} bytes in {now - self._began:.0f} s"
            limit = f"endpoint {self.exchange.endpoint!r} gives a request {math.ceil(self.ends - self._began)} s"
            return Refusal(408, "stalled", f"the body did not arrive in time: {waited}, and {limit}")
        return self._too_slow(came, now)

    def _too_slow(self, came: int, now: float) -> Refusal | None:
        """Judge the rate since the last look; `came`: bytes so far."""
        rate = self._site.options.min_body_rate
        if came - self._marked < rate * LOOK_S:
            waited = f"{came} bytes in {now - self._began:.0f} s"
            return Refusal(408, "stalled", f"the body came too slowly: {waited}; min_body_rate is {rate:.0f} bytes/s")
        self._marked = came
        return None
