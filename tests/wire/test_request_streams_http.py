"""Streamed request bodies as clients see them: pace, limits, early answers, and what is kept meanwhile."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Client, chunked, request
from tests.wire.mini import Mini
from tests.wire.processes import start

from rayserve.model.table import Endpoint, Traffic
from rayserve.replica.inflow import Broken

MIB = 2**20
STREAM = {"stream_request": True}


class Gate:
    """A handler that reads nothing before its gate opens; then counts the bytes."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.error: BaseException | None = None
        self.ended = threading.Event()

    async def __call__(self, request: Any) -> Any:
        self.entered.set()
        while not self.open.is_set():
            await asyncio.sleep(0.001)
        size = 0
        async for piece in request.stream:
            size += len(piece)
        return size


def reads(gate: Gate) -> Callable[[Any], Any]:
    def handler(request: Any) -> Any:
        try:
            request.stream.read(5)
            gate.entered.set()
            return 5 + len(request.stream.read())
        except BaseException as error:
            gate.error = error
            raise
        finally:
            gate.ended.set()

    return handler


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini(virtual_time=True) as running:
        yield running


def serve(mini: Mini, code: Any, config: dict[str, Any] | None = None, **endpoint: Any) -> None:
    mini.backend("b", code, config or STREAM).endpoint("e", "/x", {"b": 1.0}, **endpoint).publish()


def send_until_stuck(client: Client, most: int) -> int:
    """Send zeros until the server takes no more for a while; return how many it took."""
    client.sock.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while sent < most:
            sent += client.sock.send(bytes(min(65536, most - sent)))
    client.sock.settimeout(10)
    return sent


# -- pace -------------------------------------------------------------------------------------------


def test_a_handler_that_does_not_read_stops_the_client(mini: Mini, gate: Gate) -> None:
    async def handler(request: Any) -> Any:
        return await gate(request)

    serve(mini, handler, timeout_s=600)
    size = 64 * MIB
    with Client(mini.port) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        client.send(request("POST", "/x", f"Content-Length: {size}"))
        assert gate.entered.wait(10)
        sent = send_until_stuck(client, size)
        assert sent < 16 * MIB, "what the sockets' buffers and the credit take"
        assert mini.on_front(lambda: mini.site.held) <= MIB
        mini.later(60)  # the client is not to blame for being slow
        gate.open.set()
        client.send(bytes(size - sent))
        assert client.answer().json() == size
        assert client.post("/x", b"next").answer().json() == 4
    assert mini.is_idle()


def test_a_body_that_waits_in_line_is_bounded_too_and_arrives_whole(mini: Mini, gate: Gate) -> None:
    async def handler(request: Any) -> Any:
        return await gate(request)

    serve(mini, handler, {**STREAM, "max_concurrent_queries": 1}, timeout_s=600)
    size = 32 * MIB
    with Client(mini.port) as first, Client(mini.port) as second:
        first.send(request("POST", "/x", "Transfer-Encoding: chunked"))
        assert gate.entered.wait(10)
        second.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        second.send(request("POST", "/x", f"Content-Length: {size}"))
        sent = send_until_stuck(second, size)
        assert sent < 16 * MIB
        assert mini.on_front(lambda: mini.site.held) <= MIB
        gate.open.set()
        assert first.send(b"0\r\n\r\n").answer().json() == 0
        assert second.send(bytes(size - sent)).answer().json() == size
    assert mini.is_idle()


def test_a_body_larger_than_what_may_be_held_passes(gate: Gate) -> None:
    with Mini(max_buffered_bytes=MIB) as mini:
        serve(mini, reads(gate))
        assert mini.post("/x", bytes(20 * MIB)).json() == 20 * MIB
        mini.backend("whole", lambda request: "").endpoint("whole", "/whole", {"whole": 1.0}).publish()
        with Client(mini.port) as client:
            assert client.send(request("POST", "/whole", f"Content-Length: {20 * MIB}")).answer().status == 503


def test_a_client_that_sends_too_slowly_is_408(mini: Mini, gate: Gate) -> None:
    serve(mini, reads(gate), timeout_s=600)
    with Client(mini.port) as client:
        client.send(request("POST", "/x", f"Content-Length: {MIB}") + b"x" * 20_000)
        assert gate.entered.wait(10)
        mini.later(11)  # within these ten seconds it sent enough
        assert not gate.ended.is_set()
        mini.later(11)
        answer = client.answer()

    assert (answer.status, answer.reason, answer.closes) == (408, "stalled", True)
    assert gate.ended.wait(10)
    assert isinstance(gate.error, Broken)
    eventually(mini.is_idle, "nothing of it is kept")


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "status", "reason"), [(b"zz\r\n", 400, "bad_request"), (b"fffff\r\n", 413, "too_large")]
)
def test_a_body_that_is_refused_in_its_middle_breaks_off_for_the_handler(
    mini: Mini, gate: Gate, bad: bytes, status: int, reason: str
) -> None:
    serve(mini, reads(gate), max_body_bytes=100_000)
    with Client(mini.port) as client:
        client.send(request("POST", "/x", "Transfer-Encoding: chunked") + b"5\r\nfirst\r\n")
        assert gate.entered.wait(10)
        answer = client.send(bad).answer()
        assert client.half_close().is_closed()

    assert (answer.status, answer.reason, answer.closes) == (status, reason, True)
    assert gate.ended.wait(10)
    assert isinstance(gate.error, Broken)
    eventually(mini.is_idle, "nothing of it is kept")


def test_a_body_that_is_announced_too_large_never_reaches_the_handler(mini: Mini, gate: Gate) -> None:
    serve(mini, reads(gate), max_body_bytes=100_000)
    with Client(mini.port) as client:
        answer = client.send(request("POST", "/x", "Content-Length: 300000", "Expect: 100-continue")).answer()

    assert (answer.status, answer.closes) == (413, True)
    assert not gate.ended.is_set()


def test_a_body_that_breaks_a_rule_behind_the_beginning_of_its_answer_cuts_it(mini: Mini) -> None:
    def echo(request: Any) -> Iterator[bytes]:
        while piece := request.stream.read1(1000):
            yield piece

    serve(mini, echo)
    with Client(mini.port) as client:
        client.send(request("POST", "/x", "Transfer-Encoding: chunked") + b"5\r\nfirst\r\n")
        assert client._head()[0] == 200
        assert client.read(10) == b"5\r\nfirst\r\n"
        assert client.send(b"zz\r\n").rest() == b"", "no last chunk"
    eventually(mini.is_idle, "nothing of it is kept")


def test_100_continue_is_said_and_the_body_streams(mini: Mini, gate: Gate) -> None:
    serve(mini, reads(gate))
    with Client(mini.port) as client:
        client.send(request("POST", "/x", f"Content-Length: {MIB}", "Expect: 100-continue"))
        assert client.interim() == 100
        client.send(b"first")
        assert gate.entered.wait(10)
        assert client.send(bytes(MIB - 5)).answer().json() == MIB


# -- answers before the end of the body -----------------------------------------------------------------


def test_an_answer_before_the_end_of_a_small_rest_keeps_the_connection(mini: Mini) -> None:
    serve(mini, lambda request: "early")
    with Client(mini.port) as client:
        client.send(request("POST", "/x", "Transfer-Encoding: chunked"))
        early = client.answer()
        client.send(b"5\r\nlater\r\n0\r\n\r\n" + request("POST", "/x", body=b"x"))
        assert (early.body, early.closes, client.answer().body) == (b"early", False, b"early")
    assert mini.is_idle()


@pytest.mark.parametrize("framing", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
def test_an_answer_before_the_end_of_a_large_rest_ends_the_connection(mini: Mini, framing: str) -> None:
    serve(mini, lambda request: "early", max_body_bytes=100_000_000)
    with Client(mini.port) as client:
        client.send(request("POST", "/x", framing))
        eventually(lambda: client.sock.recv(1, socket.MSG_PEEK), "the answer is there")
        with suppress(ConnectionError):
            client.send(b"100000\r\n" + bytes(20 * MIB))  # a reset before its answer was read would be a loss
        assert client.answer().body == b"early"
        with suppress(ConnectionError):
            assert not client.rest()
    eventually(mini.is_idle, "nothing of it is kept")


def test_an_early_answer_on_a_connection_that_closes_is_read_whole(mini: Mini) -> None:
    serve(mini, lambda request: "early")
    with Client(mini.port) as client:
        client.send(request("POST", "/x", f"Content-Length: {MIB}", "Connection: close") + bytes(1000))
        answer = client.answer()
        client.send(bytes(MIB - 1000))  # dropped, not answered by a reset
        assert (answer.body, answer.closes) == (b"early", True)
        assert client.half_close().is_closed()
    eventually(mini.is_idle, "nothing of it is kept")


def test_an_error_before_the_end_of_the_body_is_an_early_answer_too(mini: Mini) -> None:
    def fails(request: Any) -> Any:
        request.stream.read(5)
        raise ValueError("no")

    serve(mini, fails)
    with Client(mini.port) as client:
        client.send(request("POST", "/x", "Transfer-Encoding: chunked") + b"5\r\nfirst\r\n")
        answer = client.answer()
        client.send(b"0\r\n\r\n" + chunked("POST", "/x", b"again"))
        assert (answer.status, answer.reason, client.answer().status) == (500, "user_exception", 500)


def test_a_client_that_goes_silent_behind_an_early_answer_is_cut(mini: Mini) -> None:
    serve(mini, lambda request: "early")
    with Client(mini.port) as client:
        assert client.send(request("POST", "/x", "Transfer-Encoding: chunked")).answer().body == b"early"
        mini.later(11)
        assert client.is_closed()


# -- pipelines ------------------------------------------------------------------------------------------


def test_a_streamed_body_between_other_requests_of_its_connection(mini: Mini, gate: Gate) -> None:
    async def handler(request: Any) -> Any:
        return await gate(request)

    serve(mini, handler)
    mini.backend("echo", lambda request: request.data).endpoint("echo", "/echo", {"echo": 1.0}).publish()
    with Client(mini.port) as client:
        client.post("/echo", b"one").send(request("POST", "/x", f"Content-Length: {MIB}"))
        assert gate.entered.wait(10)
        gate.open.set()
        client.send(bytes(MIB)).post("/echo", b"three")
        assert [client.answer().body for _ in range(3)] == [b"one", str(MIB).encode(), b"three"]
    assert mini.is_idle()


# -- which endpoints stream -----------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["a backend that wants whole bodies", "a shadow"])
def test_bodies_are_gathered_where_not_all_of_the_traffic_streams(mini: Mini, gate: Gate, other: str) -> None:
    mini.backend("b", reads(gate), STREAM).backend("whole", lambda request: "")
    traffic = Traffic({"b": 0.5, "whole": 0.5}) if "whole" in other else Traffic({"b": 1.0}, {"whole": 1.0})
    mini._endpoints["e"] = Endpoint("e", "/x", ("POST",), traffic)
    mini.publish()
    with Client(mini.port) as client:
        client.send(request("POST", "/x", f"Content-Length: {MIB}") + bytes(500_000))
        eventually(lambda: mini.on_front(lambda: mini.site.held) == 500_000, "it is gathered")
        assert not mini.held()
        assert client.send(bytes(MIB - 500_000)).answer().status == 200
    eventually(mini.is_idle, "the shadow too has ended")


def test_a_change_of_traffic_while_a_call_waits_costs_no_body(mini: Mini, gate: Gate) -> None:
    """The call was begun for a backend that streams; it ends at one that does not, whose replica gathers."""

    async def handler(request: Any) -> Any:
        return await gate(request)

    serve(mini, handler, {**STREAM, "max_concurrent_queries": 1})
    mini.backend("whole", lambda request: [len(request.data)])
    with Client(mini.port) as first, Client(mini.port) as second:
        first.send(request("POST", "/x", "Transfer-Encoding: chunked"))
        assert gate.entered.wait(10)
        second.send(request("POST", "/x", f"Content-Length: {MIB}") + b"first")
        eventually(lambda: mini.held() == 2, "the second waits in line")
        mini.endpoint("e", "/x", {"whole": 1.0}).remove_backend("b")
        mini.publish()
        assert second.send(bytes(MIB - 5)).answer().json() == [MIB]
        gate.open.set()
        assert first.send(b"0\r\n\r\n").answer().status == 200


# -- a replica that dies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "retry", "at_least"), [("POST", "idempotent", 5), ("GET", "always", 200_000)])
def test_a_replica_that_dies_in_the_middle_of_a_body_is_502_and_nothing_is_repeated(
    mini: Mini, tmp_path: Path, method: str, retry: str, at_least: int
) -> None:
    began = tmp_path / "began"
    replicas = start(mini, "b", "tests.wire.subjects:Reads", 2, STREAM)
    try:
        mini.endpoint("e", "/x", {"b": 1.0}, retry=retry).publish()
        with Client(mini.port) as client:
            client.send(request(method, f"/x?began={began}&at_least={at_least}", f"Content-Length: {MIB}"))
            client.send(bytes(at_least))
            eventually(began.exists, "the handler reads")
            pid = int(began.read_text())
            next(each for each in replicas if each.pid == pid).kill()
            client.send(bytes(1000))
            answer = client.answer()
            assert began.read_text().split() == [str(pid)]

        assert (answer.status, answer.reason, answer["x-serve-retriable"]) == (502, "replica_lost", "unknown")
        eventually(mini.is_idle, "nothing of it is kept")
    finally:
        for each in replicas:
            each.end()
