"""The I/O thread of a driver or a replica: one event loop with this process's router and its feed.

    doorkeeper ── tables ──► Subscriber ─► Router ◄── submit(call) from any thread
                                             └─► links ─► replicas

One per process and instance; it starts with the first need and dies with the process.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import uvloop

from rayserve.feed.messages import Welcome
from rayserve.feed.subscriber import Subscriber
from rayserve.model.facts import BatchFacts, Facts, Report
from rayserve.model.table import RoutingTable
from rayserve.router.call import Call
from rayserve.router.router import Router

__all__ = ["IOThread"]


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
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._subscriber.start)
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
        """Give `call` to the router; from any thread, without waiting."""
        self._inbox.append(call)
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._woken = False
        inbox, router = self._inbox, self.router
        while inbox:
            call = inbox.popleft()
            call.settle(router.endpoint(call.endpoint), router.clock())
            router.submit(call)

    def abandon(self, call: Call) -> None:
        """Give `call` up; from any thread."""
        self.loop.call_soon_threadsafe(self.router.abandon, call)

    def report(self, report: Report) -> None:
        """Send a report up; from any thread."""
        self.loop.call_soon_threadsafe(self._subscriber.report, report)

    def close(self) -> None:
        """Close every link and end the thread."""

        def end() -> None:
            self._subscriber.close()
            self.router.close()
            self.loop.stop()

        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(end)
            self._thread.join(5.0)
            if not self._thread.is_alive():
                self.loop.close()
