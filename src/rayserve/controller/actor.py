"""The controller as a Ray actor: detached, restarted by Ray for ever, one per instance.

    drivers, replicas ── begin, command, … ──► ControllerActor ──► Controller

It adds nothing but bytes in and out, logging, and an end of its own after `shutdown`. Every method is a coroutine,
so Ray gives it an event loop, on which the constructor runs too: a restarted controller wakes up unasked.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec

from rayserve.actor_names import controller_name
from rayserve.cluster import actors
from rayserve.controller.commands import decode_command
from rayserve.controller.controller import Controller
from rayserve.controller.shell import RayShell

__all__ = ["MAX_CONCURRENCY", "ControllerActor"]

# Every create_backend under way holds one call, and so does every driver that waits; Ray's default is 1,000.
MAX_CONCURRENCY: Final = 3_000

_EXIT_AFTER_S: Final = 5.0


class ControllerActor:
    """One instance's controller process."""

    def __init__(self, instance: str) -> None:
        """Wake up: load what an earlier life saved."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        self._instance = instance
        self._controller = Controller(RayShell(), instance)
        self._awake = asyncio.get_running_loop().create_task(self._controller.wake())

    async def begin(self, http: dict[str, Any], node: str) -> dict[str, Any]:
        """See `Controller.begin`."""
        await self._awake
        return await self._controller.begin(http, node)

    async def is_idle(self) -> bool:
        """See `Controller.is_idle`."""
        await self._awake
        return self._controller.is_idle

    async def info(self, node: str) -> dict[str, Any]:
        """See `Controller.info`."""
        await self._awake
        return self._controller.info(node)

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
        return getattr(self._controller, question)(*args)

    async def shutdown(self) -> None:
        """See `Controller.shutdown`; the caller then ends this process, or it ends itself."""
        await self._awake
        await self._controller.shutdown()
        asyncio.get_running_loop().call_later(_EXIT_AFTER_S, self._end)

    def _end(self) -> None:
        own = actors.find(controller_name(self._instance))
        if own is not None and self._controller.is_idle:
            actors.kill(own)


_QUESTIONS: Final = frozenset(
    {"backend_config", "backends", "endpoint_config", "endpoints", "metrics_snapshot", "progress", "status"}
)
