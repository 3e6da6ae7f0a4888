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
from typing import Any, Self

import uvloop

from rayserve import handle as handles
from rayserve.config import (
    BackendConfig, EndpointConfig, backend_row, endpoint_options, parse_backend_config, parse_endpoint_config,
)  # fmt: skip
from rayserve.feed.hub import Hub
from rayserve.feed.messages import Welcome
from rayserve.ingress.connection import Connection
from rayserve.ingress.options import IngressOptions
from rayserve.ingress.site import Site
from rayserve.io_thread import IOThread
from rayserve.model.facts import Report
from rayserve.model.spec import CodeSpec, ReplicaSpec
from rayserve.model.table import Backend, Endpoint, Replica, RoutingTable, Traffic, encode_table
from rayserve.replica.handler import Handler
from rayserve.replica.replica import Replica as RunningReplica
from rayserve.router.router import Router

NODE = "node-1"
INSTANCE = "mini"


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def do(self, function: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Run `function` on the loop's thread and return its result; a coroutine is awaited."""

        async def run() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(timeout_s)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        self.loop.close()


class Mini:
    """One instance in one process; a context manager."""

    def __init__(self, **options: Any) -> None:
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
        self._hub = Hub(
            f"{self.folder}/feed.sock", Welcome(INSTANCE, NODE, b"s" * 32), on_report=self._report
        )
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
            replica._server.close()
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
        self.router = Router(loop, node=NODE, instance=INSTANCE, role="ingress")
        self.site = Site(loop, self.router, self._options)
        self.site.tick()
        self._server = await loop.create_server(lambda: Connection(self.site), sock=self.listener)

    def _shut(self) -> None:
        self._server.close()
        for connection in list(self.site.connections):
            connection.transport.abort()  # type: ignore[attr-defined]
        self.router.close()

    # -- what a controller would do -------------------------------------------------------------------

    def backend(self, tag: str, code: Any, config: Mapping[str, Any] | None = None, replicas: int = 1, **init: Any) -> Self:
        """Start replicas of `code`, not yet published."""
        parsed: BackendConfig = parse_backend_config(dict(config or {}))
        rows = []
        revision = 1
        for number in range(replicas):
            replica_id = f"{tag}#{number}{hashlib.md5(tag.encode()).hexdigest()[:4]}"
            handler = Handler(code, (), init)
            row = backend_row(tag, revision, parsed, handler.traits, (0, ""), ())
            io = IOThread(
                instance=INSTANCE, node=NODE, run_dir=self.folder, kind="replica", replica=replica_id,
                on_table=lambda table, key=replica_id: self._tell(key, table),
            )  # fmt: skip
            io.start()
            self.ios.append(io)
            spec = ReplicaSpec(INSTANCE, replica_id, NODE, self.folder, row, CodeSpec())
            running = RunningReplica(spec, handler, io, pickle.dumps, self._configs.__getitem__)
            self.replicas[replica_id] = running
            thread = threading.Thread(target=running.run, name=replica_id, daemon=True)
            thread.start()
            self._threads.append(thread)
            rows.append(Replica(replica_id, NODE, running.unix))
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
        return handles.ServeHandle(INSTANCE, endpoint)

    def held(self) -> int:
        """Return the slots and places in lines that the ingress's router holds."""
        held: int = self._front.do(self.router.held)
        return held


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.pairs = headers
        self.body = body

    def __getitem__(self, name: str) -> str:
        return next(value for key, value in self.pairs if key.lower() == name.lower())

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.pairs if key.lower() == name.lower()), None)

    def json(self) -> Any:
        import json

        return json.loads(self.body)
