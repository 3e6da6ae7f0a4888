"""A router by hand: one link to one replica, frames as the test wants them, right or wrong."""

from __future__ import annotations

import pickle
import select
import socket
import time
from typing import Any, Self

from tests.wire.mini import INSTANCE

from rayserve.wire import codec, heads, values
from rayserve.wire.codec import CALL, END, NOT_IDEMPOTENT, OPEN, Frame
from rayserve.wire.handshake import ClientHandshake
from rayserve.wire.heads import Failure, Invoke, Open
from rayserve.wire.link import Link, LinkLost
from rayserve.wire.sockets import connect_unix

WITHIN_S = 10.0


class RawRouter:
    """One link; a context manager that closes it."""

    def __init__(self, replica: Any, role: str = "handle", sock: socket.socket | None = None, key: bytes = b"") -> None:
        self.sock = sock or connect_unix(replica.unix)
        handshake = ClientHandshake(role, INSTANCE, replica._spec.replica, key or None)
        self.link = Link(self.sock, None, handshake)
        self.link.flush()
        self._frames: list[Frame] = []

    def __enter__(self) -> Self:
        return self

    def open(self) -> Self:
        """Wait until the handshake is through; over TCP nothing may be sent before."""
        while not self.link.opened:
            assert select.select([self.sock], [], [], WITHIN_S)[0], "no WELCOME came"
            self._frames += self.link.receive()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def send(self, data: bytes) -> None:
        self.link.send_now(data)

    def call(self, stream: int, *args: Any, left_ms: int = 60_000, method: str = "") -> None:
        """Open a Python call."""
        sizes, parts = values.pack((args, {}), pickle.dumps)
        head = heads.encode(Invoke("e", f"r{stream}", left_ms, method, sizes=sizes))
        self.send(codec.frame(OPEN, stream, CALL | END | NOT_IDEMPOTENT, head, b"".join(parts)))

    def ask(self, stream: int, body: bytes = b"", left_ms: int = 60_000) -> None:
        """Open an HTTP call."""
        head = heads.encode(Open("e", f"r{stream}", left_ms, body_size=len(body)))
        self.send(codec.frame(OPEN, stream, END, head, body))

    def cancel(self, stream: int) -> None:
        self.send(codec.frame(codec.CANCEL, stream))

    def frame(self, *kinds: int, stream: int | None = None) -> Frame:
        """Wait for a frame of one of `kinds` and return it; those of other kinds before it are kept."""
        until = time.monotonic() + WITHIN_S
        while True:
            for index, found in enumerate(self._frames):
                if found[0] in kinds and stream in (None, found[2]):
                    return self._frames.pop(index)
            left_s = until - time.monotonic()
            assert left_s > 0, f"no frame of kind {kinds} came, only {self._frames}"
            if select.select([self.sock], [], [], left_s)[0]:
                self._frames += self.link.receive()

    def value(self, stream: int) -> Any:
        """Wait for the small answer to a Python call."""
        kind, _, _, _, head, body = self.frame(codec.HEAD, codec.FAIL, stream=stream)
        if kind == codec.FAIL:
            return heads.decode_failure(head)
        return values.unpack(heads.decode_value(head).sizes, body)

    def failure(self, stream: int) -> Failure:
        return heads.decode_failure(self.frame(codec.FAIL, stream=stream)[4])

    def is_cut(self) -> bool:
        """Wait for the replica to close the link."""
        until = time.monotonic() + WITHIN_S
        while (left_s := until - time.monotonic()) > 0:
            if select.select([self.sock], [], [], left_s)[0]:
                try:
                    self._frames += self.link.receive()
                except LinkLost:
                    return True
        return False
