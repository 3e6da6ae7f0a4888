"""The ingress process: `python -m rayserve.ingress`, started by the doorkeeper with a listening socket.

    stdin: one JSON line of settings, then EOF means "die"     stdout: "ready", once requests can be served
    feed.sock ─► tables ─► Site      listening socket ─► Connection ─► Router ─► replicas
    SIGTERM: no new connections, healthz 503, what is under way finishes, exit 0

It never imports ray.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from rayserve.feed.messages import Welcome
from rayserve.feed.subscriber import Subscriber
from rayserve.ingress.connection import Connection
from rayserve.ingress.options import IngressSettings
from rayserve.ingress.process import adopt_priorities, announce_ready, exit_when_stdin_closes
from rayserve.ingress.site import Site
from rayserve.model.facts import Facts
from rayserve.model.table import RoutingTable
from rayserve.router.router import Router

_log = logging.getLogger("rayserve.ingress")
_BACKLOG = 4096


class Ingress:
    """One ingress process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: IngressSettings) -> None:
        """Wire the parts; nothing runs yet."""
        self._loop = loop
        self._settings = settings
        self._router = Router(loop, node=settings.node, instance=settings.instance, role="ingress")
        self._site = Site(loop, self._router, settings.options)
        if settings.options.access_log:
            self._site.log = logging.getLogger("rayserve.access").info
        self._server: asyncio.Server | None = None
        self._done = asyncio.Event()
        self._subscriber = Subscriber(
            str(Path(settings.run_dir) / "feed.sock"),
            process=settings.process,
            kind="ingress",
            on_welcome=self._welcome,
            on_table=self._table,
            facts=self._facts,
        )
        self._tabled = asyncio.Event()

    def _welcome(self, welcome: Welcome) -> None:
        self._router.connector.secret = welcome.secret

    def _table(self, table: RoutingTable) -> None:
        self._site.apply(table)
        self._tabled.set()

    def _facts(self) -> Facts:
        settings = self._settings
        return Facts(settings.process, "ingress", self._router.rows(), [], len(self._site.connections))

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        self._loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C reaches the whole group; the driver decides
        self._subscriber.start()
        await self._tabled.wait()
        self._site.tick()
        sock = socket.socket(fileno=self._settings.fd)
        sock.setblocking(False)
        self._server = await self._loop.create_server(lambda: Connection(self._site), sock=sock, backlog=_BACKLOG)
        announce_ready()
        await self._done.wait()
        self._subscriber.close()
        self._router.close()

    def _drain(self) -> None:
        """Stop accepting; leave when the last answer is sent."""
        if self._site.draining:
            return
        self._site.draining = True
        _log.info("draining %d connections", len(self._site.connections))
        if self._server is not None:
            self._server.close()
        self._watch_drain()

    def _watch_drain(self) -> None:
        for connection in list(self._site.connections):
            assert isinstance(connection, Connection)
            connection.drain()
        if self._site.connections:
            self._loop.call_later(0.05, self._watch_drain)
        else:
            self._done.set()


def main() -> None:
    """Read the settings and serve."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=IngressSettings)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    adopt_priorities()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    exit_when_stdin_closes(loop)
    loop.run_until_complete(Ingress(loop, settings).run())


if __name__ == "__main__":
    main()
