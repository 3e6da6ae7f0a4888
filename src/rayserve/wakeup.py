"""Coroutines that wait for what another thread does.

future, wake = wakeable()          on the loop; hand `wake` to whoever makes it true
await future  ◄── one turn of the loop for all that were woken since the last ◄── wake(), from any thread
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

__all__ = ["wakeable"]

Future = asyncio.Future[None]


class _Waker:
    """Ends futures of one loop; however many wait for their turn, the loop is called once."""

    __slots__ = ("_called", "_ended", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ended: deque[Future] = deque()
        self._called = False

    def end(self, future: Future) -> None:
        """Let whoever awaits `future` go on; from any thread."""
        self._ended.append(future)
        if asyncio._get_running_loop() is self.loop:
            self._turn()
        elif not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._ended.clear()

    def _turn(self) -> None:
        self._called = False  # first: what comes after the last look below calls again
        ended = self._ended
        while ended:
            future = ended.popleft()
            if not future.done():
                future.set_result(None)


class _Here(threading.local):
    waker: _Waker | None = None


_here: Final = _Here()


def wakeable() -> tuple[Future, Callable[[], None]]:
    """Return a future of the running loop, and what ends it: called from any thread, harmless when it is over."""
    loop = asyncio.get_running_loop()
    waker = _here.waker
    if waker is None or waker.loop is not loop:
        waker = _here.waker = _Waker(loop)
    future: Future = loop.create_future()
    return future, partial(waker.end, future)
