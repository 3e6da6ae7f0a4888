"""A channel: this process's link to one replica, and the calls that fly on it.

    open(call) ─► OPEN, DATA… ─► link ─► replica ─► STARTED, HEAD, DATA, FAIL, REJECT ─► inbound ─► the call

One slot, one end: a stream holds its slot until its terminal frame (HEAD or DATA with END, FAIL,
REJECT) or until the link is lost; nothing else frees it, also not our own time-out or a CANCEL.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Final

from rayserve.model.table import Replica
from rayserve.router import inbound
from rayserve.router.call import Call
from rayserve.router.notes import Notes
from rayserve.wire import codec
from rayserve.wire.codec import END, NOT_IDEMPOTENT
from rayserve.wire.handshake import ClientHandshake
from rayserve.wire.link import HIGH_WATER, Link, LinkLost

if TYPE_CHECKING:
    from rayserve.router.pool import Pool
    from rayserve.router.router import Router

__all__ = ["Channel"]

_log = logging.getLogger(__name__)
_FLUSH_NOW: Final = 64 * 1024  # bytes of a body that leave at once, while they are in the processor's cache
_GRANT_STEP: Final = 64 * 1024  # credit is returned in steps, so that a WINDOW frame is rare


class Channel:
    """The link to one replica.

    Attributes:
        replica: where it leads.
        streams: stream id → its call; one that was given up keeps its place, with `call.channel` None.
        next: the id of the next stream.
        in_flight: calls on the replica as far as known: ours, and those of others by its last word.
        limit: value of `in_flight` at which our own calls fill the replica.
        open: whether a new call may be sent now.
        ready: calls may be written to the link.
        full: routers take turns there; until it offers a slot, nothing is sent.
        draining: it takes no new call any more.
        retired: the table lists it no more.
        suspect: no PONG for a while; picked last.
    """

    __slots__ = (
        "_notes", "_others", "_owed", "_room", "_write_watched", "draining", "full", "in_flight", "limit", "link",
        "next", "open", "pool", "ready", "replica", "retired", "router", "streams", "suspect", "welcomed",
    )  # fmt: skip

    def __init__(self, router: Router, pool: Pool, replica: Replica, room: int) -> None:
        """Make a channel that is not connected yet."""
        self.router = router
        self.pool = pool
        self.replica = replica
        self.streams: dict[int, Call] = {}
        self.link: Link | None = None
        self.next = 1
        self._notes = Notes()
        self._room = room
        self._others = 0
        self._owed: dict[int, int] = {}  # stream → bytes consumed and not yet granted
        self._write_watched = False
        self.in_flight = 0
        self.limit = room
        self.ready = False
        self.welcomed = False  # the handshake is through
        self.full = False
        self.draining = False
        self.retired = False
        self.suspect = False
        self.open = False

    # -- life ---------------------------------------------------------------------------------------

    def attach(self, sock: socket.socket, handshake: ClientHandshake, notes: Notes) -> None:
        """Start to use a connected socket.

        Args:
            sock: connected.
            handshake: not begun; calls may follow it at once if it is eager.
            notes: where the replica notes what it starts.
        """
        self._notes = notes
        link = self.link = Link(sock, self.router.scratch, handshake)
        link.on_unsent = self._watch_writes
        self.router.linked(self)
        self.router.loop.add_reader(sock.fileno(), self.readable)
        self.welcomed = False
        self.ready = handshake.eager
        self.router.flush_later(self)
        self._reopen()

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
        self.close_if_idle()

    def close_if_idle(self) -> None:
        """Close a retired channel that nothing flies on."""
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
            self.router.unlinked(self)
        self._notes.close(found=self.welcomed)

    def lost(self, why: str, clean: bool) -> None:
        """End the link; every call on it is decided by the router.

        Args:
            why: for the log.
            clean: all that the replica ever sent was read.
        """
        streams, self.streams = self.streams, {}
        self._notes.read(streams)
        self.close()
        self._others = 0
        self.in_flight = 0
        self.full = False
        self._owed.clear()
        _log.info("link to replica %s ended: %s (%d calls on it)", self.replica.id, why, len(streams))
        self.router.channel_lost(self, [call for call in streams.values() if call.channel is self], clean)

    # -- sending ------------------------------------------------------------------------------------

    def start(self, call: Call, time_left_ms: int) -> None:
        """Send the OPEN of `call`; the channel must be `open`.

        Raises:
            ValueError: the call's head and body are larger than a frame; nothing was sent.
        """
        link = self.link
        assert link is not None
        stream = self.next
        flags = call.flags if call.idempotent else call.flags | NOT_IDEMPOTENT
        head = call.open_head(time_left_ms)
        slot = self._notes.take()
        try:
            if call.upload is None:
                link.send(codec.frame(codec.OPEN, stream, flags | END, head, call.small_body(), slot))
            else:
                link.send(codec.frame(codec.OPEN, stream, flags, head, b"", slot))
        except ValueError:
            self._notes.give_back(slot)
            raise
        call.channel = self
        call.stream = stream
        call.slot = slot
        self.streams[stream] = call
        self.next = stream + 1 if stream < 0xFFFFFFFF else 1
        while self.next in self.streams:  # after 2**32 calls an old stream may still live
            self.next += 1
        self.in_flight += 1
        if call.upload is not None:
            self.pump(call)
        if len(self.streams) >= self._room or link.unsent >= HIGH_WATER:
            self.open = False
        self.router.flush_later(self)

    def pump(self, call: Call) -> None:
        """Send as much of the upload as credit allows."""
        upload, link = call.upload, self.link
        if upload is not None and link is not None:
            for parts in upload.frames(call.stream):
                link.send_all(parts)
            if link.unsent >= _FLUSH_NOW:
                link.flush()
            else:
                self.router.flush_later(self)

    def cancel(self, call: Call) -> None:
        """Give `call` up: tell the replica, forget the caller, keep the slot until the end frame comes."""
        if self.streams.get(call.stream) is call and self.link is not None:
            self._owed.pop(call.stream, None)
            self.link.send(codec.frame(codec.CANCEL, call.stream))
            self.router.flush_later(self)
        call.channel = None
        call.upload = None  # the slot may be held for long; the body need not be

    def decline(self) -> None:
        """Tell the replica that the slot it offered can go to another router."""
        if self.link is not None:
            self.link.send(codec.frame(codec.CANCEL, 0))
            self.router.flush_later(self)

    def grant(self, call: Call, size: int) -> None:
        """Tell the replica that `size` bytes of the answer were consumed."""
        if self.streams.get(call.stream) is not call or self.link is None:
            return
        owed = self._owed.get(call.stream, 0) + size
        if owed < _GRANT_STEP:
            self._owed[call.stream] = owed
            return
        self._owed[call.stream] = 0
        self.link.send(codec.frame(codec.WINDOW, call.stream, 0, owed.to_bytes(4, "little")))
        self.router.flush_later(self)

    def flush(self) -> None:
        """Send what waits, once a turn of the loop."""
        link = self.link
        if link is None:
            return
        was_high = link.unsent >= HIGH_WATER
        link.flush()
        if was_high:
            self._reopen()

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
        self._reopen()

    def _reopen(self) -> None:
        was_open = self.open
        self.update()
        if self.open and not was_open:
            self.pool.room()

    # -- receiving ----------------------------------------------------------------------------------

    def readable(self) -> None:
        """Read once and act on what came."""
        link = self.link
        if link is None:
            return
        try:
            frames = link.receive()
            if not self.welcomed and link.opened:
                self._welcome()
            inbound.take(self, frames)
        except LinkLost as lost:
            self.lost(str(lost), lost.clean)
        except codec.Violation as violation:
            _log.error("replica %s broke the protocol: %s", self.replica.id, violation)
            self.lost(str(violation), clean=False)

    def _welcome(self) -> None:
        self.welcomed = True
        self.router.connector.welcomed(self)
        if not self.ready:
            self.ready = True
            self._reopen()

    def ended(self, stream: int, call: Call) -> None:
        """Free the slot of a stream whose last frame came."""
        del self.streams[stream]
        self._owed.pop(stream, None)
        self._notes.give_back(call.slot)

    def loaded(self, load: int) -> None:
        """Take the replica's last word on how many calls it holds."""
        mine = len(self.streams)
        self._others = load - mine if load > mine else 0
        self.in_flight = mine + self._others
        self.limit = self._room + self._others
        if self._others and not mine:
            self.router.connector.doubt(self)

    def slot_free(self) -> None:
        """Use the room that ended streams left."""
        if self.retired:
            self.close_if_idle()
            return
        self.update()
        if self.open:
            self.pool.room()

    def offered(self) -> None:
        """Take the slot that the replica offers for the first call of the line, or let another router have it."""
        if not self.full:  # it has declined already, and sends as it likes
            return
        self.full = False
        self.update()
        if self.open and self.pool.give(self):
            # Still full, until the next offer: other routers wait for its slots too, and each has its turn.
            self.full = True
            self.open = False
        else:
            self.decline()
            self.slot_free()
