"""What becomes of every request is in some counter: refusals before routing, clients that went, endings."""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Client, request
from tests.wire.mini import Mini

from rayserve.handle import thread_of
from rayserve.model.facts import Row


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def row(mini: Mini, endpoint: str, backend: str) -> Row:
    rows = mini.on_front(mini.router.rows)
    return next((row for row in rows if (row.endpoint, row.backend) == (endpoint, backend)), Row(endpoint, backend))


def reset_on_close(client: Client) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def serve(mini: Mini, code: Any = lambda: "served", **options: Any) -> None:
    mini.backend("b", code).endpoint("e", "/e", {"b": 1.0}, ("GET", "POST"), **options).publish()


@pytest.mark.parametrize(
    ("sent", "endpoint", "reason"),
    [
        (b"nonsense\r\n\r\n", "", "bad_request"),
        (b"GET /e HTTP/1.1\r\n\r\n", "", "bad_request"),
        (b"GET /e HTTP/3.0\r\nHost: x\r\n\r\n", "", "not_implemented"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "", "too_large"),
        (request("GET", "/unknown"), "", "not_found"),
        (request("GET", "/-/unknown"), "", "not_found"),
        (request("DELETE", "/e"), "", "method_not_allowed"),
        (b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n", "e", "too_large"),
        (b"POST /e HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e7\r\n" + b"x" * 999, "e", "too_large"),
        (b"GET /e HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: soon\r\n\r\n", "e", "bad_request"),
    ],
)
def test_a_refusal_before_routing_is_counted_once(mini: Mini, sent: bytes, endpoint: str, reason: str) -> None:
    serve(mini, max_body_bytes=100)
    with Client(mini.port) as client:
        assert client.send(sent).answer().status >= 400

    assert row(mini, endpoint, "").failed == {reason: 1}
    assert row(mini, "e", "b").failed == {}


def test_what_is_no_refusal_is_not_counted_as_one(mini: Mini) -> None:
    serve(mini)
    assert mini.get("/e").status == mini.get("/-/healthz").status == 200
    assert mini.ask("OPTIONS", "/e").status == 204

    assert (row(mini, "", "").failed, row(mini, "e", "").failed) == ({}, {})
    assert row(mini, "e", "b").statuses == {"2xx": 1}


def test_a_client_that_goes_before_its_answer_is_counted_as_cancelled(mini: Mini) -> None:
    began, heard = threading.Event(), threading.Event()

    async def waits() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            heard.set()

    serve(mini, waits)
    with Client(mini.port) as client:
        client.send(request("GET", "/e"))
        assert began.wait(10)
        reset_on_close(client)
    assert heard.wait(10)

    assert (row(mini, "e", "b").failed, row(mini, "e", "b").left) == ({"cancelled": 1}, 0)


def test_a_client_that_goes_within_its_body_is_counted_under_its_endpoint(mini: Mini) -> None:
    serve(mini)
    with Client(mini.port) as client:
        client.send(b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        eventually(lambda: any(each.incoming for each in mini.clients()), "its body is awaited")
        reset_on_close(client)
    eventually(lambda: not mini.connections(), "it is gone")

    assert row(mini, "e", "").failed == {"cancelled": 1}


def test_an_answer_that_was_left_has_its_status_and_is_counted_as_left(mini: Mini) -> None:
    ended = threading.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 1000
        finally:
            ended.set()

    serve(mini, endless)
    with Client(mini.port) as client:
        client.send(request("GET", "/e"))
        assert client.sock.recv(100)
    assert ended.wait(10)

    found = row(mini, "e", "b")
    assert (found.statuses, found.failed, found.left) == ({"2xx": 1}, {}, 1)


def test_head_of_a_stream_is_no_answer_that_was_left(mini: Mini) -> None:
    serve(mini, lambda: (word for word in "abc"))
    assert mini.ask("HEAD", "/e").status == 200

    assert (row(mini, "e", "b").left, row(mini, "e", "b").failed) == (0, {})


def test_calls_by_handle_that_are_cancelled_are_counted_there(mini: Mini) -> None:
    began = threading.Event()

    async def waits() -> None:
        began.set()
        await asyncio.sleep(60)

    serve(mini, waits)
    handle = mini.handle("e")
    call = handle.remote()
    assert began.wait(10)
    call.cancel()
    call.cancel()
    router = thread_of("mini").router
    eventually(lambda: any(each.failed == {"cancelled": 1} for each in router.rows()), "it is counted once")
