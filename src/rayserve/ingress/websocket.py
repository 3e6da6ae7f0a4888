"""One WebSocket after its 101: a client's connection on one side, the call of an app on the other.

    client ─► Dialogue ─► messages ─► call.upload ─► app          the app is slow: no credit, reading pauses
    client ◄─ Dialogue ◄─ take(piece) ◄──────────── app          the client is slow: no credit, the app waits

There is no timer: the site's clock looks at `due`. The call's slot is held until the app has ended; the client's end
reaches the app as a CLOSE behind all of its messages, followed by a CANCEL.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from rayserve.ingress.clock import Watched
from rayserve.ingress.dialogue import Dialogue
from rayserve.wire.messages import ABNORMAL, CROWDED, FAILED, GOING_AWAY, LEAVE_S, NORMAL, RESTART, encode_close

if TYPE_CHECKING:
    from rayserve.ingress.site import Site
    from rayserve.ingress.upgrade import Upgrade

__all__ = ["WebSocket"]

_PING_S: Final = 20.0
_STUCK_S: Final = 30.0  # how long a client may take nothing, and an app none of the messages of a client that is gone
_CLOSE_S: Final = 10.0  # how long a client may take to answer our close
_LINGER_S: Final = 2.0  # how long what a client sends behind the end is read and dropped

_GRANT_STEP: Final = 64 * 1024  # a quarter of the credit: the app never waits, and most messages cost no grant

_PING, _TAKE, _CLOSING, _END, _LEFT = "ping", "take", "closing", "end", "left"


class WebSocket(Watched, asyncio.Protocol):
    """The client's side of one call; `busy`, as long as it is there."""

    __slots__ = ("_alive", "_call", "_dialogue", "_ending", "_held", "_leaving", "_level", "_lost", "_over", "_owed",
                 "_site", "_stuck", "_told", "_transport")  # fmt: skip

    busy = True

    def __init__(self, site: Site, call: Upgrade, transport: asyncio.Transport) -> None:
        """Make the WebSocket of a call; `begin` comes next."""
        super().__init__()
        self._site = site
        self._call = call
        self._transport = transport
        self._dialogue = Dialogue()
        self._alive = True  # something came since the last ping
        self._stuck = False  # the client does not take its messages; the transport's buffer is full
        self._level = math.inf  # bytes in that buffer at the last look
        self._owed = 0  # bytes from the app not yet granted back: too few, or the client has not taken them
        self._told = False  # the app was told of the client's end
        self._held = 0  # bytes of the client's messages that wait here, as counted in the site's
        self._leaving = ""  # why the client was asked to leave
        self._ending = False  # we sent the end of our bytes
        self._over = False  # the call has ended, or was given up
        self._lost = False  # the transport is closed

    def begin(self, sent: bytes | None, stuck: bool) -> None:
        """Take the transport over, `stuck` if its buffer is full; `sent` came already, None: no more will."""
        site, upload = self._site, self._call.upload
        assert upload is not None
        upload.granted = True  # the call goes nowhere else now: what was sent need not be kept
        site.clock.watched.add(self)
        site.websockets.add(self)
        self.allow(_PING, site.clock.now + _PING_S)
        self._transport.set_protocol(self)
        if stuck:
            self.pause_writing()
        if sent is None:
            self.eof_received()
            self._transport.close()
        elif sent:
            self.data_received(sent)
        if site.unready().startswith("draining"):
            self.drain()

    # -- from the client ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._alive = True
        dialogue, upload = self._dialogue, self._call.upload
        said = dialogue.feed(data)
        if said and upload is not None and not self._told:
            upload.push(said)
            self._site.router.pump(self._call)
            if upload.size:
                self._read(False)
        if self._count() > 0 and self._site.held > self._site.options.max_buffered_bytes:
            dialogue.give_up(CROWDED, "this server holds too many bytes already, try again later")
        if not dialogue.idle:
            self._write()
            if dialogue.end is not None:
                self._tell(*dialogue.end)

    def _count(self) -> int:
        """Count what is held for this client; return by how much it grew."""
        upload = self._call.upload
        waiting = upload.size if upload is not None and not self._over else 0
        grew = waiting + (0 if self._lost else self._dialogue.held) - self._held
        if grew:
            self._held += grew
            self._site.held += grew
        return grew

    def _read(self, on: bool) -> None:
        if on is not self._transport.is_reading() and not self._transport.is_closing():
            (self._transport.resume_reading if on else self._transport.pause_reading)()

    def room(self) -> None:
        """Hear that the app took some of the messages."""
        self._count()
        if self._call.upload is None or self._call.upload.size:
            return
        if self._told:
            self._leave()
        else:
            self._read(True)

    def eof_received(self) -> bool:
        """Hear that the client sends no more; without a close before, that is its end too."""
        self._dialogue.hang_up()
        self._tell(ABNORMAL)
        self.allow(_END, self._site.clock.now + _STUCK_S)
        return False

    def _tell(self, code: int, reason: str = "") -> None:
        """Tell the app that the client is gone, once it has heard all that the client said."""
        upload = self._call.upload
        if self._told or self._over or upload is None:
            return
        self._told = True
        upload.push(encode_close(GOING_AWAY, self._leaving) if self._leaving else encode_close(code, reason))
        upload.ended = True
        self._site.router.pump(self._call)
        if upload.sealed:
            self._leave()
        else:
            self.allow(_LEFT, self._site.clock.now + _STUCK_S)

    def _leave(self) -> None:
        """Give the call up: an app that only sends would never hear that nobody listens."""
        if not self._over:
            self._site.router.drop(self._call)  # not abandoned: a WebSocket ends when its client leaves
            self._ended()

    def _ended(self) -> None:
        """Note that nothing comes from the app any more."""
        self._over = True
        self._count()
        self.lift(_LEFT)
        if self._lost:
            self._site.clock.watched.discard(self)

    # -- from the app -------------------------------------------------------------------------------

    def take(self, piece: bytes | memoryview, end: bool) -> None:
        """Send on what the app says; `end`: it has ended."""
        self._dialogue.say(piece)
        if end:
            self._ended()
            self._close(NORMAL)
            return
        self._write()
        self._owed += len(piece)
        if self._owed >= _GRANT_STEP and (self._lost or not self._stuck):
            self._pay()

    def lost(self, reason: str) -> None:
        """Hear that the call failed: the app raised, its replica died or leaves, or this process stops."""
        self._ended()
        code = FAILED if reason != "draining" else GOING_AWAY if self._site.unready() else RESTART
        self._close(code, reason.replace("_", " "))

    # -- to the client ------------------------------------------------------------------------------

    def _close(self, code: int, reason: str = "") -> None:
        """Ask the client to close; harmless once either side did."""
        self._dialogue.close(code, reason)
        self._write()

    def _write(self) -> None:
        """Send what is due, and the end of our bytes behind the last of it."""
        data, last = self._dialogue.writes()
        if self._transport.is_closing():
            return
        if data:
            self._transport.write(data)
        if last and not self._ending:
            self._ending = True
            self._transport.write_eof()
            self.allow(_END, self._site.clock.now + (_STUCK_S if self._stuck else _LINGER_S))
        if not self._dialogue.open:  # the client's close has to be read, and what it sends before it dropped
            self._read(True)
            if not self._ending and not self.running(_CLOSING):
                self.allow(_CLOSING, self._site.clock.now + _CLOSE_S)

    def pause_writing(self) -> None:
        """Hear that the client takes its messages too slowly: the app gets no more credit."""
        self._stuck = True
        self._level = self._transport.get_write_buffer_size()
        self.allow(_TAKE, self._site.clock.now + _STUCK_S)

    def resume_writing(self) -> None:
        """Hear that the client has caught up."""
        self._stuck = False
        self.lift(_TAKE)
        self._pay()

    def _pay(self) -> None:
        """Grant the app the credit for what the client has taken."""
        owed, self._owed = self._owed, 0
        if owed and not self._over:
            self._site.router.grant(self._call, owed)

    # -- time, and the end --------------------------------------------------------------------------

    def overdue(self) -> None:
        """Hear that `due` has passed."""
        now = self._site.clock.now
        for what in self.exceeded(now):
            if what == _PING:
                self._judge_silence(now)
            elif what == _LEFT:
                self._leave()
            elif what == _TAKE and self._transport.get_write_buffer_size() < self._level:
                self._level = self._transport.get_write_buffer_size()
                self.allow(_TAKE, now + _STUCK_S)
            else:
                self.end()
        self.due = self.limit

    def _judge_silence(self, now: float) -> None:
        """Ping a client that lives; end one that said nothing since the last ping."""
        dialogue = self._dialogue
        if not dialogue.open:
            return  # another limit runs
        if self._alive or self._stuck or not self._transport.is_reading():  # its pong may wait behind other things
            self._alive = False
            dialogue.ping()
            self._write()
            self.allow(_PING, now + _PING_S)
        else:
            dialogue.give_up(FAILED, f"no answer to a ping within {_PING_S:.0f} s")
            self._write()
            self._tell(ABNORMAL)

    def end(self) -> None:
        """Close without further ado."""
        self._transport.abort()

    def drain(self) -> None:
        """Ask the client to go elsewhere; the app hears of it once it has, or has had its time."""
        why = "this server is going away"
        if self._dialogue.close(GOING_AWAY, why):
            self._leaving = why
            self.allow(_CLOSING, self._site.clock.now + LEAVE_S)
            self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the client is gone for good."""
        site = self._site
        self._lost = True
        site.websockets.discard(self)
        for what in (_PING, _TAKE, _CLOSING, _END):
            self.lift(what)
        self._tell(ABNORMAL)
        self._count()
        if self._over:
            site.clock.watched.discard(self)
        else:
            self.resume_writing()
        if site.log is not None:
            site.log(self._call.log_line())
