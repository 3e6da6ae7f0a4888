"""A replica, put together: user code, the thread or loop that runs it, the sockets, the feed.

load:  code + init arguments ─► Handler ─► traits        run:  listen, serve until drained
table: my row's limits and batch rule; user_config ─► reconfigure between calls ─► report; my id draining ─► leave
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvloop

from rayserve.io_thread import IOThread
from rayserve.model.facts import BatchFacts, Report
from rayserve.model.spec import ReplicaSpec
from rayserve.model.table import Backend, RoutingTable
from rayserve.replica.asgi import AppRunner
from rayserve.replica.handler import Handler
from rayserve.replica.intake import Intake
from rayserve.replica.invoke import Invoker
from rayserve.replica.mainthread import MainThread
from rayserve.replica.replies import user_traceback
from rayserve.replica.server import Server
from rayserve.replica.tasks import Tasks
from rayserve.replica.threadpool import ThreadPool
from rayserve.wire.handshake import ServerHandshake
from rayserve.wire.sockets import listen_tcp, listen_unix

__all__ = ["Replica"]

_log = logging.getLogger(__name__)
_LOOK_S: Final = 0.05


class Replica:
    """One replica in this process."""

    def __init__(
        self,
        spec: ReplicaSpec,
        handler: Handler,
        io: IOThread,
        by_value: Callable[..., bytes],
        user_config: Callable[[str], Any],
    ) -> None:
        """Put the parts together and listen; nothing is served before `run`.

        Args:
            spec: what this replica is.
            handler: its user code, constructed.
            io: the process's I/O thread.
            by_value: pickler for what plain pickle cannot carry.
            user_config: loads the value of a `user_config` blob by its hash.
        """
        self.handler = handler
        self._spec = spec
        self._io = io
        self._load_config = user_config
        self._config_revision = spec.backend.user_config[0]
        self._ran = False
        row = spec.backend
        self._intake = Intake(_limit(row, handler), row.batch)
        self._intake.streams = row.stream_request or handler.app is not None
        self._executor = self._make_executor(row.max_concurrency)
        self._intake.wake = self._executor.ready
        self._intake.hold = self._executor.until_ready
        self._intake.drained = self._leave
        self._intake.later = self._later
        self._server = Server(self._intake, self._handshake, self._executor.dirty, spec.run_dir, io.loop)
        self._executor.server = self._server
        self._executor.invoker = Invoker(handler, self._intake, self._executor, row.tag, spec.replica, by_value)
        short = hashlib.blake2b(spec.replica.encode(), digest_size=6).hexdigest()  # AF_UNIX paths hold 107 bytes
        self.unix = str(Path(spec.run_dir) / f"r-{short}.sock")
        self._server.listen(listen_unix(self.unix))
        self.port = 0
        if spec.listen:
            listener = listen_tcp(spec.listen)
            self.port = listener.getsockname()[1]
            self._server.listen(listener)

    def _make_executor(self, max_concurrency: int) -> MainThread | ThreadPool | Tasks:
        app = self.handler.app
        if app is not None and app.kind == "asgi":
            loop = uvloop.new_event_loop()
            runner = AppRunner(self.handler.callable, app.lifespan)
            loop.run_until_complete(runner.lifespan.startup())
            return Tasks(self._intake, loop, self._io.loop, runner)
        if app is not None:
            return ThreadPool(self._intake, app.threads)
        if self.handler.traits.is_async:
            return Tasks(self._intake, uvloop.new_event_loop(), self._io.loop, threads=max_concurrency)
        if max_concurrency > 1:
            return ThreadPool(self._intake, max_concurrency)
        return MainThread(self._intake, self._io.loop)

    def _handshake(self, unix: bool) -> ServerHandshake:
        spec = self._spec
        return ServerHandshake(spec.instance, spec.replica, None if unix else spec.secret)

    def run(self) -> str:
        """Serve until drained; return why it ended. Later calls return at once."""
        if not self._ran:
            self._ran = True
            self._executor.invoker.enter_thread()
            self._executor.serve()
            self._send_rest()
            # Until the process is ended, the I/O thread refuses the calls of routers that have not heard of it.
            self._io.loop.call_soon_threadsafe(self._io.loop.add_reader, self._server.fileno(), self._lead)
        return "drained"

    def _send_rest(self) -> None:
        """Wait until the sockets have taken the last answers, or the controller loses patience and ends us."""
        until = time.monotonic() + self._spec.backend.drain_timeout_s
        while self._server.unsent and time.monotonic() < until:
            with self._server.lock:
                self._server.poll(_LOOK_S)

    def _lead(self) -> None:
        with self._server.lock:
            self._server.poll(0)

    def close(self) -> None:
        """Close the sockets of a replica whose `run` has returned."""

        def end() -> None:
            self._io.loop.remove_reader(self._server.fileno())
            self._server.close()

        self._io.call(end)

    def batches(self) -> list[BatchFacts]:
        """Return the counts of batches so far."""
        if not self._intake.sizes:
            return []
        sizes, released = dict(self._intake.sizes), dict(self._intake.released)
        return [BatchFacts(self._spec.backend.tag, self._spec.replica, sizes, released)]

    # -- the table, on the I/O thread -----------------------------------------------------------------

    def table(self, table: RoutingTable) -> None:
        """Obey a new table."""
        me = self._spec.replica
        if me in table.draining:
            self._drain()
            return
        for row in table.backends:
            if any(replica.id == me for replica in row.replicas):
                self._intake.resize(row.max_concurrent_queries, row.batch)
                self._intake.streams = row.stream_request or self.handler.app is not None
                self.configure(row.user_config)

    def configure(self, user_config: tuple[int, str]) -> None:
        """Call the user's `reconfigure` if `user_config` is newer than what it has, and report how it went."""
        revision, blob = user_config
        if revision <= self._config_revision:
            return
        self._config_revision = revision
        self._executor.run_between(lambda: self._reconfigure(revision, blob))

    def _reconfigure(self, revision: int, blob: str) -> Any:
        try:
            hook = self.handler.hook("reconfigure")
            result = hook(self._load_config(blob)) if hook is not None else None
        except BaseException as error:
            self._io.report(Report(self._spec.replica, revision, user_traceback(error)))
            return None
        if hasattr(result, "__await__"):
            return self._await_reconfigured(revision, result)
        self._io.report(Report(self._spec.replica, revision))
        return None

    async def _await_reconfigured(self, revision: int, result: Any) -> None:
        try:
            await result
        except BaseException as error:
            self._io.report(Report(self._spec.replica, revision, user_traceback(error)))
        else:
            self._io.report(Report(self._spec.replica, revision))

    def _drain(self) -> None:
        if self._intake.draining:
            return
        _log.info("draining %d calls", self._intake.admitted)
        for session in self._server.sessions:
            session.go_away()
        self._intake.drain()
        if isinstance(self._executor, Tasks):
            self._executor.drain()

    def _later(self, delay_s: float, function: Callable[[], None]) -> None:
        self._io.soon(self._io.loop.call_later, delay_s, function)

    def _leave(self) -> None:
        # In the loop's next turn: the last frame of the last call may not be queued yet.
        self._io.soon(self._executor.stop)


def _limit(row: Backend, handler: Handler) -> int:
    """Return the limit until the first table brings the one derived from what was loaded."""
    return max(row.max_concurrent_queries, row.batch.max_size, 256 if handler.traits.is_async else 1)
