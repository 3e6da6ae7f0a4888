"""The code that only RayServe serves: batches, calls from one backend to another, streams that tell the time.

Everything here is small on purpose: what is measured is what happens around it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from statistics import median
from typing import Any

import flask

import rayserve as serve

__all__ = ["NAP_S", "PAUSE_S", "Caller", "Forest", "async_noop", "batch_noop", "napping", "stamped", "stamped_async"]

NAP_S = 0.001
PAUSE_S = 0.003


async def async_noop() -> str:
    """Answer as little as can be, on the event loop."""
    return ""


@serve.accept_batch
def batch_noop(batch: Sequence[Any]) -> list[str]:
    """Answer a batch with as little as can be."""
    return [""] * len(batch)


@serve.accept_batch
def napping(batch: Sequence[Any]) -> list[str]:
    """Do nothing for 1 ms per batch, as a model on another device would, from this thread's view."""
    time.sleep(NAP_S)
    return [""] * len(batch)


class Forest:
    """100 trees that read digits, trained here; one row of 64 numbers per request."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits
        from sklearn.ensemble import RandomForestClassifier

        digits = load_digits()
        self._forest = RandomForestClassifier(random_state=7).fit(digits.data, digits.target)

    @serve.accept_batch
    def __call__(self, batch: Sequence[flask.Request]) -> list[int]:
        """Read all rows at once."""
        found: list[int] = self._forest.predict([request.get_json() for request in batch]).tolist()
        return found


class Caller:
    """Calls another endpoint by a handle from async code."""

    def __init__(self, endpoint: str) -> None:
        self._handle = serve.get_handle(endpoint)

    async def __call__(self) -> Any:
        """Answer what the other one answers."""
        return await self._handle.remote()

    async def together(self, in_flight: int, seconds: float) -> tuple[int, float]:
        """Keep so many calls in flight for so long; return how many came back, and within how many seconds."""
        began = time.perf_counter()
        until = began + seconds

        async def one() -> int:
            for done in count():
                if time.perf_counter() > until:
                    return done
                await self._handle.remote()
            raise AssertionError("count() has no end")

        done = sum(await asyncio.gather(*(one() for _ in range(in_flight))))
        return done, time.perf_counter() - began

    async def in_turn(self, seconds: float) -> float:
        """Call again and again, one call at a time; return the median of how long one took, in seconds."""
        until = time.perf_counter() + seconds
        took_s = []
        began = 0.0
        while began < until:
            began = time.perf_counter()
            await self._handle.remote()
            took_s.append(time.perf_counter() - began)
        return median(took_s)


def stamped() -> Iterator[str]:
    """Yield what the clock says, and the rest later: the first chunk must not have to wait for it."""
    yield f"yielded at {time.monotonic_ns()}\n"
    time.sleep(PAUSE_S)
    yield "the end\n"


async def stamped_async() -> AsyncIterator[str]:
    """Do the same on the event loop."""
    yield f"yielded at {time.monotonic_ns()}\n"
    await asyncio.sleep(PAUSE_S)
    yield "the end\n"
