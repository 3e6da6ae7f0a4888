"""A WebSocket as an ASGI app sees it: scope type "websocket" over the two byte streams of one call.

    Inflow ─► MessageDecoder ─► receive ─► app ─► send ─► accept: HEAD 101 · messages: DATA under credit · close

The ingress speaks RFC 6455 with the client; here are only messages. A close before `websocket.accept` is a 403, or the
answer that the app sends by the `websocket.http.response` extension. ASGI specification, WebSocket 2.4.
A replica that drains asks its clients to leave (1012); the app hears that code once they have, or have had their time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from rayserve.errors import BadResultError
from rayserve.replica.inflow import Broken, Inflow
from rayserve.replica.replies import user_traceback
from rayserve.replica.streaming import TURN_CHUNKS, until_clear
from rayserve.response import render_headers
from rayserve.wire import messages
from rayserve.wire.heads import Failure
from rayserve.wire.messages import (
    ABNORMAL,
    BINARY,
    LEAVE_S,
    MAX_MESSAGE,
    NORMAL,
    RESTART,
    TEXT,
    MessageDecoder,
    is_sendable,
)  # fmt: skip

if TYPE_CHECKING:
    from rayserve.replica.invoke import Invoker
    from rayserve.replica.outflow import Outflow
    from rayserve.replica.work import Work

__all__ = ["Disconnected", "Socket", "serve"]

_log = logging.getLogger("rayserve.user")
_LEAVING = RESTART, "this replica is going away, connect again"

Message = MutableMapping[str, Any]


class Disconnected(OSError):
    """The app sent something to a client that is gone (ASGI 2.4 asks for an OSError)."""


async def serve(app: Callable[..., Awaitable[None]], scope: dict[str, Any], socket: Socket, invoker: Invoker) -> None:
    """Run `app` for `socket`; `scope` is as of an HTTP request."""
    work = socket.work
    try:
        await app(_of_websocket(scope), socket.receive, socket.send)
        socket.finish()
    except BaseException as error:
        if not work.cancelled:
            socket.failed(error, invoker)
    if work.cancelled:
        work.session.drop(work)


def _of_websocket(scope: dict[str, Any]) -> dict[str, Any]:
    del scope["method"]
    offered = b",".join(value for name, value in scope["headers"] if name == b"sec-websocket-protocol")
    scope["type"] = "websocket"
    scope["subprotocols"] = [each.strip() for each in offered.decode("latin-1").split(",") if each.strip()]
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


class Socket:
    """One WebSocket, as `receive` and `send`."""

    __slots__ = ("_closed", "_connected", "_decoder", "_denial", "_done", "_leaving", "_long", "_messages", "_outflow",
                 "_turn", "work")  # fmt: skip

    def __init__(self, work: Work) -> None:
        """Serve `work`."""
        self.work = work
        self._connected = False
        self._outflow: Outflow | None = None  # once it is accepted
        self._denial: tuple[int, bytes, list[bytes]] | None = None
        self._done = False  # it was denied
        self._closed: tuple[int, str] | None = None  # code and reason, once either side has closed
        self._leaving = False  # the client is to go elsewhere
        self._decoder = MessageDecoder(MAX_MESSAGE)
        self._messages: deque[tuple[int, bytes]] = deque()
        self._long = bytearray()  # of a message that comes in pieces
        self._turn = 0

    # -- in -----------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Return that a client asks, then its messages, then that it is gone."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        self._turn += 1
        if self._turn >= TURN_CHUNKS:
            await self._breathe()
        while not self._messages and self._closed is None:
            await self._gather(self.work.inflow)
        if self._closed is None:
            kind, payload = self._messages.popleft()
            if kind == TEXT:
                return {"type": "websocket.receive", "text": payload.decode("utf-8")}
            if kind == BINARY:
                return {"type": "websocket.receive", "bytes": payload}
            self._closed = _LEAVING if self._leaving else messages.read_close(payload)
        code, reason = self._closed
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def _gather(self, inflow: Inflow | None) -> None:
        """Wait for the next bytes, and take them apart."""
        if inflow is not None and not inflow.ready:
            self._turn = 0  # others have theirs while this one waits
        try:
            data = b"" if inflow is None else await inflow.next_piece()
        except Broken:
            data = b""
        if not data:
            self._closed = _LEAVING if self._leaving else (ABNORMAL, "")
            return
        for kind, payload, _, last in self._decoder.feed(data):
            if self._long or not last:
                self._long += payload
                if not last:
                    continue
                payload = bytes(self._long)
                self._long.clear()
            self._messages.append((kind, payload))

    async def _breathe(self) -> None:
        """Let others on the loop have a turn."""
        self._turn = 0
        await asyncio.sleep(0)

    # -- out ----------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Take a message of the app; waits while the client is slow.

        Raises:
            Disconnected: the client is gone.
            RuntimeError: the message is out of order, or unknown.
        """
        kind = message["type"]
        if self.work.cancelled or self.work.ended:
            raise Disconnected("the client of this WebSocket is gone")
        if self._outflow is not None:
            if not self._send_on(kind, message, self._outflow):
                await until_clear(self._outflow)
            self._turn += 1
            if self._turn >= TURN_CHUNKS:
                await self._breathe()
        elif self._done:
            raise RuntimeError(f"the app sent {kind!r} after it had denied the WebSocket")
        elif kind == "websocket.http.response.start" and self._denial is None:
            self._denial = int(message["status"]), _rendered(message), []
        elif kind == "websocket.http.response.body" and self._denial is not None:
            status, headers, pieces = self._denial
            pieces.append(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                self._deny(status, headers, b"".join(pieces))
        elif self._denial is not None:
            raise RuntimeError(f"the app sent {kind!r} in the middle of a denial")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._deny(403, b"", b"")
        else:
            raise RuntimeError(f"the app sent {kind!r} before websocket.accept")

    def _accept(self, message: Message) -> None:
        work = self.work
        headers = _rendered(message)
        if message.get("subprotocol") is not None:
            headers += render_headers([("sec-websocket-protocol", message["subprotocol"])])
        self._outflow = work.session.begin(work, 101, headers)
        work.session.dirty(work.session.link)
        if work.state is not None:  # the time-out was for the accept: calls made from now on have their own
            work.state.deadline = work.state.unix_deadline = None
        if self._leaving:
            self._ask_to_leave(self._outflow)

    def _send_on(self, kind: str, message: Message, outflow: Outflow) -> bool:
        """Take a message after the accept; return whether the app may go on at once."""
        if kind == "websocket.close":
            if self._closed is not None:
                return True  # both sides may close at once
            code, reason = int(message.get("code") or NORMAL), message.get("reason") or ""
            if not is_sendable(code):
                raise ValueError(f"a WebSocket cannot be closed with code {code}; take 1000 or one of 3000 to 4999")
            self._closed = code, reason
            return self._push(outflow, messages.encode_close(code, reason))
        if kind != "websocket.send":
            raise RuntimeError(f"the app sent {kind!r} after websocket.accept")
        if self._closed is not None:
            raise Disconnected(f"this WebSocket is closed (code {self._closed[0]})")
        text = message.get("text")
        if text is not None:
            data = messages.encode_message(TEXT, text.encode("utf-8"))
        elif message.get("bytes") is not None:
            data = messages.encode_message(BINARY, message["bytes"])
        else:
            raise RuntimeError("the app sent websocket.send with neither text nor bytes")
        # Nothing may follow the close that a client got which was asked to leave; the app hears of it by `receive`.
        return self._leaving or self._push(outflow, data)

    def _push(self, outflow: Outflow, data: bytes) -> bool:
        session = self.work.session
        clear = outflow.push([data])
        session.dirty(session.link)
        return clear

    def _deny(self, status: int, headers: bytes, body: bytes) -> None:
        if not 200 <= status <= 599:
            raise BadResultError(f"the app denied the WebSocket with status {status}; it takes one from 200 to 599")
        self._done = True
        self.work.session.answer(self.work, status, headers, body)

    # -- the end ------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Ask the client to connect elsewhere; what it sends until it closes still reaches the app."""
        if self._leaving or self._done or self._closed is not None:
            return
        self._leaving = True
        if self._outflow is not None:
            self._ask_to_leave(self._outflow)

    def _ask_to_leave(self, outflow: Outflow) -> None:
        outflow.push([messages.encode_close(*_LEAVING)])
        self.work.session.dirty(self.work.session.link)
        asyncio.get_running_loop().call_later(LEAVE_S, self._left, outflow)

    def _left(self, outflow: Outflow) -> None:
        """Hear that the client had its time."""
        work = self.work
        if work.cancelled or work.ended:
            return
        if work.inflow is not None:
            work.inflow.cut("the client was asked to leave and had its time")
        if not outflow.clear:  # it does not take its messages; what waits for it would hold the slot
            outflow.drop()
            work.session.fail(work, Failure("draining", "the replica leaves, and the client does not listen"))
            work.session.link.flush()

    def finish(self) -> None:
        """Hear that the app returned.

        Raises:
            BadResultError: it neither accepted nor denied the WebSocket.
        """
        work = self.work
        if self._outflow is not None:
            self._outflow.push([], end=True)
            work.session.dirty(work.session.link)
        elif not self._done and not work.cancelled:
            raise BadResultError("the app returned without websocket.accept or websocket.close")

    def failed(self, error: BaseException, invoker: Invoker) -> None:
        """Hear that the app raised: an error answer before the accept, a close with 1011 after it."""
        work = self.work
        if self._outflow is None:
            if not self._done:
                invoker.replies.failed(work, error)
            return
        if self._closed is not None and isinstance(error, Exception):  # Starlette raises WebSocketDisconnect
            _log.info("WebSocket %s ended by %s after its close", work.head.request_id, type(error).__name__)
            self.finish()
            return
        text = user_traceback(error)
        _log.error("WebSocket %s failed in user code:\n%s", work.head.request_id, text)
        work.session.fail(work, Failure("user_exception", f"the app raised {type(error).__name__}", traceback=text))


def _rendered(message: Message) -> bytes:
    """Render the app's headers, but for those that the handshake owns."""
    pairs = [
        (bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in message.get("headers", ())
    ]
    return render_headers([pair for pair in pairs if not pair[0].lower().startswith(("sec-websocket-", "upgrade"))])
