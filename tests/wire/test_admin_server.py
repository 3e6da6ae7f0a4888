"""The admin server over loopback: what it answers, and that no client can hurt it or what it asks."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.conditions import eventually

from rayserve.admin import server as module
from rayserve.admin.server import AdminServer, listening
from rayserve.admin.snapshot import Snapshot
from rayserve.errors import NotRunningError, PortInUseError

TOKEN = "t0ken" * 8 + "123"
STATUS = {"instance": "default", "endpoints": {"classify": "GET /classify"}, "backends": {}, "nodes": {}}
SNAPSHOT = Snapshot("default", frozenset({"classify"}), {"v1": (1, 1)})

Answer = tuple[int, http.client.HTTPMessage, bytes]


class Desk:
    """Answers as told; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.stuck = False
        self.more: dict[str, Any] = {}

    async def status(self) -> dict[str, Any]:
        self.asked += 1
        if self.stuck:
            await asyncio.get_running_loop().create_future()
        if self.error is not None:
            raise self.error
        return STATUS | self.more

    async def metrics(self) -> Snapshot:
        self.asked += 1
        return SNAPSHOT


@contextmanager
def serving(desk: Desk, **settings: Any) -> Iterator[AdminServer]:
    server = AdminServer(listening(0), token=TOKEN, status=desk.status, metrics=desk.metrics, **settings)
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def server(desk: Desk) -> Iterator[AdminServer]:
    with serving(desk) as server:
        yield server


def ask(
    server: AdminServer,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def request_for(server: AdminServer, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def test_status_is_json(server: AdminServer) -> None:
    status, headers, body = ask(server, "/status")
    assert (status, headers["Content-Type"], json.loads(body)) == (200, "application/json", STATUS)


def test_metrics_are_prometheus_text(server: AdminServer) -> None:
    status, headers, body = ask(server, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'rayserve_replicas{backend="v1",state="ready"} 1.0\n' in body


def test_the_front_page_is_html(server: AdminServer) -> None:
    status, headers, body = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<th>classify</th>" in body


def test_head_has_no_body(server: AdminServer) -> None:
    status, headers, body = ask(server, "/status", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(ask(server, "/status")[2])), b"")


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Authorization": "Bearer no"}, 401), ({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403),
     ({"Sec-Fetch-Site": "cross-site"}, 403)],
)  # fmt: skip
def test_a_refused_request_never_reaches_the_controller(
    server: AdminServer, desk: Desk, headers: dict[str, str], status: int
) -> None:
    found, answered, _ = ask(server, "/status", headers=headers)
    assert found == status
    assert answered["Cache-Control"] == "no-store"
    assert (answered["WWW-Authenticate"] is not None) == (status == 401)
    assert desk.asked == 0


def test_a_post_with_a_body_reads_its_405(server: AdminServer) -> None:
    status, headers, _ = ask(server, "/status", "POST", b"x" * 60_000)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_slow_head_is_408(desk: Desk) -> None:
    with serving(desk, head_s=0.1) as server, socket.create_connection(("127.0.0.1", server.port), 20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_long_head_is_431(server: AdminServer) -> None:
    status, _, _ = ask(server, "/", headers={"X-Long": "x" * 20_000})
    assert status == 431


def test_a_long_answer_arrives_whole_however_slowly_it_is_taken(
    server: AdminServer, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 0.001)
    desk.more = {"long": "x" * 2**24}
    with socket.create_connection(("127.0.0.1", server.port), 20) as client:
        client.sendall(request_for(server, "/status"))
        taken = 0
        while piece := client.recv(2**16):
            taken += len(piece)
    assert taken > 2**24


def test_a_client_that_goes_away_in_its_head_leaves_nothing(server: AdminServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
    eventually(lambda: not server._clients, "the connection is forgotten")
    assert ask(server, "/status")[0] == 200


def test_idle_connections_shut_nobody_out(server: AdminServer) -> None:
    with ExitStack() as crowd:
        clients = [
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
            for _ in range(3 * module.MAX_CLIENTS)
        ]
        assert ask(server, "/status")[0] == 200
        assert len(server._clients) <= module.MAX_CLIENTS
        assert clients[0].recv(1) == b""  # the oldest made room


def test_waiting_for_the_controller_is_bounded_and_so_are_those_who_wait(desk: Desk) -> None:
    desk.stuck = True
    with serving(desk, ask_s=0.2) as server, ExitStack() as crowd:
        clients = [
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
            for _ in range(2 * module.MAX_CLIENTS)
        ]
        for client in clients:
            client.sendall(request_for(server, "/status"))
        answers = []
        for client in clients:
            try:
                answers.append(client.recv(4096)[:12])
            except ConnectionResetError:
                answers.append(b"")
        assert set(answers) <= {b"", b"HTTP/1.1 503"}
        assert b"HTTP/1.1 503" in answers
        assert desk.asked <= module.MAX_CLIENTS
        desk.stuck = False
        eventually(lambda: len(server._clients) < module.MAX_CLIENTS, "there is room again")
        assert ask(server, "/status")[0] == 200


def test_a_controller_without_an_instance_is_503_in_its_own_words(server: AdminServer, desk: Desk) -> None:
    desk.error = NotRunningError("it is not running")
    status, _, body = ask(server, "/status")
    assert (status, body) == (503, b"it is not running\n")


def test_an_unforeseen_error_is_500_and_the_log_has_it_without_the_token(
    server: AdminServer, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.error = ZeroDivisionError("secret detail")
    with caplog.at_level(logging.DEBUG):
        status, _, body = ask(server, "/status")
    assert status == 500
    assert b"secret detail" not in body
    assert "secret detail" in caplog.text
    assert TOKEN not in caplog.text


def test_a_taken_port_is_named(server: AdminServer) -> None:
    with pytest.raises(PortInUseError, match=f"127.0.0.1:{server.port} is taken.*admin_port"):
        listening(server.port)


def test_closing_frees_the_port_and_ends_the_thread(desk: Desk) -> None:
    with serving(desk) as server:
        client = socket.create_connection(("127.0.0.1", server.port), 20)
        eventually(lambda: server._clients, "the connection is there")
    assert client.recv(1) == b""
    client.close()
    assert not server._thread.is_alive()
    listening(server.port).close()
    server.close()
