"""The admin server: HTTP on loopback, in a thread and on an event loop of its own.

    client ── head ──► gate ──► ask status() or metrics() ──► answer, close
             ≤ 16 KiB, 5 s      on the controller's loop, ≤ 5 s

One thread, at most 32 connections, one request on each, all of it within a deadline: whatever clients do, the
controller's loop only ever sees one short question per request that showed the token.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from rayserve import __version__
from rayserve.admin.answer import HTML, JSON, TEXT, page, rendered
from rayserve.admin.gate import Refused, admit, parse
from rayserve.admin.metrics import CONTENT_TYPE, exposition
from rayserve.admin.snapshot import Snapshot
from rayserve.errors import ClusterError, PortInUseError, RayServeException

__all__ = ["AdminServer", "listening"]

_log = logging.getLogger(__name__)

MAX_CLIENTS: Final = 32
HEAD_BYTES: Final = 16 * 2**10
HEAD_S: Final = 5.0
ASK_S: Final = 5.0
_SEND_S: Final = 10.0
_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 2**16
_BACKLOG: Final = 64


class AdminServer:
    """Serves `/`, `/status` and `/metrics` until `close`.

    Attributes:
        host: the loopback address it listens on.
        port: its port.
    """

    host: str
    port: int

    def __init__(
        self,
        listener: socket.socket,
        *,
        token: str,
        status: Callable[[], Awaitable[dict[str, Any]]],
        metrics: Callable[[], Awaitable[Snapshot]],
        head_s: float = HEAD_S,
        ask_s: float = ASK_S,
    ) -> None:
        """Take over a socket; `start` begins to answer.

        Args:
            listener: from `listening`; closed by `close`.
            token: what every request must show.
            status: returns what `serve.status()` says; awaited on this server's own loop.
            metrics: returns the counts; as `status`.
            head_s: seconds a client has for its request's head.
            ask_s: seconds the controller has for its answer.
        """
        self._token = token
        self._status = status
        self._metrics = metrics
        self._head_s = head_s
        self._ask_s = ask_s
        self._socket = listener
        self.host, self.port = listener.getsockname()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._clients: set[asyncio.Task[Any]] = set()
        self._reading: dict[asyncio.Task[Any], None] = {}  # of the clients: those who showed no token yet, oldest first
        self._thread = threading.Thread(target=self._run, name="rayserve-admin", daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Begin to answer; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port; harmless to repeat."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # its loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(_SEND_S)
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, sock=self._socket, limit=HEAD_BYTES, backlog=_BACKLOG)
        await self._closing.wait()
        server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, within its time."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CLIENTS:
            # The oldest of those who keep us waiting, so that a flood of idle connections shuts nobody else out.
            if not self._reading:
                writer.transport.abort()
                return
            oldest = next(iter(self._reading))
            del self._reading[oldest]
            oldest.cancel()
        self._clients.add(task)
        self._reading[task] = None
        writer.transport.set_write_buffer_limits(0)  # so that `drain` means sent
        try:
            answer = await self._answer(task, reader)
            async with asyncio.timeout(_SEND_S):
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
            await _lingered(reader)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            return  # it went, or did not take its answer: nobody is left to tell
        finally:
            self._reading.pop(task, None)
            self._clients.discard(task)
            writer.transport.abort()

    async def _answer(self, task: asyncio.Task[Any], reader: asyncio.StreamReader) -> bytes:
        bare = False
        try:
            request = parse(await self._head(reader))
            bare = request.method == "HEAD"
            path = admit(request, self.port, self._token)
            self._reading.pop(task, None)
            kind, body = await self._found(path)
            return rendered(200, kind, body, bare=bare)
        except Refused as refusal:
            return rendered(refusal.status, TEXT, f"{refusal}\n".encode(), refusal.headers, bare=bare)

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._head_s):
                return await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            raise Refused(408, f"no whole request head within {self._head_s:g} s") from None
        except asyncio.LimitOverrunError:
            raise Refused(431, f"the request head is longer than {HEAD_BYTES} bytes") from None

    async def _found(self, path: str) -> tuple[str, bytes]:
        """Return content type and body of a path.

        Raises:
            Refused: the controller does not answer.
        """
        try:
            async with asyncio.timeout(self._ask_s):
                if path == "/metrics":
                    return CONTENT_TYPE, exposition(await self._metrics(), __version__)
                status = await self._status()
        except TimeoutError:
            raise Refused(503, f"the controller did not answer within {self._ask_s:g} s") from None
        except RayServeException as error:
            raise Refused(503, str(error)) from None
        except Exception as error:
            _log.exception("GET %s", path)
            raise Refused(500, "this failed; the controller's log says why") from error
        return (JSON, msgspec.json.encode(status)) if path == "/status" else (HTML, page(status))


async def _lingered(reader: asyncio.StreamReader) -> None:
    """Take what the client still sends (a body we refused), or its kernel could throw our answer away."""
    async with asyncio.timeout(_LINGER_S):
        taken = 0
        while taken < _LINGER_BYTES and (piece := await reader.read(4096)):
            taken += len(piece)


def listening(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that listens on loopback.

    Args:
        port: 0 picks one.
        host: an IPv4 address of this machine.

    Raises:
        PortInUseError: the port is taken.
        ClusterError: it cannot be listened on for another reason.
    """
    try:
        return socket.create_server((host, port), backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"{host}:{port} is taken by another process; stop that one, "
                "or choose another admin_port (0 picks a free one)"
            ) from error
        raise ClusterError(f"the admin server cannot listen on {host}:{port}: {error}") from error
