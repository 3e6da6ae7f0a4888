"""WebSocket messages inside a stream: what its DATA frames carry in both directions. Bytes in, messages out; no I/O.

    0    1        5
    |kind| length | payload … |      little-endian; kinds: TEXT (UTF-8), BINARY, CLOSE (2 bytes code, then the reason)

A message of up to 64 KiB comes out whole, a longer one in pieces as they arrive, so that neither end must hold what
the other one has not promised to keep small. Nothing follows a CLOSE.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from rayserve.wire.codec import Violation

__all__ = [
    "ABNORMAL", "BINARY", "CLOSE", "CROWDED", "FAILED", "GOING_AWAY", "LEAVE_S", "MAX_MESSAGE", "NORMAL", "RESTART",
    "TEXT", "MessageDecoder", "Piece", "encode_close", "encode_message", "is_sendable", "read_close", "shortened",
]  # fmt: skip

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 3

MAX_MESSAGE: Final = 1024 * 1024  # of a client; what the app sends has no limit but its own memory

# Close codes (RFC 6455 section 7.4.1) that RayServe itself gives.
NORMAL: Final = 1000
GOING_AWAY: Final = 1001
ABNORMAL: Final = 1006  # the client is gone without a word; never sent on a WebSocket
FAILED: Final = 1011
RESTART: Final = 1012  # in the IANA registry: come back, somebody else will serve you
CROWDED: Final = 1013  # there too: the server is too busy, try again later

LEAVE_S: Final = 3.0  # how long a client that was asked to leave may take, until its app hears of it all the same

_HEADER: Final = Struct("<BI")
_CODE: Final = Struct("<H")
_SIZE: Final = _HEADER.size
_pack = _HEADER.pack
_unpack = _HEADER.unpack_from
_WHOLE: Final = 64 * 1024
_MAX_REASON: Final = 123  # bytes: a control frame holds 125 with the code (section 5.5)
_RESERVED: Final = frozenset((1004, 1005, 1006))
_MOST: Final = 0xFFFFFFFF


# A message, or a part of a long one: kind, payload (that of a TEXT may end inside of a character if more follow),
# whether it begins the message, whether it ends it. A plain tuple: one is made for every message.
Piece = tuple[int, bytes, bool, bool]


def encode_message(kind: int, payload: bytes | bytearray | memoryview) -> bytes:
    """Return a TEXT or BINARY message.

    Raises:
        ValueError: it has 4 GiB or more.
    """
    if len(payload) > _MOST:
        raise ValueError(f"a message of {len(payload)} bytes; at most {_MOST}, send it in parts")
    return _pack(kind, len(payload)) + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """Return a CLOSE; a reason too long for a WebSocket is cut."""
    payload = _CODE.pack(code) + shortened(reason).encode("utf-8")
    return _pack(CLOSE, len(payload)) + payload


def read_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a CLOSE.

    Raises:
        Violation: it is none.
    """
    if len(payload) < _CODE.size:
        raise Violation(f"a CLOSE of {len(payload)} bytes")
    return _CODE.unpack_from(payload)[0], payload[_CODE.size :].decode("utf-8", "replace")


def shortened(reason: str) -> str:
    """Return as much of a reason as a WebSocket can carry."""
    data = reason.encode("utf-8", "replace")
    return reason if len(data) <= _MAX_REASON else data[:_MAX_REASON].decode("utf-8", "ignore")


def is_sendable(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455 section 7.4 and the IANA registry)."""
    return (1000 <= code <= 1014 and code not in _RESERVED) or 3000 <= code <= 4999


class MessageDecoder:
    """Turns a byte stream into messages; keeps what is incomplete."""

    __slots__ = ("_kept", "_kind", "_left", "_most")

    def __init__(self, most: int = _MOST) -> None:
        """Start between two messages, none of which may have over `most` bytes."""
        self._most = most
        self._kept = bytearray()
        self._kind = 0
        self._left = 0  # bytes of a long message that have not come

    def feed(self, data: bytes | memoryview) -> list[Piece]:
        """Return what `data` completes, in order.

        Raises:
            Violation: a kind or a length that cannot be; the decoder is then useless.
        """
        if self._kept:
            self._kept += data
            data, self._kept = bytes(self._kept), bytearray()
        pieces: list[Piece] = []
        position, end = 0, len(data)
        if self._left:
            position = min(self._left, end)
            self._left -= position
            pieces.append((self._kind, bytes(data[:position]), False, not self._left))
        while end - position >= _SIZE:
            kind, length = _unpack(data, position)
            if not TEXT <= kind <= CLOSE or length > self._most or (kind == CLOSE and length > _WHOLE):
                raise Violation(f"impossible message: kind {kind}, length {length}")
            start = position + _SIZE
            position = start + length
            if position <= end:
                pieces.append((kind, bytes(data[start:position]), True, True))
            elif length <= _WHOLE:
                position = start - _SIZE
                break
            else:
                self._kind, self._left = kind, position - end
                pieces.append((kind, bytes(data[start:end]), True, False))
                position = end
        if position < end:
            self._kept += data[position:]
        return pieces
