"""ASGI apps with WebSockets, and a client without manners for them."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

from tests.wire.mini import Mini

from rayserve.apps import asgi

App = Callable[..., Awaitable[None]]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def serve(mini: Mini, app: Any, **config: Any) -> str:
    """Publish `app` under /ws/*; return the URL of /ws/."""
    mini.backend("b", asgi(app, lifespan="off"), config).endpoint("e", "/ws/*", {"b": 1.0}).publish()
    return f"ws://127.0.0.1:{mini.port}/ws/"


def recorder(seen: Any) -> App:
    """An app that accepts, answers each message with itself, and puts everything it hears into `seen`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        while True:
            message = await receive()
            seen.put(message)
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            elif message["type"] == "websocket.disconnect":
                return
            else:
                with suppress(OSError):  # the client may be gone; `receive` says so in its turn
                    await send({**message, "type": "websocket.send"})

    return app


class Raw:
    """A client that sends what it is told, right or wrong."""

    def __init__(self, port: int, path: str = "/ws/", extra: bytes = b"", upgrade: bool = True) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.sock.makefile("rb")
        self.head = b""
        if upgrade:
            self.head = self.ask(ask(path, extra))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def ask(self, data: bytes) -> bytes:
        """Send a request; return the head of the answer."""
        self.sock.sendall(data)
        return self.read_head()

    def read_head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.file.readline()
            assert line, head
            head += line
        return head

    def send(self, opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> None:
        self.sock.sendall(frame(opcode, payload, fin=fin, rsv=rsv, masked=masked))

    def read(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame."""
        first, length = self.file.read(2)
        if length == 126:
            (length,) = struct.unpack("!H", self.file.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.file.read(8))
        return first & 15, self.file.read(length)

    def closed_with(self) -> int:
        """Return the code of the close frame that comes next, after which the connection must end."""
        opcode, payload = self.read()
        assert opcode == CLOSE, (opcode, payload)
        code: int = struct.unpack("!H", payload[:2])[0]
        assert self.file.read() == b""
        return code


def ask(
    path: str = "/ws/", extra: bytes = b"", version: bytes = b"13", key: bytes = b"dGhlIHNhbXBsZSBub25jZQ=="
) -> bytes:
    return (
        b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: %s\r\nSec-WebSocket-Key: %s\r\n%s\r\n" % (path.encode(), version, key, extra)
    )


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    wide = int.from_bytes((mask * (size // 4 + 1))[:size], "big") ^ int.from_bytes(payload, "big")
    return head + mask + wide.to_bytes(size, "big")
