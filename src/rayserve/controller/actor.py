"""The controller as a Ray actor: detached, restarted by Ray for ever, one per instance.

    drivers, replicas ── begin, command, … ──► ControllerActor ──► Controller
    Prometheus, operators ── HTTP ──► AdminDesk ─────────────────────┘

It adds bytes in and out, a log file, the admin server, and an end of its own after `shutdown`. Every method is a
coroutine, so Ray gives it an event loop, on which the constructor runs too: a restarted controller wakes up unasked.
"""

from __future__ import annotations

import asyncio
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import msgspec

from rayserve.actor_names import controller_name
from rayserve.admin.desk import AdminDesk
from rayserve.cluster import actors, nodes
from rayserve.controller.commands import decode_command
from rayserve.controller.controller import Controller
from rayserve.controller.shell import RayShell
from rayserve.memory import spare_imports

__all__ = ["ControllerActor"]

_EXIT_AFTER_S: Final = 5.0
_SETTLE_S: Final = 5.0
_LOG_BYTES: Final = 16 * 2**20
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


class ControllerActor:
    """One instance's controller process."""

    def __init__(self, instance: str) -> None:
        """Wake up: load what an earlier life saved."""
        spare_imports()
        self._instance = instance
        self._controller = Controller(RayShell(), instance)
        self._desk = AdminDesk(self._controller, nodes.this_node)
        self._log: RotatingFileHandler | None = None
        self._settling: asyncio.Task[None] | None = None
        self._awake = asyncio.get_running_loop().create_task(self._wake())

    async def _wake(self) -> None:
        await self._controller.wake()
        if not self._controller.is_idle:
            self._settling = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        """Open what needs the run directory: the log and the admin server."""
        run_dir = await self._controller.run_dir(nodes.this_node())
        if self._log is None:
            self._log = RotatingFileHandler(Path(run_dir) / "logs" / "controller.log", "a", _LOG_BYTES, 1, "utf-8")
            self._log.setFormatter(logging.Formatter(_FORMAT))
            log = logging.getLogger("rayserve")
            log.addHandler(self._log)
            log.setLevel(logging.INFO)
            log.propagate = False  # Ray would show it on the driver's terminal
        self._desk.open()

    async def begin(self, http: dict[str, Any], node: str) -> dict[str, Any]:
        """See `Controller.begin`; a taken admin port is an error too."""
        await self._awake
        starts = self._controller.is_idle
        if starts:
            self._desk.claim(int(http["options"]["admin_port"]))
        try:
            await self._controller.begin(http, node)
        except BaseException:
            if self._controller.is_idle:
                self._desk.close()
            raise
        if starts:
            self._settling = asyncio.get_running_loop().create_task(self._settle())
        if self._settling is not None:
            # Not for ever: this process may be on another node, whose door is not open.
            await asyncio.wait([self._settling], timeout=_SETTLE_S)
        return await self.info(node)

    async def is_idle(self) -> bool:
        """See `Controller.is_idle`."""
        await self._awake
        return self._controller.is_idle

    async def info(self, node: str) -> dict[str, Any]:
        """See `Controller.info`; here with `admin_url`."""
        await self._awake
        return {**self._controller.info(node), "admin_url": self._desk.url}

    async def command(self, command: bytes) -> bytes:
        """Carry out an encoded command; return its encoded `Outcome`."""
        await self._awake
        return msgspec.msgpack.encode(await self._controller.command(decode_command(command)))

    async def cancel(self, command: str) -> None:
        """See `Controller.cancel`."""
        await self._awake
        await self._controller.cancel(command)

    async def ask(self, question: str, *args: Any) -> Any:
        """Answer a question: the name of one of `Controller`'s methods that only read, and its arguments."""
        await self._awake
        if question not in _QUESTIONS:
            raise ValueError(f'the controller knows no question "{question}"')
        asked = self._desk if question == "status" else self._controller  # the desk's also says where it is itself
        return getattr(asked, question)(*args)

    async def shutdown(self) -> None:
        """See `Controller.shutdown`; the caller then ends this process, or it ends itself."""
        await self._awake
        await self._controller.shutdown()
        if self._settling is not None:
            self._settling.cancel()
        self._desk.close()
        asyncio.get_running_loop().call_later(_EXIT_AFTER_S, self._end)

    def _end(self) -> None:
        own = actors.find(controller_name(self._instance))
        if own is not None and self._controller.is_idle:
            actors.kill(own)


_QUESTIONS: Final = frozenset(
    {"backend_config", "backends", "endpoint_config", "endpoints", "metrics_snapshot", "progress", "status"}
)
