"""The lifespan of an ASGI app: its startup before the first request, its shutdown behind the last.

startup ─► lifespan.startup ─► app ─► startup.complete | startup.failed | it has no lifespan       (ASGI 3.0)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from rayserve.errors import BadResultError

__all__ = ["VERSION", "ASGIApp", "Lifespan", "LifespanError"]

_log = logging.getLogger("rayserve.user")
VERSION: Final = {"version": "3.0", "spec_version": "2.4"}

ASGIApp = Callable[..., Awaitable[None]]
Message = MutableMapping[str, Any]


class LifespanError(BadResultError):
    """The app's startup failed."""


class Lifespan:
    """The app's lifespan: startup before the first request, shutdown after the last."""

    def __init__(self, app: ASGIApp, mode: str) -> None:
        """Prepare.

        Args:
            app: the app.
            mode: "auto", "on" or "off".
        """
        self._app = app
        self._mode = mode
        self.state: dict[str, Any] = {}
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[str]
        self._stopped: asyncio.Future[str]
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Run the app's startup.

        Raises:
            LifespanError: it failed, or the app has none and the mode is "on".
        """
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._task = loop.create_task(self._run())
        self._inbox.put_nowait({"type": "lifespan.startup"})
        why = await self._started
        if why:
            raise LifespanError(f"the app's startup failed: {why}")

    async def shutdown(self, timeout_s: float) -> None:
        """Run the app's shutdown, for at most `timeout_s` seconds."""
        if self._task is None or self._task.done():
            return
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        try:
            async with asyncio.timeout(timeout_s):
                why = await self._stopped
        except TimeoutError:
            why = f"no answer within {timeout_s} s"
        if why:
            _log.error("the app's shutdown failed: %s", why)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": VERSION, "state": self.state}
        try:
            await self._app(scope, self._inbox.get, self._send)
            why = "it returned before startup.complete"
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
        if self._mode == "auto" and not self._started.done():
            _log.info("the app has no lifespan (%s)", why)
            why = ""
        for future in (self._started, self._stopped):
            if not future.done():
                future.set_result(why if future is self._started else "")

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        future = self._started if kind.startswith("lifespan.startup") else self._stopped
        if not future.done():
            failed = kind.endswith(".failed")
            future.set_result((message.get("message") or "the app gave no reason") if failed else "")
