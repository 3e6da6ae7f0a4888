"""The ingress process: `python -m rayserve.ingress`, started by the doorkeeper with a listening socket.

    stdin: one JSON line of settings, then EOF means "die"     stdout: "ready", once requests can be served
    feed.sock ─► tables ─► Site      listening socket ─► Connection ─► Router ─► replicas
    SIGTERM: no new connections, healthz 503 on those there are, what is under way finishes, exit 0

It never imports ray.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from rayserve.feed.messages import Welcome
from rayserve.feed.subscriber import Subscriber
from rayserve.ingress.connection import Connection
from rayserve.ingress.options import IngressOptions, IngressSettings
from rayserve.ingress.process import adopt_priorities, announce_ready, exit_when_stdin_closes
from rayserve.ingress.site import Site
from rayserve.ingress.websocket import WebSocket
from rayserve.memory import keep_freed, spare_imports
from rayserve.model.facts import Facts
from rayserve.model.table import RoutingTable
from rayserve.router.router import Router

_log = logging.getLogger("rayserve.ingress")
_BACKLOG: Final = 4096
_OTHER_FILES: Final = 256  # descriptors for links, logs and the loop, beside those of clients
_DRAIN_LOOK_S: Final = 0.05


class Ingress:
    """One ingress process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: IngressSettings) -> None:
        """Wire the parts; nothing runs yet."""
        self._loop = loop
        self._settings = settings
        self._router = Router(loop, node=settings.node, instance=settings.instance, role="ingress")
        self._site = Site(loop, self._router, _fit_files(settings.options))
        if settings.options.access_log:
            self._site.log = logging.getLogger("rayserve.access").info
        self._server: asyncio.Server | None = None
        self._tabled = asyncio.Event()  # a table came, or none is wanted any more
        self._done = asyncio.Event()
        self._subscriber = Subscriber(
            str(Path(settings.run_dir) / "feed.sock"),
            process=settings.process,
            kind="ingress",
            on_welcome=self._welcome,
            on_table=self._table,
            facts=self._facts,
        )

    def _welcome(self, welcome: Welcome) -> None:
        self._router.connector.secret = welcome.secret

    def _table(self, table: RoutingTable) -> None:
        self._site.apply(table)
        self._tabled.set()

    def _facts(self) -> Facts:
        connections = len(self._site.clock.watched)
        return Facts(self._settings.process, "ingress", self._router.rows(), [], connections)

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        self._loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C reaches the whole group; the driver decides
        self._subscriber.start()
        await self._tabled.wait()
        if not self._site.draining:
            self._site.clock.start(self._loop)
            sock = socket.socket(fileno=self._settings.fd)
            sock.setblocking(False)
            self._server = await self._loop.create_server(lambda: Connection(self._site), sock=sock, backlog=_BACKLOG)
            announce_ready()
            await self._done.wait()
        self._subscriber.close()
        self._router.close()

    def _drain(self) -> None:
        """Stop accepting; leave when the last answer is sent."""
        site = self._site
        if site.draining:
            return
        site.drain()
        self._tabled.set()
        if self._server is not None:
            self._server.close()
        _log.info("draining %d connections", len(site.clock.watched))
        for connection in self._connections():
            connection.drain()
        self._watch_drain()

    def _watch_drain(self) -> None:
        """Keep idle connections while others are busy, so that they can ask for /-/healthz; then close them all."""
        connections = self._connections()
        if not any(connection.busy for connection in connections):
            for connection in connections:
                connection.end()
        if connections:
            self._loop.call_later(_DRAIN_LOOK_S, self._watch_drain)
        else:
            self._done.set()

    def _connections(self) -> list[Connection | WebSocket]:
        sockets: list[Connection | WebSocket] = [*self._site.websockets]
        return sockets + [each for each in self._site.clock.watched if isinstance(each, Connection)]


def _fit_files(options: IngressOptions) -> IngressOptions:
    """Raise the limit of open files for `max_connections`, or take fewer clients where that is not allowed.

    Beyond the limit libuv accepts and drops connections without a word; beyond `max_connections` they get a 503.
    """
    wanted = options.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return options
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return options
    fitting = soft - min(_OTHER_FILES, soft // 2)
    _log.warning("max_connections=%d needs %d open files, the limit is %d (ulimit -Hn): taking %d connections",
                 options.max_connections, wanted, soft, fitting)  # fmt: skip
    return msgspec.structs.replace(options, max_connections=fitting)


def main() -> None:
    """Read the settings and serve."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=IngressSettings)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    adopt_priorities()
    spare_imports()
    keep_freed()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    exit_when_stdin_closes(loop)
    loop.run_until_complete(Ingress(loop, settings).run())


if __name__ == "__main__":
    main()
