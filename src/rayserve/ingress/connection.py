"""One client connection: its beginning, its time limits, its end; the way in is in `reading`, the way out in `answers`.

    Watched (clock) ◄── Answers ◄── Reading ◄── Connection ── asyncio's protocol for one accepted socket

No task, no future and no timer belongs to a request or a connection; the site's clock looks at `due` twice a second.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final, cast

from rayserve.ingress.bodies import BODY
from rayserve.ingress.head import Refusal
from rayserve.ingress.reading import HEAD, Reading

__all__ = ["Connection"]

_WRITE_HIGH: Final = 256 * 1024
_HALF_CLOSED_S: Final = 1.0  # how long a client that sends no more is believed to wait for its answer
_WAIT: Final = "wait"  # a time limit, in the words `Watched` knows them by


class Connection(Reading, asyncio.Protocol):
    """One accepted TCP connection."""

    __slots__ = ()

    # -- the transport's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve a client."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)
        site = self.site
        peer = transport.get_extra_info("peername")
        if peer:
            self.client = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
            self.proxied = site.proxies is not None and site.proxies.trust(peer[0])
        watched, most = site.clock.watched, site.options.max_connections
        watched.add(self)
        self.due = site.clock.now + site.options.head_timeout_s
        if len(watched) > most:
            self.refuse(Refusal(503, "queue_full", f"this server holds max_connections={most} already; try again"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up whatever the client still waited for."""
        self.site.clock.watched.discard(self)
        self.stop()
        self.ended = True
        self.incoming = None
        self.abandon()

    def eof_received(self) -> bool:
        """Hear that the client sends no more: it is gone, or it waits for its answers. Only time can tell."""
        if self.incoming is not None:
            self.refuse(Refusal(400, "bad_request", "the client stopped sending before the end of its body"))
        self.stop()
        self.lingers = False
        if not self.queue:
            return False  # the transport closes itself
        self.allow(_WAIT, self.site.clock.now + _HALF_CLOSED_S)
        return True

    # -- time ---------------------------------------------------------------------------------------

    def set_due(self) -> None:
        """Work out anew when the clock is to look here: at the earliest limit, or when idle for too long."""
        if self.queue or self.ended or self.limit != math.inf:
            self.due = self.limit
        else:
            site = self.site
            self.due = site.clock.now + site.options.keep_alive_s

    def overdue(self) -> None:
        """Hear that `due` has passed: end what took too long."""
        passed = self.exceeded(self.site.clock.now)
        if self.limit == math.inf and not passed and not self.queue:  # idle
            self.end()
        for what in passed:
            if what == HEAD:
                limit_s = self.site.options.head_timeout_s
                self.refuse(Refusal(408, "stalled", f"no whole head came within {limit_s:.0f} s"))
            elif what == BODY:
                self._judge_body()
            elif what == _WAIT:
                self._judge_waiting()
            else:
                self.judge_taking(what)
        self.set_due()

    def _judge_body(self) -> None:
        incoming, now = self.incoming, self.site.clock.now
        if incoming is None:
            return
        refusal = incoming.judge(now)
        if refusal is not None:
            self.refuse(refusal)
        else:
            self.allow(BODY, incoming.next_look(now))

    def _judge_waiting(self) -> None:
        """Decide about a client that sends no more: one that is gone would have reset an answer under way."""
        if self.queue and self.queue[0].status:
            self.allow(_WAIT, self.site.clock.now + _HALF_CLOSED_S)
        elif not self.ended:
            self.cut("it closed its end and waits for an answer that takes too long")

    # -- leaving ------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a request is under way, or its answer is still being sent."""
        return bool(self.queue) or self.incoming is not None or self.ended

    def drain(self) -> None:
        """Serve no request beyond those under way."""
        if self.queue:
            self.keeps = False
