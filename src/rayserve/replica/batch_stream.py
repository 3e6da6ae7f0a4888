"""The answers of one batch, made bit by bit: user code yields lists, and each call of the batch gets its items.

    generator ── [item, item, …] ─► push ─► an Outflow for each call ─► all clear again? ─► the next list

The calls go in step: the slowest client of a batch sets its pace. A call leaves alone when its client is gone, when its
item is an exception or `StopIteration`; when none is left the generator is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

from rayserve.batching import split_results
from rayserve.replica.outflow import Outflow
from rayserve.replica.replies import Replies
from rayserve.replica.streaming import Waits, until_clear
from rayserve.replica.work import Work
from rayserve.wire.link import Link

__all__ = ["BatchStream", "send_lists", "send_lists_async"]


class _Lane:
    """One call of the batch, and where its items go."""

    __slots__ = ("done", "outflow", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.outflow: Outflow | None = None
        self.done = False


class BatchStream:
    """What goes out to the calls of one batch; on one thread at a time, whoever cancels may be on another."""

    def __init__(self, batch: list[Work], replies: Replies) -> None:
        """Start before the first list."""
        self._lanes = [_Lane(work) for work in batch]
        self._replies = replies

    @property
    def over(self) -> bool:
        """Whether nobody waits for more."""
        return all(lane.done or lane.work.cancelled for lane in self._lanes)

    def push(self, result: Any) -> tuple[list[Outflow], set[Link]]:
        """Send each call its item; return what is held back, and the links to be flushed.

        Raises:
            BadResultError: `result` is not an ordered iterable of one item per call.
        """
        items = split_results(result, len(self._lanes))
        held: list[Outflow] = []
        links: set[Link] = set()
        for lane, item in zip(self._lanes, items, strict=True):
            if lane.done:
                continue
            links.add(lane.work.session.link)
            if lane.work.cancelled or item is StopIteration or isinstance(item, StopIteration):
                self._close(lane)
            elif isinstance(item, Exception):
                self._cut(lane, item)
            elif item is not None:
                self._send(lane, item)
                if lane.outflow is not None and not lane.outflow.clear:
                    held.append(lane.outflow)
        return held, links

    def end(self) -> None:
        """End every answer that has not ended."""
        for lane in self._lanes:
            if not lane.done:
                self._close(lane)

    def fail(self, error: BaseException) -> None:
        """Cut every answer that has not ended."""
        for lane in self._lanes:
            if not lane.done:
                self._cut(lane, error)

    def _send(self, lane: _Lane, item: Any) -> None:
        try:
            parts = self._replies.parts(lane.work, item)
            self._outflow(lane).push(parts)
        except Exception as error:  # an item of a type that cannot be sent
            self._cut(lane, error)

    def _outflow(self, lane: _Lane) -> Outflow:
        if lane.outflow is None:
            lane.outflow = self._replies.begin(lane.work)
        return lane.outflow

    def _close(self, lane: _Lane) -> None:
        lane.done = True
        work = lane.work
        if work.cancelled:
            work.session.drop(work)
        else:
            self._outflow(lane).push([], end=True)
            work.session.dirty(work.session.link)

    def _cut(self, lane: _Lane, error: BaseException) -> None:
        lane.done = True
        if lane.work.cancelled:
            lane.work.session.drop(lane.work)
        else:
            self._replies.failed(lane.work, error)


def send_lists(stream: BatchStream, lists: Generator[Any, None, None], waits: Waits) -> None:
    """Send what `lists` yields, from the thread of user code; each list leaves at once.

    Raises:
        BaseException: what the generator raised, or was wrong with a list.
    """
    try:
        for result in lists:
            held, links = stream.push(result)
            for link in links:
                link.flush()
            for outflow in held:
                waits.until_clear(outflow)
            if stream.over:
                break
    finally:
        lists.close()
    stream.end()


async def send_lists_async(stream: BatchStream, lists: AsyncGenerator[Any, None]) -> None:
    """Send what `lists` yields from the loop; other tasks get their turn after each. See `send_lists`."""
    try:
        async for result in lists:
            held, links = stream.push(result)
            for link in links:
                link.flush()
            for outflow in held:
                await until_clear(outflow)
            if stream.over:
                break
            if not held:
                await asyncio.sleep(0)
    finally:
        await lists.aclose()
    stream.end()
