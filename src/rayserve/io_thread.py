"""The I/O thread of a driver or a replica: one event loop with this process's router and its feed.

    doorkeeper ── tables ──► Subscriber ─► Router ◄── submit(call) from any thread
                                             └─► links ─► replicas

One per process and instance; it starts with the first need and ends just before the process.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from rayserve.feed.messages import Welcome
from rayserve.feed.subscriber import Subscriber
from rayserve.model.facts import BatchFacts, Facts, Report
from rayserve.model.table import RoutingTable
from rayserve.router.call import DONE, Call
from rayserve.router.router import Router
from rayserve.wire.heads import Failure

__all__ = ["IOThread"]

_log = logging.getLogger(__name__)
_PATIENCE_S: Final = 0.1


class IOThread:
    """A daemon thread with a loop, a router and a subscription to the tables of this node.

    Attributes:
        loop: its event loop.
        router: to be touched on that loop only.
    """

    def __init__(
        self,
        *,
        instance: str,
        node: str,
        run_dir: str,
        kind: str = "handle",
        replica: str = "",
        on_table: Callable[[RoutingTable], None] | None = None,
        batches: Callable[[], list[BatchFacts]] | None = None,
    ) -> None:
        """Make the thread; `start` runs it.

        Args:
            instance: the instance's name.
            node: Ray's id of this node.
            run_dir: the instance's run directory on this node.
            kind: "handle" or "replica".
            replica: this replica's id, "" in a driver.
            on_table: called on the loop with each table, after the router has it.
            batches: counts of this process's batches, for the facts.
        """
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.router = Router(self.loop, node=node, instance=instance, role="handle")
        self.process = f"{replica or kind}:{os.getpid()}"
        self._kind = kind
        self._on_table = on_table
        self._batches = batches
        self._inbox: deque[Call] = deque()
        self._woken = False
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="rayserve-io", daemon=True)
        self._subscriber = Subscriber(
            str(Path(run_dir) / "feed.sock"),
            process=self.process,
            kind=kind,
            replica=replica,
            on_welcome=self._welcome,
            on_table=self._table,
            facts=self._facts,
        )

    def start(self) -> None:
        """Start the thread; returns at once."""
        # Before the thread runs: else a `close` could overtake it, and nobody would end what began afterwards.
        self.loop.call_soon(self._subscriber.start)
        self._thread.start()
        # A loop of uvloop's that wakes up when Python has ended, and C libraries still tidy up, crashes the process.
        atexit.register(self.close)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _welcome(self, welcome: Welcome) -> None:
        self.router.connector.secret = welcome.secret

    def _table(self, table: RoutingTable) -> None:
        self.router.apply(table)
        if self._on_table is not None:
            self._on_table(table)

    def _facts(self) -> Facts:
        batches = self._batches() if self._batches is not None else []
        return Facts(self.process, self._kind, self.router.rows(), batches)

    def submit(self, call: Call) -> None:
        """Give `call` to the router; from any thread, without waiting. After `close` it fails with `draining`."""
        self._inbox.append(call)
        if self._closed:
            self._refuse()
        elif not self._woken:
            self._woken = True
            if not self.soon(self._drain):
                self._refuse()

    def _drain(self) -> None:
        self._woken = False
        inbox, router = self._inbox, self.router
        while inbox:
            call = inbox.popleft()
            if call.state == DONE:  # given up before it came here
                continue
            try:
                call.settle(router.endpoint(call.endpoint), router.clock())
                router.submit(call)
            except Exception:
                _log.exception("a call to endpoint %r could not be submitted", call.endpoint)
                router.broken(call, "it could not be submitted; the log of this process says why")

    def _refuse(self) -> None:
        """End the calls that come too late."""
        while self._inbox:
            try:
                call = self._inbox.popleft()
            except IndexError:  # another thread refuses too
                return
            call.state = DONE
            call.failed(Failure("draining", "this process stopped serving"), b"")

    def abandon(self, call: Call) -> None:
        """Give `call` up; from any thread."""
        self.soon(self.router.abandon, call)

    def grant(self, call: Call, size: int) -> None:
        """Say that the caller took `size` bytes of a streamed answer; from any thread."""
        self.soon(self.router.grant, call, size)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` on the loop; from any thread. It is cancelled when the thread ends."""
        if not self.soon(self._spawn, coroutine):
            coroutine.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def report(self, report: Report) -> None:
        """Send a report up; from any thread."""
        self.soon(self._subscriber.report, report)

    def soon(self, function: Callable[..., object], *args: object) -> bool:
        """Have `function` called on the loop; False if the thread has ended."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def call(self, function: Callable[[], None], timeout_s: float = 5.0) -> None:
        """Call `function` on the loop and wait for it; from any other thread, for those who tidy up."""
        done = threading.Event()

        def run() -> None:
            try:
                function()
            finally:
                done.set()

        if self.soon(run):
            done.wait(timeout_s)

    def close(self) -> None:
        """Close every link and end the thread; calls under way fail with `draining`."""
        atexit.unregister(self.close)
        if not self._thread.is_alive():
            return
        self.soon(self._end)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self.loop.close()
        self._refuse()

    def _end(self) -> None:
        self._closed = True
        self._subscriber.close()
        self._drain()
        self.router.close()
        self._refuse()
        self._last = self.loop.create_task(self._leave())

    async def _leave(self) -> None:
        """Let what waits for results of other calls hear of their end, and cut off what waits for anything else."""
        for patience_s in (_PATIENCE_S, None):
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=patience_s)
            for task in self._tasks:
                task.cancel()
        self.loop.stop()
