"""Joins the admin server to the controller: when it opens, where, and how it asks.

    controller begins ─► claim (bind the port, or fail before anything started) ─► open (token, thread)
    controller woke up again ─► open: the same port and token as before, tried until it works
    server's loop ── status, metrics ──► controller's loop ──► plain data back

All methods belong to the controller's loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from rayserve.admin.server import AdminServer, listening
from rayserve.admin.snapshot import Snapshot
from rayserve.admin.token import TOKEN_FILE, last_port, remember_url, token_of
from rayserve.errors import RayServeException

__all__ = ["AdminDesk", "Books"]

_log = logging.getLogger(__name__)
_AGAIN_S: Final = 1.0

T = TypeVar("T")


class Books(Protocol):
    """What the controller lets be read."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to read."""

    def status(self) -> dict[str, Any]:
        """Return the words of `serve.status()`."""

    def metrics_snapshot(self) -> dict[str, Any]:
        """Return all counts."""

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """Return all endpoints by name."""

    def info(self, node: str) -> dict[str, Any]:
        """Return `http` and, for `node`, `run_dir`."""


class AdminDesk:
    """Opens and closes one controller's admin server."""

    def __init__(self, books: Books, node: Callable[[], str]) -> None:
        """Serve nothing yet.

        Args:
            books: the controller.
            node: returns the id of the node this process is on.
        """
        self._books = books
        self._node = node
        self._listener: socket.socket | None = None  # bound, not served yet
        self._server: AdminServer | None = None
        self._token_file: Path | None = None
        self._trying: asyncio.Task[None] | None = None
        self._complaint = ""  # said once

    @property
    def url(self) -> str | None:
        """Where the server is, None while there is none."""
        return None if self._server is None else self._server.url

    def status(self) -> dict[str, Any]:
        """Return the controller's status and, as "admin", where this server is."""
        status = self._books.status()
        where = "closed" if self._server is None else f"open at {self.url}, its token is in {self._token_file}"
        return {"instance": status.get("instance", ""), "admin": where, **status}

    def claim(self, port: int) -> None:
        """Bind the port of an instance that is about to begin; harmless to repeat.

        Raises:
            PortInUseError: it is taken; so the instance need not start at all.
        """
        if self._listener is None and self._server is None:
            self._listener = listening(port)

    def open(self) -> None:
        """Answer from now on; if that fails it is tried again in the background until `close`."""
        if self._server is None and self._trying is None and not self._attempt():
            self._trying = asyncio.get_running_loop().create_task(self._go_on(), name="admin")

    def close(self) -> None:
        """Stop answering and free the port; harmless to repeat."""
        if self._trying is not None:
            self._trying.cancel()
            self._trying = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            if self._books.is_idle or self._attempt():
                break
        self._trying = None

    def _attempt(self) -> bool:
        try:
            return self._open_now()
        except (RayServeException, OSError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("the admin server is not open, next try in %g s: %s", _AGAIN_S, error)
            return False

    def _open_now(self) -> bool:
        """Open if this node has its run directory already."""
        info = self._books.info(self._node())
        if not info["run_dir"]:
            return False
        run_dir = Path(info["run_dir"])
        token = token_of(run_dir)
        if self._listener is None:
            self._listener = _again(int(info["http"]["options"]["admin_port"]), last_port(run_dir))
        loop = asyncio.get_running_loop()
        server = AdminServer(
            self._listener,
            token=token,
            status=partial(_asked, loop, self.status),
            metrics=partial(_asked, loop, self._snapshot),
        )
        remember_url(run_dir, server.url)
        self._listener, self._server, self._token_file = None, server, run_dir / TOKEN_FILE
        server.start()
        return True

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self._books.metrics_snapshot(), frozenset(self._books.endpoints()))


async def _asked(loop: asyncio.AbstractEventLoop, read: Callable[[], T]) -> T:
    """Return what `read()` returns on `loop`; called on the server's."""

    async def there() -> T:
        return read()

    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), loop))


def _again(wanted: int, last: int) -> socket.socket:
    """Listen where an earlier life did, if the user chose no port and it is still free."""
    if wanted == 0 and last != 0:
        try:
            return listening(last)
        except RayServeException:
            _log.info("the admin port %d of an earlier life is taken; another one is picked", last)
    return listening(wanted)
