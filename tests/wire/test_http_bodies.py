"""Large bodies both ways, and `Expect: 100-continue`."""

import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Client, chunked, request
from tests.wire.mini import Mini

MIB = 2**20
EXPECT = "Expect: 100-continue"


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        running.backend("hash", lambda request: hashlib.sha256(request.data).hexdigest())
        running.backend("make", lambda request: b"0123456789abcdef" * (int(request.args["size"]) // 16))
        running.backend("echo", lambda request: request.data)
        running.endpoint("hash", "/hash", {"hash": 1.0}).endpoint("make", "/make", {"make": 1.0})
        running.endpoint("echo", "/echo", {"echo": 1.0}, max_body_bytes=300_000)
        yield running.publish()


@pytest.mark.parametrize("size", [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 5 * MIB])
def test_bodies_around_and_over_one_frame_arrive_whole(mini: Mini, size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    digest = hashlib.sha256(body).hexdigest().encode()
    with Client(mini.port) as client:
        assert client.post("/hash", body).answer().body == digest
        assert client.send(chunked("POST", "/hash", body[:7], body[7:70_000], body[70_000:])).answer().body == digest
    assert mini.is_idle()


def test_64_mib_go_in_and_come_out(mini: Mini) -> None:
    body = b"x" * (64 * MIB)
    with Client(mini.port) as client:
        assert client.post("/hash", body).answer().body == hashlib.sha256(body).hexdigest().encode()
        assert len(client.get(f"/make?size={64 * MIB}").answer().body) == 64 * MIB
    assert mini.is_idle()


def test_an_answer_of_64_mib_passes_through_in_small_buffers(mini: Mini) -> None:
    with Client(mini.port, receive_buffer=65536) as client:
        client.get(f"/make?size={64 * MIB}")
        eventually(lambda: mini.unsent() >= 256 * 1024, "the client does not keep up")
        for _ in range(63):
            client.read(MIB)
            assert mini.unsent() <= MIB


def objects(mini: Mini) -> int:
    """Return how many objects hold the body that is arriving."""
    (connection,) = mini.clients()
    assert connection.incoming is not None
    return len(connection.incoming.pieces)


def test_a_flood_of_one_byte_chunks_is_joined(mini: Mini) -> None:
    chunks = b"1\r\nx\r\n" * 250_000
    with Client(mini.port) as client:
        began = time.process_time()
        client.send(request("POST", "/echo", "Transfer-Encoding: chunked"))
        client.send(chunks)
        eventually(lambda: mini.site.held == 250_000, "all of it is held")
        pieces = objects(mini)
        client.send(b"0\r\n\r\n")

        assert client.answer().body == b"x" * 250_000
        assert time.process_time() - began < 5
    assert pieces <= 8  # blocks of 64 KiB, not 250,000 objects


def test_small_segments_of_a_body_are_joined_too(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3001\r\n\r\n")
        for _ in range(300):
            client.send(b"0123456789")
            mini.on_front(lambda: None)
        eventually(lambda: mini.site.held == 3000, "all of it is held")
        pieces = objects(mini)

        assert client.send(b"!").answer().body == b"0123456789" * 300 + b"!"
    assert pieces == 1


def test_100_continue_is_said_before_the_body(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(request("POST", "/echo", EXPECT, "Content-Length: 4"))
        assert client.interim() == 100
        assert client.send(b"body").answer().body == b"body"
        client.send(request("POST", "/echo", EXPECT, "Transfer-Encoding: chunked"))
        assert client.interim() == 100
        assert client.send(b"1\r\nx\r\n0\r\n\r\n").answer().body == b"x"


@pytest.mark.parametrize(
    ("path", "field", "status"),
    [
        ("/nowhere", "Content-Length: 4", 404), ("/echo", "Content-Length: 300001", 413),
        ("/echo", "X-Request-Timeout-Ms: soon", 400), ("/-/routes", "Content-Length: 4", 405),
    ],
)  # fmt: skip
def test_100_continue_is_not_said_to_who_is_refused(mini: Mini, path: str, field: str, status: int) -> None:
    length = () if field.startswith("Content-Length") else ("Content-Length: 4",)
    with Client(mini.port) as client:
        client.send(request("POST", path, EXPECT, field, *length))
        answer = client.answer()
        assert not client.received
        assert client.half_close().is_closed()

    assert (answer.status, answer.closes) == (status, True)


def test_100_continue_is_not_said_when_the_body_is_there(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(request("POST", "/echo", EXPECT, body=b"body"))
        assert client._head()[0] == 200


def test_100_continue_waits_for_its_turn(mini: Mini) -> None:
    gate = threading.Event()

    def slow() -> str:
        gate.wait(30)
        return "first"

    mini.backend("slow", slow).endpoint("slow", "/slow", {"slow": 1.0}).publish()
    with Client(mini.port) as client:
        client.send(request("GET", "/slow") + request("POST", "/echo", EXPECT, "Content-Length: 4"))
        eventually(lambda: mini.held() == 1, "the first request runs")
        gate.set()
        assert client.answer().body == b"first"
        assert client.interim() == 100
        assert client.send(b"body").answer().body == b"body"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_100_continue_without_a_body_is_not_said(mini: Mini, version: str) -> None:
    with Client(mini.port) as client:
        client.send(request("GET", "/make?size=16", EXPECT, version=version))
        assert client._head()[0] == 200


def test_an_unknown_expectation_is_417(mini: Mini) -> None:
    with Client(mini.port) as client:
        answer = client.send(request("POST", "/echo", "Expect: magic", body=b"x")).answer()

    assert (answer.status, answer.reason, answer.closes) == (417, "bad_request", True)


@pytest.mark.parametrize(("version", "field"), [("1.1", "X-A: b"), ("1.0", "Connection: keep-alive")])
def test_an_answer_that_breaks_off_breaks_the_connection(mini: Mini, version: str, field: str) -> None:
    with Client(mini.port, receive_buffer=65536) as client:
        client.send(request("GET", f"/make?size={64 * MIB}", field, version=version))
        assert client._head()[0] == 200

        (connection,) = mini.clients()

        def lose_link() -> None:
            channel = connection.queue[0].channel
            assert channel is not None
            channel.lost("cut by the test", True)

        mini.on_front(lose_link)
        assert len(client.rest()) < 64 * MIB
    assert mini.is_idle()


def breaks(request: Any) -> Iterator[bytes]:
    yield b"begun"
    raise ValueError("in the middle")


def test_a_stream_that_raises_is_seen_to_be_incomplete(mini: Mini) -> None:
    mini.backend("breaks", breaks).endpoint("breaks", "/breaks", {"breaks": 1.0}).publish()
    with Client(mini.port) as client:
        client.get("/breaks")
        assert client._head()[0] == 200
        assert client.rest() == b"5\r\nbegun\r\n"  # no last chunk
    with Client(mini.port) as client, pytest.raises(ConnectionResetError):
        client.send(request("GET", "/breaks", version="1.0"))
        client.rest()
    assert mini.is_idle()


def test_an_answer_that_breaks_off_before_its_turn_becomes_an_error(mini: Mini) -> None:
    with Client(mini.port) as client:
        mini.endpoint("wait", "/wait").publish()
        client.send(request("GET", "/wait") + request("GET", f"/make?size={64 * MIB}"))

        eventually(lambda: mini.held() == 2, "both are under way")
        (connection,) = mini.clients()

        def fail() -> bool:
            exchange: Any = connection.queue[1] if len(connection.queue) == 2 else None
            if exchange is None or not exchange.pending:
                return False
            exchange.channel.lost("cut by the test", True)
            return True

        eventually(lambda: mini.on_front(fail), "the second answer has begun")
        mini.backend("echo2", lambda: "first").endpoint("wait", "/wait", {"echo2": 1.0}).publish()
        assert client.answer().body == b"first"
        second = client.answer()

    assert (second.status, second.reason) == (502, "replica_lost")
