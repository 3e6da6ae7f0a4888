"""The limits of HTTPOptions and EndpointConfig: how much and how slowly a client may send."""

from collections.abc import Iterator

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Client, Reply, chunked, request
from tests.wire.mini import Mini


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini(virtual_time=True, keep_alive_s=75) as running:
        serve(running)
        yield running


def serve(mini: Mini) -> None:
    mini.backend("b", lambda request: str(len(request.data)))
    mini.endpoint("e", "/x", {"b": 1.0}, max_body_bytes=100_000, timeout_s=120).publish()


def refused(client: Client, status: int, reason: str, retriable: str = "false") -> Reply:
    """Return an answer that refuses; the connection must end behind it."""
    answer = client.answer()
    assert (answer.status, answer.reason, answer["x-serve-retriable"]) == (status, reason, retriable)
    assert answer.closes
    assert client.half_close().is_closed()
    return answer


def settle(mini: Mini) -> None:
    """Return once the ingress has read what was sent before."""
    for _ in range(3):
        mini.on_front(lambda: None)


def test_a_body_that_is_announced_too_large_is_413_before_it_is_sent(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 100001\r\n\r\n")
        answer = refused(client, 413, "too_large")

    assert "100001 bytes; endpoint 'e' takes 100000" in answer.json()["detail"]
    assert mini.is_idle()


def test_a_client_that_sends_its_refused_body_reads_the_413(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 5000000\r\n\r\n")
        client.send(b"x" * 5_000_000)  # a reset would break this, or lose the answer
        refused(client, 413, "too_large")


def test_a_chunked_body_is_413_once_it_is_too_large(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(request("POST", "/x", "Transfer-Encoding: chunked"))
        for _ in range(6):
            client.send(b"4e20\r\n" + b"x" * 20_000 + b"\r\n")
        refused(client, 413, "too_large")
    assert mini.is_idle()


def test_a_chunk_is_413_before_its_data_is_sent(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(request("POST", "/x", "Transfer-Encoding: chunked") + b"fffffff\r\n")
        refused(client, 413, "too_large")


def test_bodies_at_the_limit_are_taken(mini: Mini) -> None:
    with Client(mini.port) as client:
        assert client.post("/x", b"x" * 100_000).answer().body == b"100000"
        assert client.send(chunked("POST", "/x", b"x" * 99_999, b"y")).answer().body == b"100000"


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET /" + b"x" * 9000, 414, "too_large"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414, "too_large"),
        (b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: " + b"y" * 70_000, 431, "too_large"),
        (b"GET /x HTTP/1.1\r\nHost: test\r\n" + b"X-A: b\r\n" * 101, 431, "too_large"),
        (b"GET /x HTTP/1.1\r\nHost: test\r\n" + b"X-A: b\r\n" * 101 + b"\r\n", 431, "too_large"),
        (request("POST", "/x", "Transfer-Encoding: chunked") + b"0\r\n" + b"X-T: y\r\n" * 101, 431, "too_large"),
        (request("POST", "/x", "Transfer-Encoding: chunked") + b"5;" + b"e" * 2000, 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00", 400, "bad_request"),
    ],
    ids=["line", "whole line", "header", "headers", "whole headers", "trailers", "extension", "tls"],
)
def test_heads_over_a_limit_are_refused(mini: Mini, data: bytes, status: int, reason: str) -> None:
    with Client(mini.port) as client:
        refused(client.send(data), status, reason)
    assert mini.is_idle()


def test_a_head_at_the_limits_is_served(mini: Mini) -> None:
    line = b"GET /x?" + b"q" * (8192 - 16) + b" HTTP/1.1\r\n"
    fields = b"Host: test\r\n" + b"X-A: b\r\n" * 98
    last = b"X-Fill: " + b"y" * (64 * 1024 - len(fields) - 8 - 4) + b"\r\n\r\n"
    with Client(mini.port) as client:
        assert client.send(line + fields + last).answer().status == 200


def test_a_slow_head_is_408(mini: Mini) -> None:
    with Client(mini.port) as client:
        for number in range(14):
            client.send(b"GET /x HTTP/1.1\r\n"[number : number + 1])
            settle(mini)
            mini.later(1)
        client.send(b"1")
        settle(mini)
        mini.later(2)
        answer = refused(client, 408, "stalled", "true")
    assert "15 s" in answer.json()["detail"]


def test_a_slow_head_behind_a_served_request_is_408_too(mini: Mini) -> None:
    with Client(mini.port) as client:
        assert client.send(request("GET", "/x") + b"GET /x HT").answer().status == 200
        mini.later(16)
        refused(client, 408, "stalled", "true")


def test_a_connection_without_a_request_is_closed_quietly(mini: Mini) -> None:
    with Client(mini.port) as silent, Client(mini.port) as crlf:
        crlf.send(b"\r\n")
        settle(mini)
        mini.later(16)
        assert silent.is_closed()
        mini.later(60)
        assert crlf.is_closed()
    assert mini.connections() == 0


def test_an_idle_connection_is_kept_and_closed_quietly(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.get("/x").answer()
        mini.later(74)
        client.get("/x").answer()
        mini.later(74)
        assert mini.connections() == 1
        mini.later(2)
        assert client.is_closed()


def test_keep_alive_0_closes_after_each_answer() -> None:
    with Mini(keep_alive_s=0) as mini:
        serve(mini)
        with Client(mini.port) as client:
            assert client.get("/x").answer().closes
            assert client.is_closed()


def test_a_body_that_drips_is_408(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 50000\r\n\r\n")
        for _ in range(21):
            client.send(b"x")
            settle(mini)
            mini.later(0.5)
        answer = refused(client, 408, "stalled", "true")
    assert "min_body_rate" in answer.json()["detail"]
    assert mini.is_idle()


def test_a_body_that_stops_after_a_fast_beginning_is_408(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n" + b"x" * 90_000)
        settle(mini)
        mini.later(10.5)
        assert mini.connections() == 1
        mini.later(10.5)
        refused(client, 408, "stalled", "true")
    assert mini.is_idle()


def test_a_body_at_the_least_rate_is_taken(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 49152\r\n\r\n")
        for _ in range(48):
            client.send(b"x" * 1024)
            settle(mini)
            mini.later(1)
        assert client.answer().body == b"49152"


def test_a_body_that_outlasts_its_request_is_408() -> None:
    with Mini(virtual_time=True, min_body_rate=0) as mini:
        serve(mini)
        with Client(mini.port) as client:
            client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nx")
            settle(mini)
            mini.later(119)
            assert mini.connections() == 1
            mini.later(2)
            answer = refused(client, 408, "stalled", "true")
        assert "'e' gives a request 120 s" in answer.json()["detail"]


def test_beyond_max_connections_there_is_a_503() -> None:
    with Mini(max_connections=2) as mini:
        serve(mini)
        with Client(mini.port) as first, Client(mini.port) as second, Client(mini.port) as third:
            assert (first.get("/x").answer().status, second.get("/x").answer().status) == (200, 200)
            third.get("/x")
            answer = refused(third, 503, "queue_full", "true")
            assert answer["retry-after"] == "1"
            assert "max_connections=2" in answer.json()["detail"]
            first.__exit__()
            eventually(lambda: mini.connections() < 2, "there is room again")
            with Client(mini.port) as fourth:
                assert fourth.get("/x").answer().status == 200


def test_beyond_max_buffered_bytes_there_is_a_503() -> None:
    with Mini(max_buffered_bytes=60_000) as mini:
        serve(mini)
        with Client(mini.port) as holder, Client(mini.port) as announced, Client(mini.port) as streamed:
            holder.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 50001\r\n\r\n" + b"x" * 50_000)
            eventually(lambda: mini.site.held == 50_000, "the first body is held")
            announced.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 10001\r\n\r\n")
            assert refused(announced, 503, "queue_full", "true")["retry-after"] == "1"
            streamed.send(chunked("POST", "/x", b"x" * 20_000)[:-5])
            assert refused(streamed, 503, "queue_full", "true")["retry-after"] == "1"
            assert holder.send(b"x").answer().body == b"50001"
        assert mini.is_idle()
