"""Async user code: the main thread runs an event loop that reads the sockets and holds a task per call.

    loop ─► server.poll ─► intake ─► task: await user code ─► answer ─► flushed once a turn

Sync methods of such a backend run on one thread beside the loop: no user code ever blocks it unasked.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rayserve.context import batch_state, enter
from rayserve.replica.handler import Target
from rayserve.replica.intake import Intake
from rayserve.replica.invoke import Invoker
from rayserve.replica.server import Server
from rayserve.replica.work import Work
from rayserve.wire.link import Link

__all__ = ["Tasks"]


class Tasks:
    """Runs `async def` code on the loop of the thread that calls `serve`."""

    def __init__(self, intake: Intake, loop: asyncio.AbstractEventLoop) -> None:
        """Make ready; `server` and `invoker` are set by whoever builds the replica.

        Args:
            intake: where calls come from.
            loop: not running yet; `serve` runs it.
        """
        self.server: Server
        self.invoker: Invoker
        self._intake = intake
        self._loop = loop
        self._dirty: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs: deque[Callable[[], Any]] = deque()
        self._pumping = False
        self._thread = ThreadPoolExecutor(1, "user", initializer=lambda: self.invoker.enter_thread())
        self._batches = 0
        self._forming: list[_Forming] = []

    def dirty(self, link: Link) -> None:
        """Send what waits on `link` at the end of this turn; called on the loop."""
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.add(link)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for link in dirty:
            link.flush()

    def ready(self) -> None:
        """Hear that a call is ready; called on the loop, which reads."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def run_between(self, job: Callable[[], Any]) -> None:
        """Run `job` once no call runs; no call starts before it is done. From any thread."""
        self._loop.call_soon_threadsafe(self._add_job, job)

    def _add_job(self, job: Callable[[], Any]) -> None:
        self._jobs.append(job)
        self.ready()

    def stop(self) -> None:
        """Let `serve` return; from any thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def serve(self) -> None:
        """Run the loop until `stop`."""
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self.server.fileno(), self._poll)
        self._loop.run_forever()
        self._flush()
        self._thread.shutdown(wait=False)
        self._loop.remove_reader(self.server.fileno())
        self._loop.close()

    def _poll(self) -> None:
        with self.server.lock:
            self.server.poll(0)

    def enter(self, works: list[Work]) -> None:
        """Note what is about to start, just before user code is entered."""
        for work in works:
            work.session.started(work)

    def wait(self, timeout_s: float) -> None:
        """Unused here: batches wait in their own tasks."""

    async def in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run sync user code on the thread beside the loop, in the caller's context."""
        context = contextvars.copy_context()
        return await self._loop.run_in_executor(self._thread, lambda: context.run(function, *args, **kwargs))

    def _pump(self) -> None:
        """Start a task for each call that may start now."""
        self._pumping = False
        if self._jobs:
            if not self._tasks:
                self._start(self._run_job(self._jobs[0]))
            return
        intake, invoker = self._intake, self.invoker
        held: list[Work] = []  # calls for batches while as many batches run as may
        while (work := intake.take()) is not None:
            target = invoker.target(work)
            if target is None:
                continue
            if target.batch is None:
                self._start(self._call(work, target))
            elif not self._joined(work, target):
                if self._batches < intake.rule.concurrent:
                    self._begin_batch(work, target)
                else:
                    held.append(work)
        intake.queue.extendleft(reversed(held))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._intake.queue or self._jobs:
            self.ready()

    async def _run_job(self, job: Callable[[], Any]) -> None:
        result = job()
        if asyncio.iscoroutine(result):
            await result
        self._jobs.popleft()

    # -- one call -------------------------------------------------------------------------------------

    async def _call(self, work: Work, target: Target) -> None:
        invoker = self.invoker
        enter(invoker.state(work))
        task = asyncio.current_task()
        assert task is not None
        work.on_cancel = lambda: _cancel(task)
        self.enter([work])
        try:
            args, kwargs = invoker.arguments(work, target)
            if target.traits.is_async:
                result = await target.func(*args, **kwargs)
            else:
                result = await self.in_thread(target.func, *args, **kwargs)
            invoker.reply(work, result)
        except asyncio.CancelledError as error:
            if not work.cancelled:  # user code cancelled itself
                invoker.failed(work, error)
            else:
                work.session.drop(work)
        except BaseException as error:
            invoker.failed(work, error)

    # -- batches --------------------------------------------------------------------------------------

    def _begin_batch(self, first: Work, target: Target) -> None:
        """Open a batch; with no wait configured it closes in this very turn, over what is there."""
        invoker, rule = self.invoker, self._intake.rule
        key = invoker.key(first, target)
        if first.ended:
            return
        self._batches += 1
        forming = _Forming(key, [first], self._loop.create_future())
        if rule.max_size > 1:
            self._forming.append(forming)
        self._start(self._batch(forming, target))

    def _joined(self, work: Work, target: Target) -> bool:
        """Add `work` to a batch that is still open, if one fits."""
        if not self._forming:
            return False
        key = self.invoker.key(work, target)
        if work.ended:
            return True
        for forming in self._forming:
            if forming.key == key:
                forming.works.append(work)
                if len(forming.works) >= self._intake.rule.max_size:
                    self._forming.remove(forming)
                    if not forming.full.done():
                        forming.full.set_result(None)
                return True
        return False

    async def _batch(self, forming: _Forming, target: Target) -> None:
        try:
            why = await self._fill(forming)
            batch = [work for work in forming.works if not work.cancelled]
            for work in forming.works:
                if work.cancelled:
                    work.session.drop(work)
            if batch:
                self._intake.count(len(batch), why)
                await self._run_batch(batch, target)
        finally:
            self._batches -= 1

    async def _fill(self, forming: _Forming) -> str:
        """Wait as long as the rule says; return why the batch closed."""
        rule = self._intake.rule
        why = "full"
        if forming in self._forming and rule.wait_s:
            left_s = min(work.deadline for work in forming.works) - time.monotonic()
            try:
                async with asyncio.timeout(min(rule.wait_s, left_s)):
                    await forming.full
            except TimeoutError:
                why = "timeout" if rule.wait_s <= left_s else "deadline"
        if forming in self._forming:
            self._forming.remove(forming)
            why = why if why != "full" else "idle"
        return why

    async def _run_batch(self, batch: list[Work], target: Target) -> None:
        invoker = self.invoker
        enter(batch_state([invoker.state(work) for work in batch]))
        task = asyncio.current_task()
        assert task is not None

        def given_up() -> None:
            if all(work.cancelled for work in batch):
                task.cancel()

        for work in batch:
            work.on_cancel = given_up
        self.enter(batch)
        try:
            args = invoker.batch_arguments(batch, target)
            if target.traits.is_async:
                result = await target.func(*args)
            else:
                result = await self.in_thread(target.func, *args)
            invoker.reply_batch(batch, result)
        except BaseException as error:
            for work in batch:
                if work.cancelled:
                    work.session.drop(work)
                else:
                    invoker.failed(work, error)


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


class _Forming:
    """A batch that still takes calls."""

    __slots__ = ("full", "key", "works")

    def __init__(self, key: object, works: list[Work], full: asyncio.Future[None]) -> None:
        self.key = key
        self.works = works
        self.full = full
