"""A bell that rings when anything changed, for those who wait until something is true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Bell"]

T = TypeVar("T")


class Bell:
    """Wakes every waiter at each ring; each looks for itself whether its wish came true."""

    def __init__(self) -> None:
        """Nobody waits yet."""
        self.rings = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Something changed."""
        self.rings += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def until(self, found: Callable[[], T | None]) -> T:
        """Return the first value other than None that `found` returns, asked now and after each ring.

        Whatever `found` raises is raised here. Bound the wait with `asyncio.timeout`.
        """
        while (value := found()) is None:
            await self.after(self.rings)
        return value

    async def after(self, rings: int) -> None:
        """Wait until the bell has rung more than `rings` times."""
        if self.rings > rings:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)
