"""The doorkeeper: one per node, owner of what outlives an ingress there.

    controller ── start, publish, watch, stop ──► Doorkeeper ─┬─ listening sockets ─► ingress processes
                                                              └─ feed.sock ─► every router of the node

A Ray actor runs it, but it knows nothing of Ray: on any event loop it is the same. All methods are coroutines, so
that Ray gives it a loop. It dies with its children; their sockets and the lock of the run directory go with it.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayserve import settings as environment
from rayserve.controller.gathered import Gathered
from rayserve.controller.ingresses import COMMAND, IngressKeeper
from rayserve.controller.listen import Listeners, open_listeners
from rayserve.controller.rundir import RunDir
from rayserve.errors import ClusterError, PortInUseError
from rayserve.feed.hub import Hub
from rayserve.feed.messages import Hello, Welcome
from rayserve.memory import spare_imports
from rayserve.model.facts import Facts, Report

__all__ = ["Doorkeeper"]

log = logging.getLogger("rayserve.doorkeeper")

_SETTLE_S = 1.0  # a router that has not acknowledged by then is late
_WATCH_S = 30.0
_FACTS_EVERY_S = 1.0
_PREDECESSOR_S = 2.0  # its ingresses let go of the port within milliseconds of its death
_RETRY_S = 0.02


class Doorkeeper:
    """One node's doorkeeper. Only `start` may be called first."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        """Do nothing yet.

        Args:
            command: what an ingress process runs.
        """
        self._command = command
        self._starting = asyncio.Lock()
        self._info: dict[str, Any] | None = None
        self._run_dir: RunDir | None = None
        self._hub: Hub | None = None
        self._listeners: Listeners | None = None
        self._ingresses: list[IngressKeeper] = []
        self._gathered = Gathered()
        self._news = asyncio.Event()
        self._log_handler: logging.Handler | None = None

    async def start(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Open the node's door: claim the run directory, bind the sockets, start the ingresses and wait for them.

        Repeated (by a restarted controller) it changes nothing and returns the same.

        Args:
            settings: `instance`, `node` (Ray's id), `node_address` (for `http_host="node"`), `http_host` (None: no
                HTTP here), `http_port` (0 picks one), `options` (`HTTPOptions` as a plain dict; `num_ingress` counts
                the processes), `secret` (bytes), `table` (packed, the first to be in force), and optionally
                `base_dir` (default: `settings.base_dir()` of this process).

        Returns:
            `{"url_host": str, "http_port": int, "run_dir": str, "node": str}`; `""` and 0 without HTTP.

        Raises:
            PortInUseError: the port is taken; nothing was left behind.
            InvalidValueError: no such host, or a path too long for sockets.
            ClusterError: an ingress does not come up; the message ends with its log.
        """
        async with self._starting:
            if self._info is None:
                spare_imports()
                try:
                    self._info = await self._open(settings)
                except BaseException:
                    await self._close(0.0)
                    raise
            return self._info

    async def publish(self, table: bytes) -> dict[str, Any]:
        """Put a table in force on this node.

        Returns when every router connected now has it, or after 1 s; then late ingresses are killed (and start again
        with the new table), and late handle and replica processes are disconnected (and fetch it when they wake up).
        A table older than the present one changes nothing, nor do changes to another one.

        Args:
            table: packed, whole or as changes, then compressed by zlib.

        Returns:
            `{"stamp": [epoch, version] now in force, "late": [process names]}`.
        """
        hub = self._opened()
        stamp = hub.publish(zlib.decompress(table))
        late = await hub.settled(stamp, _SETTLE_S)
        for connection in late:
            log.warning("%s did not put table %s in force within %g s", connection, stamp, _SETTLE_S)
            for ingress in self._ingresses:
                if connection.hello is not None and ingress.pid == connection.hello.pid:
                    ingress.kill()
            connection.drop("it is late")
        return {"stamp": list(stamp), "late": [str(connection) for connection in late]}

    async def watch(self, cursor: str = "") -> dict[str, Any]:
        """Wait for what is new since `cursor` (long poll).

        Returns at once when there are reports, at most once a second otherwise and only if something changed, and
        after 30 s in any case.

        Args:
            cursor: from the last answer; "" for everything.

        Returns:
            `{"cursor": str, "facts": [Facts], "reports": [Report], "gone": [process names], "ingresses": [{"index",
            "pid", "state", "restarts"}]}`.
        """
        self._opened()
        loop = asyncio.get_running_loop()
        facts_from, until = loop.time() + _FACTS_EVERY_S, loop.time() + _WATCH_S
        while loop.time() < until and not self._gathered.has_reports(cursor):
            news = self._gathered.has_news(cursor)
            if news and loop.time() >= facts_from:
                break
            self._news.clear()
            await _wait(self._news, (facts_from if news else until) - loop.time())
        return {**self._gathered.since(cursor), "ingresses": [ingress.facts() for ingress in self._ingresses]}

    async def stop(self, grace_s: float) -> None:
        """Close the door: ingresses drain for at most `grace_s` seconds, then nothing but the logs is left."""
        async with self._starting:
            self._info = None
            await self._close(grace_s)

    async def _open(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        instance, node = str(settings["instance"]), str(settings["node"])
        base = Path(settings.get("base_dir") or environment.base_dir())
        run_dir = self._run_dir = RunDir.claim(instance, node, base)
        self._log_to(run_dir.logs / "doorkeeper.log")
        host: str | None = settings["http_host"]
        if host is not None:
            self._listeners = await self._listen(
                str(settings["node_address"]) if host == "node" else host,
                int(settings["http_port"]),
                int(settings["options"].get("num_ingress", 1)),
            )
        self._hub = Hub(
            run_dir.path / "feed.sock",
            Welcome(instance, node, settings["secret"]),
            on_hello=self._came, on_gone=self._left, on_facts=self._facts, on_report=self._report,
        )  # fmt: skip
        self._hub.publish(settings["table"])
        await self._hub.start()
        told = {"instance": instance, "run_dir": str(run_dir.path), "node": node, "options": settings["options"]}
        await self._start_ingresses(told)
        listeners = self._listeners
        return {
            "url_host": listeners.url_host if listeners else "",
            "http_port": listeners.port if listeners else 0,
            "run_dir": str(run_dir.path),
            "node": node,
        }

    async def _listen(self, host: str, port: int, count: int) -> Listeners:
        """Bind; after a crash wait a moment for the last ingress of the predecessor to let go of the port."""
        loop = asyncio.get_running_loop()
        assert self._run_dir is not None
        until = loop.time() + (_PREDECESSOR_S if self._run_dir.inherited else 0.0)
        while True:
            try:
                return open_listeners(host, port, count)
            except PortInUseError:
                if loop.time() >= until:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _start_ingresses(self, told: dict[str, Any]) -> None:
        sockets = self._listeners.sockets if self._listeners else ()
        assert self._run_dir is not None
        logs = self._run_dir.logs
        self._ingresses = [
            IngressKeeper(index, sock, told, logs / f"ingress-{index}.log", self._command)
            for index, sock in enumerate(sockets)
        ]
        for ingress in self._ingresses:
            ingress.start()
        await asyncio.gather(*(ingress.ready() for ingress in self._ingresses))

    async def _close(self, grace_s: float) -> None:
        """Undo as much as was done."""
        # Ours first: else the kernel would go on queueing connections that nobody accepts.
        if self._listeners is not None:
            self._listeners.close()
            self._listeners = None
        await asyncio.gather(*(ingress.stop(grace_s) for ingress in self._ingresses))
        self._ingresses = []
        if self._hub is not None:
            self._hub.close()
            self._hub = None
        if self._log_handler is not None:
            logger = logging.getLogger("rayserve")
            logger.removeHandler(self._log_handler)
            logger.setLevel(logging.NOTSET)
            self._log_handler.close()
            self._log_handler = None
        if self._run_dir is not None:
            self._run_dir.release()
            self._run_dir = None

    def _opened(self) -> Hub:
        if self._hub is None or self._info is None:
            raise ClusterError("this doorkeeper was not started, or was stopped")
        return self._hub

    def _log_to(self, path: Path) -> None:
        self._log_handler = logging.FileHandler(path)
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger = logging.getLogger("rayserve")
        logger.addHandler(self._log_handler)
        logger.setLevel(logging.INFO)

    def _came(self, hello: Hello) -> None:
        self._gathered.came(hello.process)

    def _left(self, hello: Hello) -> None:
        self._gathered.left(hello.process)
        self._news.set()

    def _facts(self, facts: Facts) -> None:
        self._gathered.add_facts(facts)
        self._news.set()

    def _report(self, report: Report) -> None:
        self._gathered.add_report(report)
        self._news.set()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for the event, or for the time to pass."""
    try:
        await asyncio.wait_for(event.wait(), max(timeout_s, 0.0))
    except TimeoutError:
        return
