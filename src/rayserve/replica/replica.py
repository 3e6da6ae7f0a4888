"""A replica, put together: user code, the thread or loop that runs it, the sockets, the feed.

load:  code + init arguments ─► Handler ─► traits        run:  listen, serve until drained
table: my row's limits and batch rule; user_config ─► reconfigure between calls ─► report; my id draining ─► leave
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from rayserve.io_thread import IOThread
from rayserve.model.facts import BatchFacts, Report
from rayserve.model.spec import ReplicaSpec
from rayserve.model.table import Backend, RoutingTable
from rayserve.replica.handler import Handler
from rayserve.replica.intake import Intake
from rayserve.replica.invoke import Invoker, user_traceback
from rayserve.replica.mainthread import MainThread
from rayserve.replica.server import Server
from rayserve.replica.tasks import Tasks
from rayserve.replica.threadpool import ThreadPool
from rayserve.wire.handshake import ServerHandshake
from rayserve.wire.sockets import listen_tcp, listen_unix

__all__ = ["Replica"]

_log = logging.getLogger(__name__)


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
        self._drained = threading.Event()
        row = spec.backend
        self._intake = Intake(_limit(row, handler), row.batch)
        self._executor = self._make_executor(row.max_concurrency)
        self._intake.wake = self._executor.ready
        self._intake.drained = self._leave
        self._server = Server(self._intake, self._handshake, self._executor.dirty, spec.run_dir)
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
        if self.handler.traits.is_async:
            return Tasks(self._intake, uvloop.new_event_loop())
        if max_concurrency > 1:
            return ThreadPool(self._intake, max_concurrency)
        return MainThread(self._intake, self._io.loop)

    def _handshake(self, unix: bool) -> ServerHandshake:
        spec = self._spec
        return ServerHandshake(spec.instance, spec.replica, None if unix else spec.secret)

    def run(self) -> str:
        """Serve until drained; return why it ended."""
        if not self._drained.is_set():
            self._executor.invoker.enter_thread()
            self._executor.serve()
        return "drained"

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
                self._intake.limit = row.max_concurrent_queries
                self._intake.rule = row.batch
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

    def _leave(self) -> None:
        self._drained.set()
        self._executor.stop()


def _limit(row: Backend, handler: Handler) -> int:
    """Return the limit until the first table brings the one derived from what was loaded."""
    return max(row.max_concurrent_queries, row.batch.max_size, 256 if handler.traits.is_async else 1)
