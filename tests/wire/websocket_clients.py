"""WebSocket clients that people use, behind one small interface: websockets, sync and on a loop, and aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import aiohttp
from aiohttp import WSMsgType
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection as SyncConnection
from websockets.sync.client import connect as connect_sync
from websockets.typing import Subprotocol

WITHIN_S = 20.0
T = TypeVar("T")


class Closed(Exception):
    """The server closed: code and reason."""


class Denied(Exception):
    """The handshake was answered with another status."""


def _closed(error: ConnectionClosed) -> Closed:
    assert error.rcvd is not None
    return Closed(error.rcvd.code, error.rcvd.reason)


class Client(Protocol):
    def connect(self, url: str, subprotocols: Sequence[str] = ()) -> None: ...

    def send(self, message: str | bytes) -> None: ...

    def receive(self) -> str | bytes:
        """Return the next message; raises `Closed` behind the last."""

    def ping(self) -> None:
        """Return when the pong has come."""

    def close(self, code: int, reason: str) -> int:
        """Close; return the code that the server answered with."""

    def subprotocol(self) -> str | None: ...

    def end(self) -> None: ...


class SyncWebsockets:
    client: SyncConnection

    def __init__(self) -> None:
        self._stack = ExitStack()

    def connect(self, url: str, subprotocols: Sequence[str] = ()) -> None:
        offered = [Subprotocol(each) for each in subprotocols] or None
        try:
            self.client = self._stack.enter_context(connect_sync(url, subprotocols=offered, max_size=None))
        except InvalidStatus as error:
            raise Denied(error.response.status_code) from error

    def send(self, message: str | bytes) -> None:
        self.client.send(message)

    def receive(self) -> str | bytes:
        try:
            return self.client.recv(WITHIN_S)
        except ConnectionClosed as error:
            raise _closed(error) from error

    def ping(self) -> None:
        assert self.client.ping(b"are you there?").wait(WITHIN_S)

    def close(self, code: int, reason: str) -> int:
        self.client.close(code, reason)
        received = self.client.protocol.close_rcvd
        assert received is not None
        return received.code

    def subprotocol(self) -> str | None:
        return self.client.subprotocol

    def end(self) -> None:
        self._stack.close()


class _OnLoop:
    """A client whose loop runs while it is asked for something."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(asyncio.wait_for(what, WITHIN_S))


class Websockets(_OnLoop):
    client: ClientConnection | None = None

    def connect(self, url: str, subprotocols: Sequence[str] = ()) -> None:
        async def begin() -> ClientConnection:
            return await connect(
                url, subprotocols=[Subprotocol(each) for each in subprotocols] or None, max_size=None, proxy=None
            )

        try:
            self.client = self._do(begin())
        except InvalidStatus as error:
            raise Denied(error.response.status_code) from error

    @property
    def _open(self) -> ClientConnection:
        assert self.client is not None
        return self.client

    def send(self, message: str | bytes) -> None:
        self._do(self._open.send(message))

    def receive(self) -> str | bytes:
        try:
            return self._do(self._open.recv())
        except ConnectionClosed as error:
            raise _closed(error) from error

    def ping(self) -> None:
        async def ping() -> None:
            await (await self._open.ping(b"are you there?"))

        self._do(ping())

    def close(self, code: int, reason: str) -> int:
        self._do(self._open.close(code, reason))
        received = self._open.protocol.close_rcvd
        assert received is not None
        return received.code

    def subprotocol(self) -> str | None:
        return self._open.subprotocol

    def end(self) -> None:
        if self.client is not None:
            self._do(self.client.close())
        self._runner.close()


class Aiohttp(_OnLoop):
    session: aiohttp.ClientSession
    client: aiohttp.ClientWebSocketResponse

    def connect(self, url: str, subprotocols: Sequence[str] = ()) -> None:
        async def begin() -> None:
            self.session = aiohttp.ClientSession()
            self.client = await self.session.ws_connect(url, protocols=subprotocols, max_msg_size=0, autoping=False)

        try:
            self._do(begin())
        except aiohttp.WSServerHandshakeError as error:
            raise Denied(error.status) from error

    def send(self, message: str | bytes) -> None:
        self._do(self.client.send_str(message) if isinstance(message, str) else self.client.send_bytes(message))

    def receive(self) -> str | bytes:
        message = self._do(self.client.receive())
        if message.type is WSMsgType.CLOSE:
            raise Closed(message.data, message.extra)
        assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY), message
        data: str | bytes = message.data
        return data

    def ping(self) -> None:
        self._do(self.client.ping(b"are you there?"))
        message = self._do(self.client.receive())
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, b"are you there?")

    def close(self, code: int, reason: str) -> int:
        assert self._do(self.client.close(code=code, message=reason.encode()))
        assert self.client.close_code is not None
        return self.client.close_code

    def subprotocol(self) -> str | None:
        return self.client.protocol

    def end(self) -> None:
        async def end() -> None:
            await self.session.close()

        self._do(end())
        self._runner.close()
