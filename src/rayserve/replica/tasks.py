"""Async user code: the main thread runs an event loop that reads the sockets and holds a task per call.

    loop ─► server.poll ─► intake ─► task: await user code ─► answer ─► flushed once a turn
                                  └► sync methods of such a backend: `max_concurrency` threads beside the loop

No user code ever blocks the loop unasked; code that does so all the same is named in the log.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from rayserve.context import enter
from rayserve.replica.asgi import AppRunner
from rayserve.replica.handler import Target
from rayserve.replica.inflow import Inflow
from rayserve.replica.intake import Intake
from rayserve.replica.invoke import Invoker
from rayserve.replica.loop_batches import LoopBatches
from rayserve.replica.outflow import Outflow
from rayserve.replica.server import Server
from rayserve.replica.vigil import Vigil
from rayserve.replica.watch import LoopWatch
from rayserve.replica.work import Work
from rayserve.wire.link import Link

__all__ = ["Tasks"]

_SHUTDOWN_S: Final = 10.0
_END_S: Final = 1.0  # what user code's own tasks get to hear of the end


class Tasks:
    """Runs `async def` code on the loop of the thread that calls `serve`."""

    def __init__(
        self,
        intake: Intake,
        loop: asyncio.AbstractEventLoop,
        io_loop: asyncio.AbstractEventLoop,
        app: AppRunner | None = None,
        threads: int = 1,
    ) -> None:
        """Make ready; `server` and `invoker` are set by whoever builds the replica.

        Args:
            intake: where calls come from.
            loop: not running yet; `serve` runs it.
            io_loop: of the process's I/O thread, which watches over `loop`.
            app: the ASGI app, if that is what this backend is.
            threads: number of threads for sync methods.
        """
        self.server: Server
        self.invoker: Invoker
        self._intake = intake
        self._loop = loop
        self._app = app
        self._main = threading.get_ident()
        self._context = contextvars.copy_context()
        self._dirty: set[Link] = set()
        self._vigil = Vigil()
        self._running: set[object] = set()  # calls, batches' tasks, jobs of the threads and of `run_between`
        self._jobs: deque[Callable[[], Any]] = deque()
        self._pumping = False
        self._stopping = False
        self._threads = ThreadPoolExecutor(threads, "user", initializer=lambda: self.invoker.enter_thread())
        self._batches = LoopBatches(intake, loop, self._threads, threads, self._start)
        self._watch = LoopWatch(loop, io_loop, lambda: bool(self._running))

    # -- what sessions, the intake and the replica call -----------------------------------------------

    def dirty(self, link: Link) -> None:
        """Send what waits on `link`: on the loop at the end of this turn, elsewhere at once."""
        if threading.get_ident() != self._main:
            link.flush()
            return
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.add(link)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for link in dirty:
            link.flush()
        if not self._running:
            self._vigil.begin(time.monotonic())
            self._stay_awake()

    def _stay_awake(self) -> None:
        """Look for the next call in each turn of the loop, where it is likely to come soon; see `vigil`."""
        if not self._intake.queue and not self._running and self._vigil.lasts(time.monotonic()):
            os.sched_yield()
            self._poll()
            self._loop.call_soon(self._stay_awake)

    def ready(self) -> None:
        """Hear that a call is ready; called on the loop, which reads."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump, context=self._context)  # not that of the call which ended just now

    def run_between(self, job: Callable[[], Any]) -> None:
        """Run `job` beside the loop once no call runs; no call starts before it is done. From any thread."""
        self._soon(self._add_job, job)

    def _add_job(self, job: Callable[[], Any]) -> None:
        self._jobs.append(job)
        self.ready()

    def drain(self) -> None:
        """Hear that the replica takes no new calls; from any thread."""
        if self._app is not None:
            self._soon(self._app.drain)

    def stop(self) -> None:
        """Let `serve` return, once an app's background tasks are done too; from any thread."""
        self._soon(self._stop)

    def _stop(self) -> None:
        self._stopping = True
        if self._app is None or not self._running:
            self._loop.stop()

    def _soon(self, function: Callable[..., object], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    # -- the main thread ------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run the loop until `stop`."""
        self._main = threading.get_ident()
        self._context = contextvars.copy_context()
        loop = self._loop
        asyncio.set_event_loop(loop)
        loop.add_reader(self.server.fileno(), self._poll)
        loop.run_forever()
        loop.remove_reader(self.server.fileno())
        self._flush()
        if self._app is not None:
            loop.run_until_complete(self._app.lifespan.shutdown(_SHUTDOWN_S))
        self._threads.shutdown(wait=False)
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=_END_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        self._main = 0  # from here on every answer is flushed by whoever makes it
        asyncio.set_event_loop(None)
        loop.close()

    def _poll(self) -> None:
        with self.server.lock:
            self.server.poll(0)
        if self._intake.queue:
            self._vigil.end(time.monotonic(), len(self._intake.queue))

    def enter(self, works: list[Work]) -> None:
        """Note what is about to start, just before user code is entered."""
        for work in works:
            work.session.started(work)

    def wait(self, timeout_s: float) -> None:
        """Unused here: batches form on the loop."""

    def until_clear(self, outflow: Outflow) -> None:
        """Hold this thread until a stream may go on; another one reads the sockets."""
        clear = threading.Event()
        if outflow.when_clear(clear.set):
            clear.wait()

    def until_ready(self, inflow: Inflow) -> None:
        """Hold this thread until more of a body is there; async code that reads as sync code does holds the loop."""
        if threading.get_ident() == self._main:
            self._flush()
            self.server.poll_until(lambda: inflow.ready)
        else:
            inflow.wait()

    def _pump(self) -> None:
        """Start what may start now."""
        self._pumping = False
        if self._jobs:
            if not self._running:
                self._start(self._run_job(self._jobs[0]))
            return
        intake, invoker = self._intake, self.invoker
        held: list[Work] = []  # calls for batches while as many batches run as may
        while (work := intake.take()) is not None:
            if self._app is not None:
                self._start(self._app.serve(work, invoker))
                continue
            target = invoker.target(work)
            if target is None:
                continue
            if target.batch is None:
                self._begin(work, target)
            elif invoker.batches.prepared(work, target) and not self._batches.take(work, target, invoker):
                held.append(work)
        intake.queue.extendleft(reversed(held))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        self._watch.begin()
        return task

    def _ended(self, done: object) -> None:
        self._running.discard(done)
        if self._stopping and not self._running:
            self._loop.stop()
        if self._intake.queue or self._jobs:
            self.ready()

    async def _run_job(self, job: Callable[[], Any]) -> None:
        try:
            result = await self._loop.run_in_executor(self._threads, job)
            if inspect.isawaitable(result):
                await result
        finally:
            self._jobs.popleft()

    def _beside(self, function: Callable[..., object], *args: object) -> Future[object]:
        """Run sync user code on a thread beside the loop; `function` answers the calls by itself."""
        future = self._threads.submit(function, *args)
        self._running.add(future)
        future.add_done_callback(lambda done: self._soon(self._ended, done))
        return future

    # -- one call -------------------------------------------------------------------------------------

    def _begin(self, work: Work, target: Target) -> None:
        if target.traits.is_async:
            self._running.add(work)
            task = self._loop.create_task(self._call(work, target))
            if not self._watch.watching:
                self._watch.begin()

            def cancel() -> None:
                task.cancel()
                if work.state is None:  # it has not begun, and never will
                    work.session.drop(work)
                    self._ended(work)

            work.on_cancel = cancel
        else:
            future = self._beside(self._run_beside, work)

            def withdraw() -> None:
                if future.cancel():  # else it runs, and sees `context.cancelled`
                    work.session.drop(work)

            work.on_cancel = withdraw

    def _run_beside(self, work: Work) -> None:
        if work.may_run(time.monotonic()):
            self.invoker.run(work)

    async def _call(self, work: Work, target: Target) -> None:
        invoker = self.invoker
        enter(invoker.state(work))
        work.session.started(work)
        try:
            args, kwargs = invoker.arguments(work, target)
            result = target.func(*args, **kwargs)
            if not inspect.isasyncgen(result):
                result = await result
            left = await invoker.replies.reply_async(work, result)
            if left is not None:  # a sync generator would block the loop
                context = contextvars.copy_context()
                await asyncio.wrap_future(self._threads.submit(context.run, invoker.replies.reply, work, left))
        except BaseException as error:
            self._failed(work, error)
        self._ended(work)

    def _failed(self, work: Work, error: BaseException) -> None:
        if work.cancelled:
            work.session.drop(work)
        else:  # also if user code cancelled itself
            self.invoker.replies.failed(work, error)
