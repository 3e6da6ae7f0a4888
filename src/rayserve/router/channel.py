"""A channel: this process's link to one replica, and the calls that fly on it.

    open(call) ─► OPEN, DATA… ─► link ─► replica ─► STARTED, HEAD, DATA, FAIL, REJECT ─► the call

One slot, one end: a stream holds its slot until its terminal frame (HEAD or DATA with END, FAIL,
REJECT) or until the link is lost; nothing else frees it, also not our own time-out or a CANCEL.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rayserve.model.table import Replica
from rayserve.router.call import Call
from rayserve.wire import codec, heads
from rayserve.wire.board import Board
from rayserve.wire.codec import CALL, DATA, END, FAIL, FREE, GOAWAY, HEAD, NOT_IDEMPOTENT, PONG, REJECT, STARTED, WINDOW
from rayserve.wire.link import HIGH_WATER, Link, LinkLost

if TYPE_CHECKING:
    from rayserve.router.pool import Pool
    from rayserve.router.router import Router

__all__ = ["Channel"]

_log = logging.getLogger(__name__)
_GRANT_STEP: Final = 64 * 1024  # credit is returned in steps, so that a WINDOW frame is rare


class Channel:
    """The link to one replica.

    Attributes:
        replica: where it leads.
        streams: stream id → its call; one that was given up keeps its place, with `call.channel` None.
        in_flight: calls on the replica as far as known: ours, and those of others by its last word.
        limit: value of `in_flight` at which our own calls fill the replica.
        open: whether a new call may be sent now.
        suspect: no PONG for a while; picked last.
    """

    __slots__ = (
        "_board", "_next", "_others", "_owed", "_room", "_write_watched", "draining", "full", "in_flight", "limit",
        "link", "open", "pool", "ready", "replica", "retired", "router", "streams", "suspect",
    )  # fmt: skip

    def __init__(self, router: Router, pool: Pool, replica: Replica, room: int) -> None:
        """Make a channel that is not connected yet."""
        self.router = router
        self.pool = pool
        self.replica = replica
        self.streams: dict[int, Call] = {}
        self.link: Link | None = None
        self._next = 1
        self._board: Board | None = None
        self._room = room
        self._others = 0
        self._owed: dict[int, int] = {}  # stream → bytes consumed and not yet granted
        self._write_watched = False
        self.in_flight = 0
        self.limit = room
        self.ready = False
        self.full = False
        self.draining = False
        self.retired = False
        self.suspect = False
        self.open = False

    # -- life ---------------------------------------------------------------------------------------

    def attach(self, sock: socket.socket, board: Board | None = None, rest: Sequence[codec.Frame] = ()) -> None:
        """Start to use a connected socket.

        Args:
            sock: connected.
            board: where the replica notes what it started; None: it says STARTED.
            rest: frames that came behind the handshake.
        """
        self._board = board
        link = self.link = Link(sock, self.router.scratch)
        link.on_unsent = self._watch_writes
        self.router.loop.add_reader(sock.fileno(), self.readable)
        self.ready = True
        self.update()
        if rest:
            self._take(list(rest))

    def resize(self, room: int) -> None:
        """Take a new limit of calls in flight from the table."""
        self._room = room
        self.limit = room + self._others
        self.update()

    def update(self) -> None:
        """Work out anew whether a call may be sent."""
        link = self.link
        self.open = (
            self.ready
            and not (self.full or self.draining or self.retired)
            and len(self.streams) < self._room
            and link is not None
            and link.unsent < HIGH_WATER
        )

    def retire(self) -> None:
        """Take no new call; the link closes when the last stream has ended."""
        self.retired = True
        self.open = False
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.retired and not self.streams:
            self.close()

    def close(self) -> None:
        """Close the link without a word to the calls on it."""
        link, self.link = self.link, None
        self.ready = self.open = False
        if link is not None:
            self.router.loop.remove_reader(link.sock.fileno())
            if self._write_watched:
                self.router.loop.remove_writer(link.sock.fileno())
                self._write_watched = False
            link.close()
        board, self._board = self._board, None
        if board is not None:
            board.close()

    def lost(self, why: str, clean: bool) -> None:
        """End the link; every call on it is decided by the router."""
        streams, self.streams = self.streams, {}
        if self._board is not None:
            for stream, call in streams.items():
                if call.slot:
                    call.started = self._board.started(call.slot, stream)
        self.close()
        self._others = 0
        self.in_flight = 0
        self.full = False
        self._owed.clear()
        _log.info("link to replica %s ended: %s (%d calls on it)", self.replica.id, why, len(streams))
        self.router.channel_lost(self, [call for call in streams.values() if call.channel is self], clean)

    # -- sending ------------------------------------------------------------------------------------

    def start(self, call: Call, time_left_ms: int) -> None:
        """Send the OPEN of `call`; the channel must be `open`."""
        link = self.link
        assert link is not None
        stream = self._next
        self._next = stream + 1 if stream < 0xFFFFFFFF else 1
        while self._next in self.streams:  # after 2**32 calls an old stream may still live
            self._next += 1
        call.channel = self
        call.stream = stream
        self.streams[stream] = call
        flags = call.flags
        slot = 0
        if not call.idempotent:
            flags |= NOT_IDEMPOTENT
            if self._board is not None:
                slot = self._board.take()
        call.slot = slot
        if call.upload is None:
            flags |= END
            link.send(codec.frame(codec.OPEN, stream, flags, call.open_head(time_left_ms), call.small_body(), slot))
        else:
            link.send(codec.frame(codec.OPEN, stream, flags, call.open_head(time_left_ms), b"", slot))
            self.pump(call)
        self.in_flight += 1
        if len(self.streams) >= self._room or link.unsent >= HIGH_WATER:
            self.open = False
        self.router.flush_later(self)

    def pump(self, call: Call) -> None:
        """Send as much of the upload as credit allows."""
        upload, link = call.upload, self.link
        if upload is None or link is None or upload.sealed:
            return
        while upload.credit and upload.size:
            parts = upload.take(codec.MAX_DATA)
            last = upload.ended and not upload.size
            upload.sealed = last
            size = sum(len(part) for part in parts)
            link.send_all([codec.data_header(call.stream, END if last else 0, size), *parts])
        if upload.ended and not upload.size and not upload.sealed:
            upload.sealed = True
            link.send(codec.data_header(call.stream, END, 0))
        self.router.flush_later(self)

    def cancel(self, call: Call) -> None:
        """Give `call` up: tell the replica, forget the caller, keep the slot until the end frame comes."""
        if self.streams.get(call.stream) is call and self.link is not None:
            self._owed.pop(call.stream, None)
            self.link.send(codec.frame(codec.CANCEL, call.stream))
            self.router.flush_later(self)
        call.channel = None

    def grant(self, call: Call, size: int) -> None:
        """Tell the replica that `size` bytes of the answer were consumed."""
        if self.streams.get(call.stream) is not call or self.link is None:
            return
        owed = self._owed.get(call.stream, 0) + size
        if owed < _GRANT_STEP:
            self._owed[call.stream] = owed
            return
        self._owed[call.stream] = 0
        self.link.send(codec.frame(WINDOW, call.stream, 0, owed.to_bytes(4, "little")))
        self.router.flush_later(self)

    def flush(self) -> None:
        """Send what waits, once a turn of the loop."""
        link = self.link
        if link is not None and link.flush() and not self.open:
            self.update()

    def _watch_writes(self) -> None:
        link = self.link
        if link is not None and not self._write_watched:
            self._write_watched = True
            self.router.loop.add_writer(link.sock.fileno(), self._writable)

    def _writable(self) -> None:
        link = self.link
        if link is not None and link.flush():
            self._write_watched = False
            self.router.loop.remove_writer(link.sock.fileno())
        was_open = self.open
        self.update()
        if self.open and not was_open:
            self.router.room(self.pool)

    # -- receiving ----------------------------------------------------------------------------------

    def readable(self) -> None:
        """Read once and act on what came."""
        link = self.link
        if link is None:
            return
        try:
            self._take(link.receive())
        except LinkLost as lost:
            self.lost(str(lost), lost.clean)
        except codec.Violation as violation:
            _log.error("replica %s broke the protocol: %s", self.replica.id, violation)
            self.lost(str(violation), clean=False)

    def _take(self, frames: list[codec.Frame]) -> None:
        streams = self.streams
        ended = False
        load = 0
        for kind, flags, stream, load, head, body in frames:  # noqa: B007 - the last load counts
            if stream not in streams:
                if stream:
                    self._stray(kind, stream)
                else:
                    self._link_frame(kind)
                continue
            call = streams[stream]
            wanted = call.channel is self  # else it was given up, and only its end matters
            if flags & END:
                del streams[stream]
                self._owed.pop(stream, None)
                if call.slot and self._board is not None:
                    self._board.give_back(call.slot)
                ended = True
            if kind == HEAD:
                if wanted:
                    self.router.answered(call, flags, head, body)
            elif kind == DATA:
                if wanted:
                    self.router.data(call, body, bool(flags & END))
            elif kind == STARTED:
                call.started = True
            elif kind == WINDOW:
                if wanted:
                    self._window(call, head)
            elif kind == FAIL and flags & END:
                if wanted:
                    self.router.failed_there(call, heads.decode_failure(head), body if flags & CALL else b"")
            elif kind == REJECT and flags & END:
                self._rejected(call if wanted else None, head)
            else:
                raise codec.Violation(f"kind {kind} with flags {flags} on stream {stream}")
            if self.link is None:
                return
        if frames:
            mine = len(streams)
            self._others = load - mine if load > mine else 0
            self.in_flight = mine + self._others
            self.limit = self._room + self._others
            if ended:
                self._slot_free()

    def _slot_free(self) -> None:
        self.full = False
        if self.retired:
            self._close_if_idle()
            return
        self.update()
        if self.open:
            self.router.room(self.pool)

    def _stray(self, kind: int, stream: int) -> None:
        """Drop a frame of an ended stream; an id that was never given out breaks the link."""
        if stream >= self._next:
            raise codec.Violation(f"kind {kind} on stream {stream}, which was never opened")

    def _link_frame(self, kind: int) -> None:
        if kind == FREE:
            self._slot_free()
        elif kind == GOAWAY:
            self.draining = True
            self.open = False
        elif kind == PONG:
            self.router.connector.heard(self)
        elif kind != codec.WELCOME:
            raise codec.Violation(f"kind {kind} on the link itself")

    def _window(self, call: Call, head: bytes) -> None:
        upload = call.upload
        if upload is None:
            return
        upload.granted = True
        upload.credit += int.from_bytes(head, "little")
        self.pump(call)
        call.room()

    def _rejected(self, call: Call | None, why: bytes) -> None:
        if why == heads.BUSY:
            self.full = True
        elif why == heads.DRAINING:
            self.draining = True
        self.open = False
        if call is not None:
            self.router.rejected(call, why)
