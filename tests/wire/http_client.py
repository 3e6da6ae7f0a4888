"""A strict HTTP/1.1 client over one raw socket: it sends what it is told and believes nothing it is not told.

Client(port).send(bytes) ─► .answer() ─► Reply, or AssertionError for an answer that is not exactly framed
"""

from __future__ import annotations

import json
import re
import socket
import struct
from contextlib import suppress
from typing import Any, Self

WITHIN_S = 10.0
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Za-z '-]*")
_FIELD = re.compile(rb"([a-z][a-z0-9-]*): ([\x20-\x7e\x80-\xff]*)")
_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


class Reply:
    """One answer."""

    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def __getitem__(self, name: str) -> str:
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values} in {self.fields}"
        return values[0]

    def get(self, name: str) -> str | None:
        return self[name] if self.all(name) else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.get("connection") == "close"

    @property
    def reason(self) -> str | None:
        return self.get("x-serve-reason")


class Answer:
    """What came back to `Mini.ask`, as http.client understood it."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.pairs = headers
        self.body = body

    def __getitem__(self, name: str) -> str:
        return next(value for key, value in self.pairs if key.lower() == name.lower())

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.pairs if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection; a context manager. `answer` must be told when it answers HEAD or an HTTP/1.0 request."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(WITHIN_S)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def get(self, path: str, *fields: str) -> Self:
        return self.send(request("GET", path, *fields))

    def post(self, path: str, body: bytes, *fields: str) -> Self:
        return self.send(request("POST", path, *fields, body=body))

    def half_close(self) -> Self:
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Vanish, so that the server hears of it at once."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # -- receiving ------------------------------------------------------------------------------------

    def answer(self, method: str = "GET", version: str = "1.1") -> Reply:
        """Return the next final answer; interim ones are passed over."""
        while True:
            status, fields = self._head()
            if status >= 200:
                break
            assert not fields
        reply = Reply(status, fields, b"")
        assert _DATE.fullmatch(reply["date"])
        assert re.fullmatch("[!-~]{1,128}", reply["x-request-id"])
        assert reply.get("connection") in (None, "close", "keep-alive")
        length, coding = reply.get("content-length"), reply.get("transfer-encoding")
        assert length is None or coding is None, "content-length and transfer-encoding together"
        if status in (204, 304):
            assert length is coding is None
        elif method == "HEAD":
            pass
        elif length is not None:
            reply.body = self.read(int(length))
        elif coding is not None:
            assert coding == "chunked" and version == "1.1"
            reply.body = self._chunks()
        else:
            assert reply.closes, "no framing, yet the connection stays open"
            reply.body = self.rest()
        return reply

    def interim(self) -> int:
        """Return the status of the next head, which must be an interim answer."""
        status, fields = self._head()
        assert status < 200 and not fields
        return status

    def _head(self) -> tuple[int, list[tuple[str, str]]]:
        line, *lines = self._until(b"\r\n\r\n").split(b"\r\n")
        status = _STATUS.fullmatch(line)
        assert status, line
        fields = []
        for each in lines:
            field = _FIELD.fullmatch(each)
            assert field, each
            fields.append((field[1].decode(), field[2].decode("latin-1")))
        return int(status[1]), fields

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self.read(size)
            assert self.read(2) == b"\r\n"
        assert self.read(2) == b"\r\n"
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self.received:
            self._more()
        taken, _, self.received = self.received.partition(end)
        return taken

    def read(self, size: int) -> bytes:
        pieces, have = [self.received], len(self.received)
        while have < size:
            piece = self.sock.recv(1 << 20)
            assert piece, f"the server closed after {have} of {size} bytes"
            pieces.append(piece)
            have += len(piece)
        whole = b"".join(pieces)
        self.received = whole[size:]
        return whole[:size]

    def _more(self) -> None:
        piece = self.sock.recv(65536)
        assert piece, f"the server closed behind {self.received!r}"
        self.received += piece

    def rest(self) -> bytes:
        """Return all that comes until the server closes."""
        taken, self.received = self.received, b""
        while piece := self.sock.recv(65536):
            taken += piece
        return taken

    def is_closed(self) -> bool:
        """Wait for the server's end of the connection; True if nothing came before it, False if a byte did."""
        with suppress(ConnectionResetError):
            return not self.received and not self.sock.recv(1)
        return True


def request(method: str, path: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """Return a request with its Host and, if it has a body, its Content-Length."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(method: str, path: str, *chunks: bytes, fields: tuple[str, ...] = ()) -> bytes:
    """Return a request whose body comes in these chunks."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return request(method, path, "Transfer-Encoding: chunked", *fields) + body
