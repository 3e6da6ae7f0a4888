"""An async stream that sync code sends: each chunk is asked for on an event loop of the stream's own.

AsyncChunks ─► __next__: the loop runs until the next chunk is there ─► bytes
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from rayserve.response import AsyncChunks

__all__ = ["Pulled"]


class Pulled(Iterator[bytes]):
    """The chunks of an async stream, for a thread without a running loop; `close` must be called in the end."""

    def __init__(self, source: AsyncChunks) -> None:
        """Pull from `source`."""
        self._source = source
        self._runner = asyncio.Runner()

    def __next__(self) -> bytes:
        piece = self._runner.run(self._next())
        if not piece:
            raise StopIteration
        return piece

    async def _next(self) -> bytes:
        return await anext(self._source, b"")  # no chunk is empty

    def close(self) -> None:
        """Run the stream's `finally` blocks."""
        try:
            self._runner.run(self._source.aclose())
        finally:
            self._runner.close()
