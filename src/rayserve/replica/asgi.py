"""Runs an ASGI app: one task per request, its lifespan around them all.

Open + Inflow ─► scope, receive ─► app ─► send ─► HEAD + DATA under credit        (ASGI 3.0, spec version 2.4)
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from rayserve.context import enter
from rayserve.errors import BadRequestError, BadResultError
from rayserve.replica import websocket
from rayserve.replica.inflow import Broken
from rayserve.replica.lifespan import VERSION, ASGIApp, Lifespan
from rayserve.replica.outflow import Outflow
from rayserve.replica.streaming import Turn, until_clear
from rayserve.replica.work import Work
from rayserve.response import NO_BODY, announced, render_headers
from rayserve.wire.heads import Open

if TYPE_CHECKING:
    from rayserve.replica.invoke import Invoker

__all__ = ["AppRunner", "Cycle", "scope_of"]

# Of the loop, before `send` raises for a client that is gone: an app that listens for http.disconnect, as Django does,
# ends by itself in them and closes what it has open; an error from `send` would not let it.
_TURNS_TO_LEAVE: Final = 16

Message = MutableMapping[str, Any]


def scope_of(head: Open, state: dict[str, Any] | None) -> dict[str, Any]:
    """Return the scope of an HTTP request (ASGI specification, HTTP & WebSocket ASGI Message Format 2.4)."""
    host, _, port = head.client.rpartition(":")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": VERSION,
        "http_version": head.http_version,
        "method": head.method,
        "scheme": head.scheme,
        "path": unquote_to_bytes(head.target).decode("utf-8", "replace"),
        "raw_path": head.target.encode("ascii"),
        "query_string": head.query,
        "root_path": unquote_to_bytes(head.root).decode("utf-8", "replace"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers],
        "client": (host.strip("[]"), int(port)) if port.isdecimal() else None,
        "server": _server_of(head),
    }
    if state is not None:
        scope["state"] = state.copy()
    return scope


def _server_of(head: Open) -> tuple[str, int | None] | None:
    for name, value in head.headers:
        if name == "host":
            host, colon, port = value.rpartition(":")
            if colon and port.isdecimal():
                return (host, int(port))
            return (value, 443 if head.scheme in ("https", "wss") else 80)
    return None


class Cycle:
    """One request and its answer, as `receive` and `send`."""

    __slots__ = (
        "_gone", "_headers", "_outflow", "_received", "_size", "_started", "_status", "_turn", "_work", "complete",
    )  # fmt: skip

    def __init__(self, work: Work) -> None:
        """Serve `work`."""
        self._work = work
        self._received = False
        self._gone = asyncio.Event()
        self._started = False
        self._status = 500
        self._headers = b""
        self._size = -1  # bytes of body that the app announced
        self._outflow: Outflow | None = None
        self.complete = False

    def cancel(self) -> None:
        """Hear that nobody waits any more: `receive` says so, and `send` raises."""
        self._gone.set()

    async def receive(self) -> Message:
        """Return the next piece of the request, then wait for the client to leave."""
        work = self._work
        if not self._received:
            if work.inflow is None:
                self._received = True
                return {"type": "http.request", "body": work.body, "more_body": False}
            try:
                piece = await work.inflow.next_piece()
            except Broken:
                return {"type": "http.disconnect"}
            self._received = not piece or work.inflow.whole
            return {"type": "http.request", "body": piece, "more_body": not self._received}
        if not self.complete:
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a piece of the answer; waits while the client is slow.

        Raises:
            Disconnected: the client is gone. A stream without end would otherwise never learn of it.
            RuntimeError: the message is out of order, or unknown.
        """
        kind = message["type"]
        if work_gone(self._work) and not self.complete:
            for _ in range(_TURNS_TO_LEAVE):
                await asyncio.sleep(0)
            raise websocket.Disconnected("nobody waits for this answer any more")
        if kind == "http.response.start":
            if self._started:
                raise RuntimeError("the app sent http.response.start twice")
            self._started = True
            self._status = message["status"]
            pairs = [(bytes(key).decode("latin-1"), bytes(value).decode("latin-1")) for key, value in
                     message.get("headers", ())]  # fmt: skip
            self._headers = render_headers(pairs)
            if self._status not in NO_BODY:
                self._size = announced(pairs)
        elif kind == "http.response.body":
            if not self._started:
                raise RuntimeError("the app sent http.response.body before http.response.start")
            if self.complete:
                raise RuntimeError("the app sent http.response.body after the last one")
            await self._body(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
        else:
            raise RuntimeError(f"the app sent {kind!r}, which is not known here")

    async def _body(self, body: bytes, more: bool) -> None:
        work = self._work
        session = work.session
        if self._outflow is None:
            if not more:
                self._whole(body)
                return
            self._outflow = session.begin(work, self._status, self._headers, self._size)
            self._turn = Turn()
        outflow = self._outflow
        self.complete = not more
        clear = outflow.push([body], end=not more)
        session.dirty(session.link)
        if not clear:
            await until_clear(outflow)
            self._turn.begin()
        elif self._turn.ends(len(body)):
            await asyncio.sleep(0)
            self._turn.begin()

    def _whole(self, body: bytes) -> None:
        work, size = self._work, self._size
        bare = isinstance(work.head, Open) and work.head.method == "HEAD"
        if size >= 0 and size != len(body) and not bare:
            raise BadResultError(f"the app announced {size} bytes (content-length) and sent {len(body)}")
        self.complete = True
        if bare and size < 0 and self._status not in NO_BODY:  # how long the body of a GET would be nobody knows
            work.session.begin(work, self._status, self._headers).push([], end=True)
            work.session.dirty(work.session.link)
        else:
            work.session.answer(work, self._status, self._headers, body, size)


def work_gone(work: Work) -> bool:
    """Return whether nobody waits for `work` any more."""
    return work.cancelled or work.ended


class AppRunner:
    """An ASGI app on the loop of a replica: its lifespan, and a task per request.

    Attributes:
        lifespan: of the app.
    """

    def __init__(self, app: ASGIApp, lifespan: str) -> None:
        """Prepare to run `app`; `lifespan` is "auto", "on" or "off"."""
        self._app = app
        self.lifespan = Lifespan(app, lifespan)
        self._sockets: set[websocket.Socket] = set()  # the open ones
        self._draining = False

    def drain(self) -> None:
        """Have the clients of WebSockets go elsewhere; called on the loop."""
        self._draining = True
        for socket in tuple(self._sockets):
            socket.leave()

    async def serve(self, work: Work, invoker: Invoker) -> None:
        """Run the app for one request."""
        head = work.head
        if not isinstance(head, Open):
            invoker.replies.failed(
                work, BadRequestError("this backend is a web app; call it by HTTP, or with handle.request(…)")
            )
            return
        enter(invoker.state(work))
        work.session.started(work)
        if head.scheme in ("ws", "wss"):
            await self._serve_websocket(scope_of(head, self.lifespan.state), websocket.Socket(work), invoker)
            return
        cycle = Cycle(work)
        work.on_cancel = cycle.cancel
        if work.cancelled:
            cycle.cancel()
        try:
            await self._app(scope_of(head, self.lifespan.state), cycle.receive, cycle.send)
            if not cycle.complete and not work_gone(work):
                raise BadResultError("the app returned without completing its answer")
        except BaseException as error:
            if not work.cancelled:
                invoker.replies.failed(work, error)
        if work.cancelled:
            work.session.drop(work)

    async def _serve_websocket(self, scope: dict[str, Any], socket: websocket.Socket, invoker: Invoker) -> None:
        self._sockets.add(socket)
        if self._draining:
            socket.leave()
        try:
            await websocket.serve(self._app, scope, socket, invoker)
        finally:
            self._sockets.discard(socket)
