"""Frames from a replica: each finds its stream's call, or concerns the link itself.

    link.receive() ─► take(channel, frames) ─► router.answered | data | failed_there | rejected ─► the call
                                            └► slots freed, the replica's load, offers, GOAWAY, PONG

What a replica cannot rightly send is a `Violation`, and costs the link. What goes wrong in the hands of a
call's owner costs that call alone: the other frames of the read still reach theirs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from rayserve.router.call import ANSWERING, FLYING, Call
from rayserve.wire import codec, heads
from rayserve.wire.codec import CALL, DATA, END, FAIL, FREE, GOAWAY, HEAD, PONG, REJECT, STARTED, WINDOW, Violation

if TYPE_CHECKING:
    from rayserve.router.channel import Channel

__all__ = ["take"]

_log = logging.getLogger(__name__)
_ENDS: Final = frozenset((HEAD, DATA, FAIL, REJECT))
_MOST_CREDIT: Final = 1 << 30


def take(channel: Channel, frames: list[codec.Frame]) -> None:
    """Act on what a replica sent.

    Raises:
        Violation: it broke the protocol; the link must be given up.
    """
    if not frames:
        return
    streams = channel.streams
    freed = 0
    load = 0
    for kind, flags, stream, load, head, body in frames:  # noqa: B007 - the last load counts
        call = streams.get(stream)
        if call is None:
            _stray(channel, kind, stream)
            continue
        if flags & END and kind in _ENDS:
            channel.ended(stream, call)
            if kind != REJECT:
                freed += 1
        if call.channel is channel:
            try:
                _tell(channel, call, kind, flags, head, body)
            except Violation as violation:
                channel.router.broken(call, str(violation))
                raise
            except Exception:
                _log.exception("a frame of kind %d for a call to endpoint %r could not be used", kind, call.endpoint)
                channel.router.broken(call, "what its replica sent could not be used; the log of this process says why")
        elif kind == REJECT:  # given up meanwhile, but what it says of the replica still counts
            _refused(channel, head)
        if channel.link is None:
            return
    channel.loaded(load)
    if freed:
        channel.pool.freed(freed)
        channel.slot_free()
    elif channel.retired:
        channel.close_if_idle()


def _tell(channel: Channel, call: Call, kind: int, flags: int, head: bytes, body: bytes | memoryview) -> None:
    """Hand a frame to the call it is for."""
    router, state = channel.router, call.state
    if kind == HEAD and state == FLYING:
        router.answered(call, flags, head, body)
    elif kind == DATA and state == ANSWERING:
        router.data(call, body, bool(flags & END))
    elif kind == STARTED and state == FLYING:
        call.started = True
    elif kind == WINDOW:
        _window(channel, call, head)
    elif kind == FAIL and flags & END:
        router.failed_there(call, heads.decode_failure(head), body if flags & CALL else b"")
    elif kind == REJECT and flags & END and state == FLYING:
        _refused(channel, head)
        router.rejected(call, head)
    else:
        raise Violation(f"kind {kind} with flags {flags} on stream {call.stream}")


def _stray(channel: Channel, kind: int, stream: int) -> None:
    """Take a frame of the link itself, or drop one of an ended stream; an id never given out breaks the link."""
    if stream:
        if stream >= channel.next:
            raise Violation(f"kind {kind} on stream {stream}, which was never opened")
    elif kind == FREE:
        channel.offered()
    elif kind == REJECT:
        _refused(channel, heads.BUSY)
    elif kind == GOAWAY:
        channel.draining = True
        channel.open = False
    elif kind == PONG:
        channel.router.connector.heard(channel)
    else:
        raise Violation(f"kind {kind} on the link itself")


def _window(channel: Channel, call: Call, head: bytes) -> None:
    upload = call.upload
    credit = int.from_bytes(head, "little")
    if len(head) != 4 or upload is None or upload.credit + credit > _MOST_CREDIT:
        raise Violation(f"WINDOW of {len(head)} bytes on stream {call.stream}")
    upload.granted = True
    upload.credit += credit
    channel.pump(call)
    call.room()


def _refused(channel: Channel, why: bytes) -> None:
    if why == heads.BUSY:
        channel.full = True
        channel.open = False
    elif why == heads.DRAINING:
        channel.draining = True
        channel.open = False
