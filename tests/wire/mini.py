"""A whole data plane in one process, without Ray: ingress, router, replicas, on loopback and unix sockets.

Mini().backend("b", fn) / .endpoint("e", "/x", {"b": 1.0}) ─► publish() ─► .url for clients, .handle("e") for Python
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import pickle
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from tests.tables import encode_table
from tests.wire.http_client import Answer
from tests.wire.loops import Loop

from rayserve import handle as handles
from rayserve.call_result import HandleOptions
from rayserve.config import (
    BackendConfig,
    EndpointConfig,
    backend_row,
    endpoint_options,
    parse_backend_config,
    parse_endpoint_config,
)  # fmt: skip
from rayserve.feed.hub import Hub
from rayserve.feed.messages import Welcome
from rayserve.ingress.clock import Clock
from rayserve.ingress.connection import Connection
from rayserve.ingress.options import IngressOptions
from rayserve.ingress.site import Site
from rayserve.ingress.websocket import WebSocket
from rayserve.io_thread import IOThread
from rayserve.model.facts import Report
from rayserve.model.spec import CodeSpec, ReplicaSpec
from rayserve.model.table import Backend, Endpoint, Replica, RoutingTable, Traffic
from rayserve.replica.handler import Handler
from rayserve.replica.replica import Replica as RunningReplica
from rayserve.router.router import Router

NODE = "node-1"
INSTANCE = "mini"
SECRET = b"s" * 32


class Mini:
    """One instance in one process; a context manager.

    With `virtual_time` the ingress's clock stands still but for `later`: what depends on `HTTPOptions` and on slow
    clients can be tested without waiting. The router's deadlines are not under it.
    """

    def __init__(self, *, virtual_time: bool = False, **options: Any) -> None:
        self._virtual = virtual_time
        self._now = 1000.0
        self.folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
        self.reports: list[Report] = []
        self.reported = threading.Event()
        self._io = Loop("mini-hub")
        self._front = Loop("mini-ingress")
        self._options = IngressOptions(**options)
        self._endpoints: dict[str, Endpoint] = {}
        self._backends: dict[str, Backend] = {}
        self._draining: list[str] = []
        self._version = 0
        self._threads: list[threading.Thread] = []
        self._configs: dict[str, Any] = {}
        self.replicas: dict[str, RunningReplica] = {}
        self.ios: list[IOThread] = []

    def __enter__(self) -> Self:
        self._hub = Hub(f"{self.folder}/feed.sock", Welcome(INSTANCE, NODE, SECRET), on_report=self._report)
        self._io.do(self._hub.start)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._front.do(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        handles.disconnect(INSTANCE)
        for replica in self.replicas.values():
            replica._leave()
        for thread in self._threads:
            thread.join(5.0)
        self._front.do(self._shut)
        for replica in self.replicas.values():
            replica.close()
        for io in self.ios:
            io.close()
        self._io.do(self._hub.close)
        self._front.stop()
        self._io.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        self.reported.set()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self.router = Router(loop, node=NODE, instance=INSTANCE, role="ingress", secret=SECRET)
        clock = Clock(lambda: self._now) if self._virtual else Clock()
        self.site = Site(loop, self.router, self._options, clock)
        if not self._virtual:
            clock.start(loop)
        self._servers = [await loop.create_server(lambda: Connection(self.site), sock=self.listener, backlog=512)]

    def listen(self, listener: socket.socket) -> None:
        """Serve on another socket too."""

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            self._servers.append(await loop.create_server(lambda: Connection(self.site), sock=listener))

        self._front.do(serve)

    def _shut(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self.site.clock.watched):
            if isinstance(connection, WebSocket):
                connection.end()
                continue
            assert isinstance(connection, Connection)
            connection.transport.abort()
        self.router.close()

    # -- what a controller would do -------------------------------------------------------------------

    def backend(
        self,
        tag: str,
        code: Any,
        config: Mapping[str, Any] | None = None,
        replicas: int = 1,
        far: bool = False,
        **init: Any,
    ) -> Self:
        """Start replicas of `code`, not yet published; `far` ones as if on another node, reached by TCP."""
        parsed: BackendConfig = parse_backend_config(dict(config or {}))
        rows = []
        revision = 1
        for number in range(replicas):
            replica_id = f"{tag}#{number}{hashlib.md5(tag.encode()).hexdigest()[:4]}"
            handler = Handler(code, (), init)
            row = backend_row(tag, revision, parsed, handler.traits, (0, ""), ())
            io = IOThread(
                instance=INSTANCE, node=NODE, run_dir=self.folder, kind="replica", replica=replica_id,
                on_table=partial(self._tell, replica_id),
            )  # fmt: skip
            io.start()
            self.ios.append(io)
            listen = "127.0.0.1" if far else ""
            spec = ReplicaSpec(INSTANCE, replica_id, NODE, self.folder, row, CodeSpec(), SECRET, listen)
            running = RunningReplica(spec, handler, io, pickle.dumps, self._configs.__getitem__)
            self.replicas[replica_id] = running
            thread = threading.Thread(target=running.run, name=replica_id, daemon=True)
            thread.start()
            self._threads.append(thread)
            rows.append(Replica(replica_id, "node-2" if far else NODE, running.unix, listen, running.port))
            self._backends[tag] = backend_row(tag, revision, parsed, handler.traits, (0, ""), tuple(rows))
        return self

    def _tell(self, replica_id: str, table: RoutingTable) -> None:
        replica = self.replicas.get(replica_id)
        if replica is not None:
            replica.table(table)

    def user_config(self, tag: str, value: Any) -> None:
        """Give every replica of `tag` a new `user_config`, and publish."""
        row = self._backends[tag]
        revision = row.user_config[0] + 1
        self._configs[f"c{revision}"] = value
        fields = {name: getattr(row, name) for name in row.__struct_fields__}
        self._backends[tag] = Backend(**{**fields, "user_config": (revision, f"c{revision}")})
        self.publish()

    def endpoint(
        self,
        name: str,
        route: str | None,
        traffic: Mapping[str, float] | None = None,
        methods: tuple[str, ...] = ("GET", "POST"),
        **config: Any,
    ) -> Self:
        """Make an endpoint, not yet published."""
        parsed: EndpointConfig = parse_endpoint_config(config)
        shares = None if traffic is None else Traffic(dict(traffic))
        self._endpoints[name] = Endpoint(name, route, methods, shares, endpoint_options(parsed))
        return self

    def remove_backend(self, tag: str) -> None:
        """Delete a backend: its replicas drain."""
        row = self._backends.pop(tag)
        self._draining += [replica.id for replica in row.replicas]

    def remove_replica(self, tag: str, replica_id: str) -> None:
        """Take one replica out of the table; it drains."""
        row = self._backends[tag]
        fields = {name: getattr(row, name) for name in row.__struct_fields__}
        rest = tuple(replica for replica in row.replicas if replica.id != replica_id)
        self._backends[tag] = Backend(**{**fields, "replicas": rest})
        self._draining.append(replica_id)

    def publish(self, closing: bool = False) -> Self:
        """Publish the table and wait until ingress and replicas have it."""
        self._version += 1
        table = RoutingTable(
            INSTANCE, 1, self._version, tuple(self._endpoints.values()), tuple(self._backends.values()),
            tuple(self._draining), closing,
        )  # fmt: skip
        self._front.do(lambda: self.site.apply(table))
        self._io.do(lambda: self._hub.publish(encode_table(table)))
        return self

    # -- clients --------------------------------------------------------------------------------------

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def raw(self, data: bytes, until: Callable[[bytes], bool] | None = None) -> bytes:
        """Send bytes as they are; return all that comes back until the server closes, or `until` holds."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(data)
            received = b""
            while until is None or not until(received):
                piece = sock.recv(65536)
                if not piece:
                    break
                received += piece
            return received

    def handle(self, endpoint: str) -> handles.ServeHandle:
        """Return a handle, as a driver would have."""
        if INSTANCE not in handles._threads:
            io = IOThread(instance=INSTANCE, node=NODE, run_dir=self.folder)
            io.start()
            handles.connect(INSTANCE, io)
        return handles.ServeHandle(INSTANCE, HandleOptions(endpoint))

    def held(self) -> int:
        """Return the slots and places in lines that the ingress's router holds."""
        held: int = self._front.do(self.router.held)
        return held

    # -- the ingress's clock and counters -------------------------------------------------------------

    def on_front(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the ingress's loop, behind all that has reached it."""
        return self._front.do(function)

    def later(self, seconds: float) -> None:
        """Let virtual time pass, half a second at a time as the real clock ticks."""
        for _ in range(round(seconds * 2)):
            self._now += 0.5
            self._front.do(self.site.clock.tick)

    def is_idle(self) -> bool:
        """Return whether the ingress holds nothing of any client: no slot, no place in a line, no byte of a body."""
        return not self.held() and not self._front.do(lambda: self.site.held)

    def clients(self) -> list[Connection]:
        """Return the open client connections; touch them on the front's loop only."""
        return [each for each in self._front.do(lambda: list(self.site.clock.watched)) if isinstance(each, Connection)]

    def unsent(self) -> int:
        """Return how many bytes of answers wait in the ingress for clients to take them."""
        clients = self.clients()
        size: int = self._front.do(lambda: sum(each.transport.get_write_buffer_size() for each in clients))
        return size

    def connections(self) -> int:
        """Return how many client connections are open."""
        return len(self.clients())
