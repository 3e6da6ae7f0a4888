"""The batches of a backend with an event loop: which form, which run.

take(work) ─► joins a batch that forms, or begins one ─► released ─► user code, on the loop or on a thread beside it
          └─► False: as many run as may
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any

from rayserve.context import enter
from rayserve.replica.batch_stream import BatchStream, send_lists_async
from rayserve.replica.forming import Forming
from rayserve.replica.gather import alike
from rayserve.replica.handler import Target
from rayserve.replica.intake import Intake
from rayserve.replica.invoke import Invoker
from rayserve.replica.work import Work

__all__ = ["LoopBatches"]


class LoopBatches:
    """All of it on the loop's thread, but for sync user code."""

    def __init__(
        self,
        intake: Intake,
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
        count: int,
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """Begin without any.

        Args:
            intake: for the rule.
            loop: the replica's.
            threads: run sync user code.
            count: how many they are; each runs one batch.
            start: runs a batch as a task.
        """
        self._intake = intake
        self._loop = loop
        self._threads = threads
        self._thread_count = count
        self._start = start
        self._running = {True: 0, False: 0}  # batches that form or run, of async and of sync code
        self._forming: list[Forming] = []

    def take(self, work: Work, target: Target, invoker: Invoker) -> bool:
        """Put a prepared call into a batch; False if it has to wait until one of those that run has ended."""
        self._forming = [forming for forming in self._forming if forming.open]
        for forming in self._forming:
            if alike(forming.key, work.key):
                forming.add(work)
                return True
        is_async = target.traits.is_async
        if self._running[is_async] >= (self._intake.rule.concurrent if is_async else self._thread_count):
            return False
        self._running[is_async] += 1
        forming = Forming(self._loop, self._intake.rule, work.key)
        self._forming.append(forming)
        forming.add(work)
        self._start(self._batch(forming, target, invoker))
        return True

    async def _batch(self, forming: Forming, target: Target, invoker: Invoker) -> None:
        try:
            batch = invoker.batches.released(forming.works, await forming.why)
            if batch and target.traits.is_async:
                await self._run(batch, target, invoker)
            elif batch:
                await asyncio.wrap_future(self._threads.submit(self._run_beside, batch, target, invoker))
        finally:
            self._running[target.traits.is_async] -= 1

    def _run_beside(self, batch: list[Work], target: Target, invoker: Invoker) -> None:
        now = time.monotonic()
        invoker.run_batch([work for work in batch if work.may_run(now)], target)

    async def _run(self, batch: list[Work], target: Target, invoker: Invoker) -> None:
        """Run async user code for a batch; it is cancelled when nobody waits for any answer more."""
        state = invoker.batch_state(batch)
        enter(state)
        task = asyncio.current_task()
        assert task is not None
        stream = BatchStream(batch, invoker.replies)

        def given_up() -> None:
            if stream.over:
                task.cancel()
                state.cancel_nested()

        for work in batch:
            work.on_cancel = given_up
            work.session.started(work)
        try:
            result = target.func(*invoker.batch_arguments(batch, target))
            if target.traits.streams:
                await send_lists_async(stream, result)
            else:
                invoker.reply_batch(batch, await result)
        except BaseException as error:
            stream.fail(error)
