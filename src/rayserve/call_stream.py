"""The values that a generator yields, as they arrive over a handle.

    DATA ─► feed ─► held ─► next() in sync code, `async for` in async code ─► credit back to the replica

A reader that is slow pauses the generator; one that closes the stream, or lets go of it, stops it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from rayserve.wakeup import wakeable
from rayserve.wire import values

__all__ = ["ResultStream"]


class ResultStream(Iterator[Any], AsyncIterator[Any]):
    """Iterates over the values of one streaming call, in sync or in async code."""

    def __init__(self, grant: Callable[[int], None], stop: Callable[[], None]) -> None:
        """Start empty.

        Args:
            grant: says, from any thread, that so many bytes were taken.
            stop: gives the call up, from any thread; harmless when it is over.
        """
        self._grant = grant
        self._stop = stop
        self._items = values.Items()
        self._held: deque[tuple[list[int], bytes]] = deque()
        self._owed = 0  # bytes that came and were not granted back
        self._over = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._waiter: Callable[[], None] | None = None

    # -- the I/O thread's side ------------------------------------------------------------------------

    def feed(self, piece: bytes | memoryview, end: bool) -> None:
        """Take bytes of the stream, and whether they are the last."""
        with self._changed:
            self._held.extend(self._items.feed(piece))
            self._owed += len(piece)
            self._over = self._over or end
            self._settle()
            self._wake()

    def fail(self, error: BaseException) -> bool:
        """End the stream with an error, after the values that came before it; False if it had ended."""
        with self._changed:
            if self._over:
                return False
            self._over = True
            self._error = error
            self._wake()
            return True

    def _settle(self) -> None:
        """Return the credit once no whole value is held: what is left is the beginning of the next one."""
        if not self._held and self._owed and not self._over:
            owed, self._owed = self._owed, 0
            self._grant(owed)

    def _wake(self) -> None:
        self._changed.notify_all()
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter()

    # -- for users ------------------------------------------------------------------------------------

    def __iter__(self) -> ResultStream:
        return self

    def __next__(self) -> Any:
        """Return the next value, waiting for it.

        Raises:
            StopIteration: the generator ended.
            Exception: what it raised, as its own class.
        """
        with self._changed:
            while not self._held and not self._over:
                self._changed.wait()
            packed = self._take()
        if packed is None:
            raise StopIteration
        return values.unpack(*packed)

    def __aiter__(self) -> ResultStream:
        return self

    async def __anext__(self) -> Any:
        """Return the next value; see `__next__`."""
        while True:
            with self._changed:
                if self._held or self._over:
                    packed = self._take()
                    break
                future, self._waiter = wakeable()
            try:
                await future
            except asyncio.CancelledError:
                self.close()
                raise
        if packed is None:
            raise StopAsyncIteration
        return values.unpack(*packed)

    def _take(self) -> tuple[list[int], bytes] | None:
        if self._held:
            packed = self._held.popleft()
            self._settle()
            return packed
        error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def close(self) -> None:
        """Stop the generator; its `finally` runs. Harmless when it is over."""
        with self._changed:
            self._held.clear()
            over, self._over = self._over, True
            self._wake()
        if not over:
            self._stop()

    async def aclose(self) -> None:
        """Stop the generator; see `close`."""
        self.close()

    def __del__(self) -> None:
        if not self._over:
            self._stop()
