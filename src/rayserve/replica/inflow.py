"""A request's body that user code reads while it still arrives.

    DATA ─► feed(piece) ─► held ─► read() in a thread, `async for` on a loop ─► credit back to the router

The router may be at most its credit ahead of user code; what was taken is granted back in steps.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

__all__ = ["Broken", "Inflow"]

_GRANT_STEP: Final = 64 * 1024


class Broken(ConnectionError):
    """The client went away before its body was whole."""


class Inflow(io.RawIOBase):
    """The body of one request: a readable file for sync code, an async iterator of bytes for async code."""

    def __init__(self, grant: Callable[[int], None]) -> None:
        """Start empty.

        Args:
            grant: called with the number of bytes that user code has taken, in steps.
        """
        self._grant = grant
        self._held: deque[bytes] = deque()
        self._ended = False
        self._broken = ""
        self._owed = 0
        self._changed = threading.Condition()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    # -- the reading thread's side --------------------------------------------------------------------

    def feed(self, piece: bytes | memoryview, end: bool) -> None:
        """Add bytes that came, and whether they are the last."""
        with self._changed:
            if piece:
                self._held.append(bytes(piece))
            self._ended = self._ended or end
            self._changed.notify_all()
            waiter, self._waiter = self._waiter, None
        _wake(waiter)

    def cut(self, why: str) -> None:
        """Make every later read raise `Broken`."""
        with self._changed:
            self._broken = why
            self._changed.notify_all()
            waiter, self._waiter = self._waiter, None
        _wake(waiter)

    # -- sync user code -------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` with what is there, waiting for at least one byte; 0 at the end.

        Raises:
            Broken: the client went away.
        """
        with self._changed:
            while not self._held and not self._ended and not self._broken:
                self._changed.wait()
            piece = self._take(len(buffer))
        buffer[: len(piece)] = piece
        self._taken(len(piece))
        return len(piece)

    # -- async user code ------------------------------------------------------------------------------

    async def next_piece(self) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises:
            Broken: the client went away.
        """
        while True:
            with self._changed:
                if self._held or self._ended or self._broken:
                    piece = self._take(1 << 62)
                    break
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiter = (loop, future)
            await future
        self._taken(len(piece))
        return piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        while piece := await self.next_piece():
            yield piece

    @property
    def whole(self) -> bool:
        """Whether the last byte has been taken."""
        return self._ended and not self._held

    def _take(self, most: int) -> bytes:
        if not self._held:
            if self._broken:
                raise Broken(self._broken)
            return b""
        piece = self._held.popleft()
        if len(piece) > most:
            self._held.appendleft(piece[most:])
            piece = piece[:most]
        return piece

    def _taken(self, size: int) -> None:
        self._owed += size
        if self._owed >= _GRANT_STEP:
            owed, self._owed = self._owed, 0
            self._grant(owed)


def _wake(waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None) -> None:
    if waiter is None:
        return
    loop, future = waiter

    def done() -> None:
        if not future.done():
            future.set_result(None)

    if asyncio._get_running_loop() is loop:  # it reads the sockets itself: no need to wake it by its pipe
        done()
        return
    try:
        loop.call_soon_threadsafe(done)
    except RuntimeError:  # the loop is closed: nobody reads any more
        return
