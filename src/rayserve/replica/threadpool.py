"""Sync user code in `max_concurrency` threads; the main thread only reads the sockets.

main thread: poll ─► intake ─► one of the threads: user code ─► answer, sent at once
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from rayserve.replica.inflow import Inflow
from rayserve.replica.intake import Intake
from rayserve.replica.invoke import Invoker
from rayserve.replica.outflow import Outflow
from rayserve.replica.server import Server
from rayserve.replica.work import Work
from rayserve.wire.link import Link

__all__ = ["ThreadPool"]


class ThreadPool:
    """Runs sync code on several threads."""

    def __init__(self, intake: Intake, count: int) -> None:
        """Make ready; `server` and `invoker` are set by whoever builds the replica.

        Args:
            intake: where calls come from.
            count: number of threads.
        """
        self.server: Server
        self.invoker: Invoker
        self._intake = intake
        self._count = count
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self._exclusive = False
        self._gatherer = 0  # the thread whose batch takes calls now; others leave them to it
        self._stopped = False

    def dirty(self, link: Link) -> None:
        """Send an answer at once."""
        link.flush()

    def ready(self) -> None:
        """Hear that a call is ready."""
        with self._changed:
            if self._gatherer:
                self._changed.notify_all()  # it is for that thread, if it fits
            else:
                self._changed.notify()

    def run_between(self, job: Callable[[], object]) -> None:
        """Run `job` on one of the threads, while no call runs; from any thread."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let `serve` return; from any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.server.wake()

    def serve(self) -> None:
        """Read the sockets until `stop`."""
        threads = [threading.Thread(target=self._work, name=f"user-{n}", daemon=True) for n in range(self._count)]
        for thread in threads:
            thread.start()
        while not self._stopped:
            with self.server.lock:
                self.server.poll(None)

    def enter(self, works: list[Work]) -> None:
        """Note what is about to start, just before user code is entered."""
        for work in works:
            work.session.started(work)
        if self._gatherer == threading.get_ident():
            with self._changed:
                self._gatherer = 0
                self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait for another call; a batch that fills waits here."""
        with self._changed:
            if not self._intake.queue:
                self._changed.wait(timeout_s)

    def until_clear(self, outflow: Outflow) -> None:
        """Hold this thread until a stream may go on; another one reads the sockets."""
        clear = threading.Event()
        if outflow.when_clear(clear.set):
            clear.wait()

    def until_ready(self, inflow: Inflow) -> None:
        """Hold this thread until more of a body is there; another one reads the sockets."""
        inflow.wait()

    def _work(self) -> None:
        self.invoker.enter_thread()
        while True:
            job = self._next()
            if job is None:
                return
            try:
                job()
            finally:
                with self._changed:
                    self._running -= 1
                    self._exclusive = False
                    if self._gatherer == threading.get_ident():
                        self._gatherer = 0
                    self._changed.notify_all()

    def _next(self) -> Callable[[], object] | None:
        """Wait for a job or a call; None when it is over. A job runs alone."""
        with self._changed:
            while True:
                if self._exclusive:
                    pass
                elif self._jobs:
                    if not self._running:
                        self._exclusive = True
                        self._running += 1
                        return self._jobs.popleft()
                elif self._intake.queue:
                    if not self._gatherer:
                        self._running += 1
                        if self._intake.rule.max_size > 1:
                            self._gatherer = threading.get_ident()
                        return self._call
                elif self._stopped:
                    return None
                self._changed.wait()

    def _call(self) -> None:
        work = self._intake.take()
        if work is not None:
            self.invoker.run(work)
