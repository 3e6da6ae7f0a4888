"""Answers made bit by bit: generators, async generators, streaming responses.

    user code ── chunk ──► Outflow ─► DATA under credit        clear again? ─► the next chunk
    first chunk raised: an error answer · later: FAIL, and the ingress cuts the connection · caller gone: close()

A chunk is asked for only when all before it have left: a slow client pauses the generator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Protocol

from rayserve.replica.outflow import Outflow
from rayserve.replica.work import Work
from rayserve.wakeup import wakeable

__all__ = ["TURN_CHUNKS", "Begin", "Encode", "Turn", "Waits", "send_async", "send_sync", "until_clear"]

# How much an async stream may send before others on the loop get a turn.
TURN_CHUNKS: Final = 16
_TURN_BYTES: Final = 64 * 1024
_TURN_S: Final = 0.001

Begin = Callable[[], Outflow]
Encode = Callable[[Any], list[bytes | memoryview]]


class Turn:
    """How much one stream has sent since others on the loop last had their turn."""

    __slots__ = ("_bytes", "_chunks", "_since")

    def __init__(self) -> None:
        """Begin with the first chunk."""
        self.begin()

    def begin(self) -> None:
        """Hear that others had their turn just now."""
        self._bytes = self._chunks = 0
        self._since = time.monotonic()

    def ends(self, size: int) -> bool:
        """Count a chunk of `size` bytes; return whether others are to have their turn now."""
        self._bytes += size
        self._chunks += 1
        return self._chunks >= TURN_CHUNKS or self._bytes >= _TURN_BYTES or time.monotonic() - self._since >= _TURN_S


class Waits(Protocol):
    """What can hold the thread of user code while a stream is held back."""

    def until_clear(self, outflow: Outflow) -> None:
        """Return when nothing is held back; the sockets are read meanwhile."""


def send_sync(work: Work, chunks: Iterator[Any], begin: Begin, encode: Encode, waits: Waits) -> None:
    """Send what `chunks` yields; each chunk leaves at once.

    Args:
        work: the call that is answered.
        chunks: the stream; whoever made it closes it.
        begin: sends the head, once the first chunk is there.
        encode: turns an item into bytes.
        waits: holds this thread while the client is slow.

    Raises:
        Exception: what the stream raised.
    """
    outflow: Outflow | None = None
    link = work.session.link
    for item in chunks:
        if work.cancelled:
            break
        parts = encode(item)
        if outflow is None:
            outflow = begin()
        clear = outflow.push(parts)
        link.flush()
        if not clear:
            waits.until_clear(outflow)
    _end(work, outflow or begin())


async def send_async(work: Work, chunks: AsyncIterator[Any], begin: Begin, encode: Encode) -> None:
    """Send what `chunks` yields from the loop; other tasks get their turn. See `send_sync`."""
    outflow: Outflow | None = None
    session = work.session
    turn = Turn()
    async for item in chunks:
        if work.cancelled:
            break
        parts = encode(item)
        if outflow is None:
            outflow = begin()
        clear = outflow.push(parts)
        session.dirty(session.link)
        if not clear:
            await until_clear(outflow)
            turn.begin()
        elif turn.ends(sum(map(len, parts))):
            await asyncio.sleep(0)
            turn.begin()
    _end(work, outflow or begin())


async def until_clear(outflow: Outflow) -> None:
    """Wait on the loop until nothing is held back."""
    future, wake = wakeable()
    if outflow.when_clear(wake):
        await future


def _end(work: Work, outflow: Outflow) -> None:
    session = work.session
    if work.cancelled:
        session.drop(work)
    else:
        outflow.push([], end=True)
        session.dirty(session.link)
