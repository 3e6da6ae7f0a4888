"""Frames: a fixed header, a msgpack head, a raw body. Bytes in, frames out; no I/O here.

    0        4        8    9     10     12          16
    | length | stream |kind|flags| load | head size | head … | body … |      little-endian

`length` counts head and body. Everything but DATA is one whole frame and small; the payload of DATA
frames is a byte stream, so the decoder hands it on in pieces as it arrives and nothing is joined.
A length that cannot be is a `Violation`; the decoder never allocates what a header only promises.
While a link opens, `feed_handshake` cuts one small frame at a time and leaves all behind it unparsed.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = [
    "CALL", "CANCEL", "CHALLENGE", "CREDIT", "DATA", "END", "FAIL", "FREE", "GOAWAY", "HEAD", "HELLO", "MAX_DATA",
    "MAX_FRAME", "MAX_HANDSHAKE", "MAX_SMALL", "NOT_IDEMPOTENT", "OPEN", "PING", "PONG", "PROOF", "REJECT", "STARTED",
    "WELCOME", "WINDOW", "Decoder", "Frame", "Violation", "data_header", "frame",
]  # fmt: skip

# Kinds. HELLO … WELCOME open a link; the rest belong to a stream, or to stream 0 (the link itself).
HELLO: Final = 1
CHALLENGE: Final = 2
PROOF: Final = 3
WELCOME: Final = 4
OPEN: Final = 5
DATA: Final = 6
STARTED: Final = 7
HEAD: Final = 8
FAIL: Final = 9
REJECT: Final = 10
FREE: Final = 11
CANCEL: Final = 12
WINDOW: Final = 13
GOAWAY: Final = 14
PING: Final = 15
PONG: Final = 16

# Flags.
END: Final = 1  # the last frame of its stream in this direction
NOT_IDEMPOTENT: Final = 2  # on OPEN: say STARTED before user code is entered
CALL: Final = 4  # on OPEN, HEAD, FAIL: the body is a Python value (pickle 5), not HTTP

MAX_SMALL: Final = 256 * 1024  # bodies up to this travel inside OPEN and HEAD
MAX_DATA: Final = 64 * 1024  # payload of one DATA frame
CREDIT: Final = 256 * 1024  # bytes a sender may be ahead of its reader, per stream
MAX_FRAME: Final = 1024 * 1024 + MAX_SMALL  # head and body of any one frame

_HEADER: Final = Struct("<IIBBHI")
_SIZE: Final = _HEADER.size
MAX_HANDSHAKE: Final = 1024 - _SIZE  # head and body of HELLO … WELCOME: the whole frame is at most 1 KiB
_pack = _HEADER.pack
_unpack = _HEADER.unpack_from

# The most that head and body of a kind may hold, -1 for what is no kind: one look-up judges kind and length.
_MOST: Final = (-1,) + (MAX_HANDSHAKE,) * 4 + (MAX_FRAME, MAX_DATA) + (MAX_FRAME,) * 10 + (-1,) * 239

# A piece of DATA is copied if it is short (cheaper than a view) or would keep over this many times its size alive.
_COPY: Final = 4096
_PINNED: Final = 4

# (kind, flags, stream, load, head, body). A plain tuple: one is made for every frame of every request.
Frame = tuple[int, int, int, int, bytes, bytes | memoryview]


class Violation(Exception):  # a fact about the peer, caught by the link's driver
    """The peer sent bytes that cannot be frames, or cannot be now; the link must be closed."""


def frame(kind: int, stream: int, flags: int = 0, head: bytes = b"", body: bytes = b"", load: int = 0) -> bytes:
    """Return one encoded frame.

    Args:
        kind: one of the kinds above.
        stream: stream id, 0 for the link itself.
        flags: END, NOT_IDEMPOTENT, CALL or-ed.
        head: msgpack.
        body: raw bytes.
        load: calls the replica holds now (answers only), 0 to 65535.

    Raises:
        ValueError: head and body exceed `MAX_FRAME`; sent, they would cost the link and every call on it.
    """
    size = len(head)
    length = size + len(body)
    if length > MAX_FRAME:
        raise ValueError(f"frame of kind {kind}: head and body of {length} bytes; at most {MAX_FRAME}, send it as DATA")
    return _pack(length, stream, kind, flags, load, size) + head + body


def data_header(stream: int, flags: int, size: int, load: int = 0) -> bytes:
    """Return the header of a DATA frame whose `size` payload bytes follow it on the socket, uncopied."""
    return _pack(size, stream, DATA, flags, load, 0)


class Decoder:
    """Turns a byte stream into frames; keeps what is incomplete."""

    __slots__ = ("_kept", "_kept_size", "_need", "_piece", "_piece_left")

    def __init__(self) -> None:
        """Start at a frame boundary."""
        self._kept: list[bytes] = []
        self._kept_size = 0
        self._need = _SIZE  # bytes wanted before another look is worth it
        self._piece: tuple[int, int, int] = (0, 0, 0)  # flags, stream, load of the DATA frame in progress
        self._piece_left = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes, in order.

        Args:
            data: the next bytes of the stream, any number of them.

        Raises:
            Violation: a length, a kind or a size that cannot be; the decoder is then useless.
        """
        if self._kept_size:
            self._kept_size += len(data)
            self._kept.append(data)
            if self._kept_size < self._need:
                return []
            data = b"".join(self._kept)
            self._kept = []
            self._kept_size = 0
        position = 0
        end = len(data)
        if not self._piece_left and end >= _SIZE:
            length, stream, kind, flags, load, size = _unpack(data)
            if length + _SIZE == end and kind != DATA and size <= length <= _MOST[kind]:  # one whole frame: most reads
                size += _SIZE
                return [(kind, flags, stream, load, data[_SIZE:size], data[size:])]
        frames: list[Frame] = []
        if self._piece_left:
            position = self._continue(data, frames)
        while end - position >= _SIZE:
            length, stream, kind, flags, load, size = _unpack(data, position)
            if length > _MOST[kind] or size > length:
                raise _impossible(kind, length, size)
            start = position + _SIZE
            stop = start + length
            if kind == DATA:
                if size:
                    raise _impossible(kind, length, size)
                if stop > end:
                    self._piece = (flags, stream, load)
                    self._piece_left = stop - end
                    if end > start:
                        frames.append((DATA, flags & ~END, stream, load, b"", _piece(data, start, end)))
                    return frames
                frames.append((DATA, flags, stream, load, b"", _piece(data, start, stop)))
            elif stop <= end:
                head_end = start + size
                frames.append((kind, flags, stream, load, data[start:head_end], data[head_end:stop]))
            else:
                self._keep(data, position, _SIZE + length)
                return frames
            position = stop
        if position < end:
            self._keep(data, position, _SIZE)
        return frames

    def feed_handshake(self, data: bytes) -> Frame | None:
        """Return the next frame of a handshake once it is complete; `feed` goes on with what came behind it.

        Args:
            data: the next bytes of the stream; b"" looks again at what was kept.

        Raises:
            Violation: what comes next is no handshake frame of at most 1 KiB.
        """
        if self._kept:
            self._kept.append(data)
            data = b"".join(self._kept)
            self._kept = []
            self._kept_size = 0
        found = None
        position = 0
        if len(data) >= _SIZE:
            length, stream, kind, flags, load, size = _unpack(data)
            if not HELLO <= kind <= WELCOME or length > MAX_HANDSHAKE or size > length:
                raise Violation(f"no handshake: kind {kind}, length {length}, head {size}")
            stop = _SIZE + length
            if stop <= len(data):
                head_end = _SIZE + size
                found = (kind, flags, stream, load, data[_SIZE:head_end], data[head_end:stop])
                position = stop
        if position < len(data):
            self._keep(data, position, _SIZE)  # never the length it promises: nobody has judged that yet
        return found

    def _continue(self, data: bytes, frames: list[Frame]) -> int:
        """Hand on the next piece of the DATA frame in progress; return where the next frame starts."""
        flags, stream, load = self._piece
        left = self._piece_left
        size = len(data)
        if size < left:
            self._piece_left = left - size
            frames.append((DATA, flags & ~END, stream, load, b"", _piece(data, 0, size)))
            return size
        self._piece_left = 0
        frames.append((DATA, flags, stream, load, b"", _piece(data, 0, left)))
        return left

    def _keep(self, data: bytes, position: int, need: int) -> None:
        self._kept.append(data[position:] if position else data)
        self._kept_size = len(data) - position
        self._need = need


def _piece(data: bytes, start: int, stop: int) -> bytes | memoryview:
    size = stop - start
    if size <= _COPY or size * _PINNED < len(data):
        return data[start:stop]
    return memoryview(data)[start:stop]


def _impossible(kind: int, length: int, size: int) -> Violation:
    return Violation(f"impossible frame: kind {kind}, length {length} (at most {_MOST[kind]}), head {size}")
