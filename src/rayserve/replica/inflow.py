"""A request's body that user code reads while it still arrives.

    DATA ─► feed(piece) ─► held ─► read() in sync code, `async for` on a loop ─► credit back to the router

The router may be at most its credit ahead of user code; what was taken is granted back in steps. A body that breaks
off raises `Broken` behind its last byte: user code never takes a short body for a whole one.

No lock is taken for a piece. Who feeds adds it and then looks for a waiting reader; who reads says that it waits and
then looks for a piece: one of the two always sees the other.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from rayserve.wakeup import wakeable

__all__ = ["Broken", "Inflow", "Stream"]

_GRANT_STEP: Final = 64 * 1024
_BUFFER: Final = 64 * 1024
_ALL: Final = 1 << 62


class Broken(ConnectionError):
    """The body will never be whole: its sender is gone or broke a rule, or the call's time is up."""


class Inflow(io.RawIOBase):
    """The body of one request: a readable file for sync code, an async iterator of bytes for async code."""

    def __init__(self, grant: Callable[[int], None], hold: Callable[[Inflow], None] | None = None) -> None:
        """Start empty.

        Args:
            grant: called with the number of bytes that user code has taken, in steps.
            hold: holds the thread of sync user code until there is something; None: `wait`.
        """
        self._grant = grant
        self._hold = hold
        self._held: deque[bytes] = deque()
        self._offset = 0  # bytes of the first piece that were taken
        self._ended = False
        self._broken = ""
        self._owed = 0
        self._wake: Callable[[], object] | None = None  # the one reader waits; only it takes this away again

    # -- the reading thread's side --------------------------------------------------------------------

    def feed(self, piece: bytes | memoryview, end: bool) -> None:
        """Add bytes that came, and whether they are the last."""
        if piece:
            self._held.append(bytes(piece))
        if end:
            self._ended = True
        wake = self._wake
        if wake is not None:
            wake()

    def cut(self, why: str) -> None:
        """Let no more come: behind what is here, reads raise `Broken`. A body that is whole stays so."""
        if self._ended:
            return
        self._broken = why
        wake = self._wake
        if wake is not None:
            wake()

    # -- sync user code -------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a read would return, or raise, at once."""
        return bool(self._held) or self._ended or bool(self._broken)

    def wait(self) -> None:
        """Wait until `ready`, on a thread that has nothing to do with what feeds us."""
        changed = threading.Event()
        self._wake = changed.set
        while not self.ready:
            changed.wait()
            changed.clear()
        self._wake = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` with what is there, waiting for at least one byte; 0 at the end.

        Raises:
            Broken: it will never be whole.
        """
        piece = self._next(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        """Return all that is left, once it has come.

        Raises:
            Broken: it will never be whole.
        """
        return b"".join(iter(lambda: self._next(_ALL), b""))

    def _next(self, most: int) -> bytes:
        if not self.ready:
            (self._hold or Inflow.wait)(self)
        return self._take(most)

    # -- async user code ------------------------------------------------------------------------------

    async def next_piece(self) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises:
            Broken: it will never be whole.
        """
        if not self.ready:
            await self._until_ready()
        return self._take(_ALL)

    async def _until_ready(self) -> None:
        while not self.ready:
            future, self._wake = wakeable()
            if not self.ready:
                await future
        self._wake = None

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
        start, piece = self._offset, self._held[0]
        if len(piece) - start > most:
            self._offset = start + most
            piece = piece[start : start + most]
        else:
            self._held.popleft()
            if start:
                self._offset = 0
                piece = piece[start:]
        self._owed += len(piece)
        if self._owed >= _GRANT_STEP:
            owed, self._owed = self._owed, 0
            self._grant(owed)
        return piece


class Stream(io.BufferedReader):
    """`request.stream` of a body that arrives: any file's `read`, `read1`, `readline`, and `async for` over its pieces.

    `read(n)` waits for `n` bytes or the end, `read1(n)` returns what is there. Use it in one of the two ways only.
    """

    def __init__(self, inflow: Inflow) -> None:
        """Read from `inflow`."""
        super().__init__(inflow, _BUFFER)
        self._inflow = inflow

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        return aiter(self._inflow)
