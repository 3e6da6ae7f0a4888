"""Sync user code on the main thread, which also reads the sockets: a call runs where it was read.

    main thread:  take a call ─► STARTED ─► user code ─► answer ─► … nothing to do: flush answers, lead the sockets
    I/O thread:   leads the sockets whenever user code has kept the main thread busy for 5 ms

Handing every request from a reading thread to a running one costs two switches of the interpreter lock;
here there is none while handlers are quick. Answers of quick calls that wait together leave together.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from rayserve.replica.inflow import Inflow
from rayserve.replica.intake import Intake
from rayserve.replica.invoke import Invoker
from rayserve.replica.outflow import Outflow
from rayserve.replica.server import Server
from rayserve.replica.vigil import Vigil
from rayserve.replica.work import Work
from rayserve.wire.link import Link

__all__ = ["MainThread"]

_IMPATIENCE_S: Final = 0.005
_HOLD_S: Final = 0.0002  # an answer may wait for the next calls if they begin within so long
_QUIET_S: Final = 0.1  # without calls for so long, the watch stops


class MainThread:
    """Runs sync code on the thread that calls `serve`."""

    def __init__(self, intake: Intake, loop: asyncio.AbstractEventLoop) -> None:
        """Make ready; `server` and `invoker` are set by whoever builds the replica.

        Args:
            intake: where calls come from.
            loop: of the process's I/O thread, which leads while the main thread cannot.
        """
        self.server: Server
        self.invoker: Invoker
        self.busy_since = 0.0
        self._intake = intake
        self._loop = loop
        self._dirty: list[Link] = []
        self._jobs: deque[Callable[[], object]] = deque()
        self._last = 0.0
        self._dirty_since = 0.0  # when the call began whose answer is the first that waits
        self._vigil = Vigil()
        self._watching = False
        self._leading = False
        self._stopped = False
        self._main = threading.get_ident()

    # -- what sessions and the intake call ------------------------------------------------------------

    def dirty(self, link: Link) -> None:
        """Note an answer that waits on `link`."""
        if threading.get_ident() == self._main:
            if not self._dirty:
                self._dirty_since = self.busy_since
            self._dirty.append(link)
        else:
            link.flush()

    def ready(self) -> None:
        """Hear that a call is ready: the thread that read it is this one, or will be."""

    def run_between(self, job: Callable[[], object]) -> None:
        """Run `job` on the thread of user code, while no call runs; from any thread."""
        self._jobs.append(job)
        self.server.wake()

    def stop(self) -> None:
        """Let `serve` return; from any thread."""
        self._stopped = True
        self.server.wake()

    # -- the main thread ------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until `stop`."""
        self._main = threading.get_ident()
        intake, server = self._intake, self.server
        while True:
            if self._jobs:
                self._flush()
                self._begin()
                self._jobs.popleft()()
                self.busy_since = 0.0
                continue
            work = intake.take()
            if work is not None:
                self._begin()
                self.invoker.run(work)
                self.busy_since = 0.0
                continue
            if self._dirty:
                self._flush()
            if self._stopped:
                break
            with server.lock:
                # Another thread may have read a call, or left a job, since we looked.
                if not intake.queue and not self._jobs and not self._stopped:
                    self._await()
        self._main = 0  # from here on every answer is flushed by whoever makes it
        self._loop.call_soon_threadsafe(self._stop_leading)

    def _await(self) -> None:
        """Lead until something came: awake where that is likely to be soon, see `vigil`."""
        intake, vigil = self._intake, self._vigil
        vigil.begin(time.monotonic())
        while vigil.lasts(time.monotonic()):
            self.server.poll(0.0)
            if intake.queue or self._jobs or self._stopped:
                break
            os.sched_yield()
        else:
            self.server.poll(None)
        vigil.end(time.monotonic(), len(intake.queue))

    def _begin(self) -> None:
        """Note that user code has this thread now; the I/O thread watches for how long."""
        self.busy_since = self._last = time.monotonic()
        if not self._watching:
            self._watching = True
            self._loop.call_soon_threadsafe(self._watch)

    def enter(self, works: list[Work]) -> None:
        """Note what is about to start, just before user code is entered; send what has waited for long enough."""
        for work in works:
            work.session.started(work)
        if self._dirty and self.busy_since - self._dirty_since > _HOLD_S:
            self._flush()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for link in dirty:
            if link.unsent:
                link.flush()

    def wait(self, timeout_s: float) -> None:
        """Read the sockets for a while; a batch that fills waits here."""
        self._flush()
        busy_since, self.busy_since = self.busy_since, 0.0
        with self.server.lock:
            if not self._intake.queue:
                self.server.poll(timeout_s)
        self.busy_since = busy_since

    def until_clear(self, outflow: Outflow) -> None:
        """Read the sockets until a stream may go on: its credit comes on one of them."""
        self._poll_until(lambda: outflow.clear)

    def until_ready(self, inflow: Inflow) -> None:
        """Read the sockets until more of a body is there; any other thread of user code just waits."""
        if threading.get_ident() == self._main:
            self._poll_until(lambda: inflow.ready)
        else:
            inflow.wait()

    def _poll_until(self, done: Callable[[], bool]) -> None:
        self._flush()
        busy_since, self.busy_since = self.busy_since, 0.0
        self.server.poll_until(done)
        self.busy_since = busy_since

    # -- the I/O thread -------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look, every 5 ms while there are calls, whether user code keeps the main thread from reading and sending."""
        now, since = time.monotonic(), self.busy_since
        if since and now - since > _IMPATIENCE_S:
            for link in tuple(self._dirty):  # the calls before were quick, this one is not
                link.flush()
            if not self._leading:
                self._leading = True
                self._loop.add_reader(self.server.fileno(), self._lead)
        elif not since and now - self._last > _QUIET_S:
            self._watching = False
            if not self.busy_since:  # else a call began just now, and saw that we watched
                return
            self._watching = True
        self._loop.call_later(_IMPATIENCE_S, self._watch)

    def _lead(self) -> None:
        if self.server.lock.acquire(blocking=False):
            try:
                self.server.poll(0)
            finally:
                self.server.lock.release()
        else:  # the main thread reads again
            self._stop_leading()

    def _stop_leading(self) -> None:
        if self._leading:
            self._leading = False
            self._loop.remove_reader(self.server.fileno())
