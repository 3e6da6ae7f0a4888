"""WebSockets and clients that break the rules, at the handshake and after it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.websocket_apps import BINARY, CLOSE, PING, PONG, TEXT, Raw, ask, frame, recorder, serve

PLAIN = b"GET /ws/ HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "every slot is free")


@pytest.fixture
def seen() -> queue.Queue[Any]:
    return queue.Queue()


def disconnect_of(seen: queue.Queue[Any]) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = seen.get(timeout=10)
        if message["type"] == "websocket.disconnect":
            return message


# -- the handshake -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        (ask(version=b"8"), b"426", b"sec-websocket-version: 13"),
        (ask().replace(b"Sec-WebSocket-Version: 13\r\n", b""), b"426", b"sec-websocket-version: 13"),
        (ask(key=b"c2hvcnQ="), b"400", b"x-serve-reason: bad_request"),
        (ask(key=b"dGhlIHNhbXBsZSBub25jZQ=!"), b"400", b"x-serve-reason: bad_request"),
        (ask(extra=b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), b"400", b"x-serve-reason: bad_request"),
        (ask().replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), b"400", b"x-serve-reason"),
        (ask(extra=b"Content-Length: 2\r\n") + b"{}", b"400", b"x-serve-reason: bad_request"),
        (ask().replace(b"GET /ws/", b"GET /none"), b"404", b"x-serve-reason: not_found"),
    ],
)
def test_a_bad_handshake_is_refused_and_the_connection_serves_on(
    mini: Mini, seen: queue.Queue[Any], request_: bytes, status: bytes, field: bytes
) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port, upgrade=False) as client:
        head = client.ask(request_)
        assert head.startswith(b"HTTP/1.1 " + status), head
        assert field in head
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        client.file.read(int(length.split(b":")[1]))
        assert client.ask(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert seen.empty()


def test_the_key_is_answered_as_in_rfc_6455_and_what_follows_is_no_http(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        assert client.head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        fields = client.head.lower().split(b"\r\n")
        assert {b"upgrade: websocket", b"connection: upgrade"} <= set(fields)
        assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in client.head
        assert not any(field.startswith((b"content-length", b"transfer-encoding")) for field in fields)
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.closed_with() == 1002


def test_frames_sent_with_the_handshake_are_taken_after_it(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port, upgrade=False) as client:
        head = client.ask(ask() + frame(TEXT, b"early") + frame(CLOSE, b"\x03\xe8"))
        assert head.startswith(b"HTTP/1.1 101")
        while client.read()[0] != CLOSE:
            pass
    assert [seen.get(timeout=10)["type"] for _ in range(2)] == ["websocket.connect", "websocket.receive"]
    assert disconnect_of(seen)["code"] == 1000


@pytest.mark.parametrize("extra", [b"Connection: keep-alive", b"Upgrade: h2c"])
def test_an_upgrade_that_is_none_is_plain_http(mini: Mini, extra: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"plain"})

    serve(mini, app)
    with Raw(mini.port, upgrade=False) as client:
        name = extra.split(b":")[0]
        kept = [line for line in ask()[:-2].split(b"\r\n") if not line.startswith(name + b":")]
        assert client.ask(b"\r\n".join(kept) + extra + b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_backends_that_are_no_asgi_app_never_see_an_upgrade(mini: Mini) -> None:
    mini.backend("b", lambda request: request.method).endpoint("e", "/ws/*", {"b": 1.0}).publish()
    with Raw(mini.port, upgrade=False) as client:
        assert client.ask(ask()).startswith(b"HTTP/1.1 200")


def test_a_handshake_behind_an_unanswered_request_is_refused(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    mini.endpoint("parked", "/parked", None, timeout_s=0.05).publish()
    with Raw(mini.port, upgrade=False) as client:
        client.sock.sendall(b"GET /parked HTTP/1.1\r\nHost: x\r\n\r\n" + ask(extra=b"Connection: close\r\n"))
        answers = client.file.read()
    assert answers.startswith(b"HTTP/1.1 503")
    assert b"HTTP/1.1 400" in answers and b"all earlier answers" in answers


# -- frames --------------------------------------------------------------------------------------------

HALF_E = "é".encode()[:1]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(TEXT, b"x", rsv=4), 1002),
        (frame(3, b"x"), 1002),
        (frame(0, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(CLOSE, b"\x03\xed"), 1002),  # 1005 is never sent
        (frame(TEXT, HALF_E), 1007),
        (frame(TEXT, HALF_E, fin=False) + frame(0, b"x"), 1007),
        (frame(TEXT, "\ud800".encode("utf-8", "surrogatepass")), 1007),
        (frame(CLOSE, b"\x03\xe8" + HALF_E), 1007),
        (frame(BINARY, bytes(1_048_577)), 1009),
        (frame(BINARY, bytes(1_048_576), fin=False) + frame(0, b"x"), 1009),
        (frame(BINARY, b"")[:1] + b"\xff" + b"\x7f" + b"\xff" * 7, 1009),
        (frame(TEXT, HALF_E) + frame(3, b"x"), 1002),  # one read: the framing is judged first
    ],
)
def test_a_client_that_breaks_a_rule_is_told_so_and_so_is_the_app(
    mini: Mini, seen: queue.Queue[Any], frames: bytes, code: int
) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        client.send(TEXT, b"before")
        assert client.read() == (TEXT, b"before")
        client.sock.sendall(frames)
        assert client.closed_with() == code
    assert disconnect_of(seen)["code"] == code
    with Raw(mini.port) as another:
        another.send(BINARY, b"next")
        assert another.read() == (BINARY, b"next")


def test_pings_are_answered_also_within_a_long_message_of_the_largest_size(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        client.send(PING, b"a")
        assert client.read() == (PONG, b"a")
        client.send(BINARY, bytes(1_048_575), fin=False)
        client.send(PING, b"within")
        assert client.read() == (PONG, b"within")
        client.send(0, b"\x01")
        received = b""
        while len(received) < 1_048_576:
            received += client.read()[1]
        assert received == bytes(1_048_575) + b"\x01"


def test_a_close_without_a_code_is_1005_for_the_app(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        client.send(CLOSE, b"")
        assert client.read() == (CLOSE, b"")
        assert client.file.read() == b""
    assert disconnect_of(seen)["code"] == 1005


def test_a_client_that_vanishes_is_1006_for_the_app(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        client.send(TEXT, b"x")
        assert client.read() == (TEXT, b"x")
    assert disconnect_of(seen)["code"] == 1006


def test_a_client_that_vanishes_in_the_middle_of_a_frame_is_1006_too(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        client.sock.sendall(frame(TEXT, b"a whole sentence")[:9])
    assert disconnect_of(seen)["code"] == 1006
