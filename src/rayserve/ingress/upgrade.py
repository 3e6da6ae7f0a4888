"""From HTTP to WebSocket: the request that asks for one, and the answer that begins it (RFC 6455 section 4).

    GET, Upgrade: websocket ─► wanted? ─► objection? ─► Upgrade ─► router … HEAD 101 ─► WebSocket takes the transport
                                                                          any other ─► an HTTP answer like all

The deadline runs to the answer's head only. While it is awaited nothing more is read: what follows may be no HTTP.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

from websockets.utils import accept_key

from rayserve.ingress import render
from rayserve.ingress.exchange import Exchange
from rayserve.ingress.turned import Turned
from rayserve.ingress.websocket import WebSocket
from rayserve.router.call import Upload
from rayserve.wire import heads
from rayserve.wire.codec import END, Violation

if TYPE_CHECKING:
    from rayserve.ingress.head import Head
    from rayserve.ingress.reading import Reading
    from rayserve.ingress.site import Found, Site
    from rayserve.wire.heads import Failure

__all__ = ["Upgrade", "objection", "wanted"]

_VERSION: Final = "13"
_KEY_BYTES: Final = 16
_HOW: Final = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n"


def wanted(site: Site, head: Head, found: Found) -> bool:
    """Whether a request with an Upgrade asks for a WebSocket where there are some; any other Upgrade is ignored."""
    return (
        head.method == "GET"
        and found.endpoint.name in site.websocket_endpoints
        and "websocket" in (each.strip().lower() for each in head.upgrade.split(","))
    )


def objection(site: Site, head: Head, behind_others: bool) -> Turned | None:
    """Return why a request for a WebSocket gets none.

    Args:
        site: of the connection.
        head: the request's.
        behind_others: answers to earlier requests of the connection are still to come.
    """
    if head.content_length or head.chunked:
        return Turned(400, "bad_request", "a request for a websocket has no body")
    if _values(head, "sec-websocket-version") != [_VERSION]:
        return Turned(426, "bad_request", "only version 13 of websockets is spoken here (sec-websocket-version)", _HOW)
    keys = _values(head, "sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return Turned(400, "bad_request", "sec-websocket-key must be there once: 16 bytes in base64")
    if behind_others:
        return Turned(400, "bad_request", "ask for a websocket when all earlier answers of the connection have come")
    why = site.unready()
    return Turned(503, "draining", why, b"retry-after: 1\r\n") if why.startswith("draining") else None


def _values(head: Head, wanted_name: str) -> list[str]:
    return [value for name, value in head.headers if name == wanted_name]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


class Upgrade(Exchange):
    """A request for a WebSocket; then the call behind it, until the app ends.

    Attributes:
        socket: the client's side, once it was accepted.
    """

    __slots__ = ("_connection", "socket")

    def __init__(self, connection: Reading, head: Head, found: Found, request_id: str, timeout_s: float) -> None:
        """Make the exchange of a request that `wanted` and `objection` let pass."""
        super().__init__(connection, head, found, request_id, timeout_s)
        self._connection = connection
        self.upload = Upload()
        self.socket: WebSocket | None = None

    def open_head(self, time_left_ms: int) -> bytes:
        """Return the head of the OPEN frame; its scheme says that messages follow."""
        opened = heads.decode_open(super().open_head(time_left_ms))
        opened.scheme = "wss" if opened.scheme == "https" else "ws"
        return heads.encode(opened)

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Begin the WebSocket, or pass on the answer of an app that denies it."""
        answer = heads.decode_answer(head)
        if answer.status != 101:
            super().answered(flags, head, body)
            return
        if flags & END or body:
            raise Violation("a websocket that ends with its head")
        self.status = 101
        if self.tally is not None:
            self.tally.statuses[1] += 1
        connection = self._connection
        transport = connection.transport
        key = accept_key(_values(self.head, "sec-websocket-key")[0]).encode("ascii")
        transport.write(
            render.head(
                101,
                b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: %s\r\n" % key + answer.headers,
                content_length=None,
                chunked=False,
                keep_alive=True,
                version=self.head.version,
                request_id=self.request_id,
                backend=self._backend(),
                date=connection.site.clock.date,
            )
        )
        sent = connection.hand_over()
        self.socket = WebSocket(connection.site, self, transport)
        self.socket.begin(sent, connection.stuck)

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Send on what the app says."""
        if self.socket is None:
            super().data(piece, end)
        else:
            self.socket.take(piece, end)

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Answer with an error, or close the WebSocket."""
        if self.socket is None:
            super().failed(failure, body, retry_after_s)
        else:
            self.socket.lost(failure.reason)

    def room(self) -> None:
        """Hear that the app took some of what the client said."""
        if self.socket is not None:
            self.socket.room()
