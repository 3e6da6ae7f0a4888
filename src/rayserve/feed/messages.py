"""What travels on the feed, and how it is cut into messages. No I/O.

    4 bytes length of the payload, little-endian · 1 byte kind · payload: one msgpack value

    up    HELLO once, ACK per table, FACTS at most once a second, REPORT
    down  WELCOME once, TABLE (packed, whole or the changes since the last one sent)

A length is never trusted: each side knows how long the other's messages can be.
"""

from __future__ import annotations

import struct

import msgspec

__all__ = [
    "ACK",
    "FACTS",
    "HELLO",
    "REPORT",
    "TABLE",
    "WELCOME",
    "Ack",
    "Cutter",
    "FeedViolation",
    "Hello",
    "Welcome",
    "message",
]

HELLO, ACK, FACTS, REPORT = 1, 2, 3, 4
WELCOME, TABLE = 17, 18

MAX_UP_BYTES = 16 * 2**20
MAX_DOWN_BYTES = 256 * 2**20

_HEADER = struct.Struct("<IB")


class Hello(msgspec.Struct, frozen=True):
    """Who subscribes.

    Attributes:
        process: a name unique per process life; the same as in its `Facts`.
        kind: "ingress" | "handle" | "replica".
        pid: its process id.
        replica: the replica's id, "" for others.
    """

    process: str
    kind: str
    pid: int
    replica: str = ""


class Welcome(msgspec.Struct, frozen=True):
    """What the doorkeeper tells each subscriber before its first table.

    Attributes:
        instance: the instance's name.
        node: Ray's id of this node.
        secret: key of the handshake between nodes.
    """

    instance: str
    node: str
    secret: bytes = b""


class Ack(msgspec.Struct, frozen=True, array_like=True):
    """The stamp of a table that is in force in the subscriber from now on."""

    epoch: int
    version: int


class FeedViolation(Exception):
    """The other side sent what it must not; the connection is of no more use."""


_ENCODER = msgspec.msgpack.Encoder()


def message(kind: int, payload: bytes | msgspec.Struct) -> bytes:
    """Return one whole message; a struct is encoded, bytes are taken as they are."""
    data = payload if isinstance(payload, bytes) else _ENCODER.encode(payload)
    return _HEADER.pack(len(data), kind) + data


class Cutter:
    """Cuts a byte stream into messages."""

    def __init__(self, max_bytes: int) -> None:
        """Refuse payloads over `max_bytes`, before they are gathered."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the `(kind, payload)` pairs that `data` completes.

        Raises:
            FeedViolation: a length over the limit; feed nothing more.
        """
        self._buffer += data
        found: list[tuple[int, bytes]] = []
        at = 0
        while len(self._buffer) - at >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._buffer, at)
            if length > self._max_bytes:
                raise FeedViolation(f"a message of {length} bytes; at most {self._max_bytes} are allowed")
            end = at + _HEADER.size + length
            if len(self._buffer) < end:
                break
            found.append((kind, bytes(self._buffer[at + _HEADER.size : end])))
            at = end
        del self._buffer[:at]
        return found
