"""Clients that go away, stop halfway, or take nothing: whatever they do, nothing of theirs is kept."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Client, chunked, request
from tests.wire.mini import Mini

from rayserve.context import context

LARGE = 20 * 2**20  # more than the sockets' buffers take


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini(virtual_time=True) as running:
        running.backend("b", lambda request: request.data or "served")
        running.backend("large", lambda: b"x" * LARGE)
        running.endpoint("e", "/x", {"b": 1.0}).endpoint("large", "/large", {"large": 1.0}).endpoint("wait", "/wait")
        yield running.publish()


def leave_by_reset(client: Client) -> None:
    client.reset()


def leave_by_close(client: Client) -> None:
    client.sock.close()


LEAVE = pytest.mark.parametrize("leave", [leave_by_reset, leave_by_close])


def let_it_be_noticed(mini: Mini) -> None:
    eventually(lambda: all(each.running("wait") for each in mini.clients()), "the ingress has heard of it")
    mini.later(2)


def assert_nothing_is_kept(mini: Mini) -> None:
    let_it_be_noticed(mini)
    eventually(lambda: mini.is_idle() and not mini.connections(), "nothing of the client is kept")
    assert mini.get("/x").status == 200


@LEAVE
@pytest.mark.parametrize(
    "sent",
    [
        b"", b"GET /x HT", b"GET /x HTTP/1.1\r\nHost: test\r\n",
        b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nbody", chunked("POST", "/x", b"y" * 5000)[:-9],
        b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 999999\r\n\r\n" + b"y" * 400_000,
    ],
    ids=["nothing", "line", "fields", "no body", "half a body", "half a chunk", "half a large body"],
)  # fmt: skip
def test_a_client_that_leaves_before_its_request_is_whole(
    mini: Mini, leave: Callable[[Client], None], sent: bytes
) -> None:
    client = Client(mini.port).send(sent)
    eventually(lambda: mini.connections() == 1, "it is connected")
    leave(client)
    assert_nothing_is_kept(mini)


@LEAVE
def test_a_client_that_leaves_while_it_waits(mini: Mini, leave: Callable[[Client], None]) -> None:
    client = Client(mini.port).send(request("GET", "/wait") * 3 + request("POST", "/wait", body=b"x" * 300_000))
    eventually(lambda: mini.held() == 4, "its requests wait")
    leave(client)
    assert_nothing_is_kept(mini)


@LEAVE
def test_a_client_that_leaves_while_its_call_runs(mini: Mini, leave: Callable[[Client], None]) -> None:
    entered, cancelled, gate = threading.Event(), threading.Event(), threading.Event()

    def handler() -> None:
        entered.set()
        while not gate.wait(0.01):
            if context.cancelled:
                cancelled.set()
                return

    mini.backend("slow", handler).endpoint("slow", "/slow", {"slow": 1.0}).publish()
    client = Client(mini.port).get("/slow")
    assert entered.wait(10)
    leave(client)
    let_it_be_noticed(mini)
    assert cancelled.wait(10)
    gate.set()
    assert_nothing_is_kept(mini)


@LEAVE
def test_a_client_that_leaves_in_the_middle_of_its_answer(mini: Mini, leave: Callable[[Client], None]) -> None:
    client = Client(mini.port, receive_buffer=65536).get("/large")
    client.read(100_000)
    leave(client)
    assert_nothing_is_kept(mini)


def test_clients_that_leave_at_random_points(mini: Mini) -> None:
    choose = random.Random(7)
    data = request("GET", "/x") + chunked("POST", "/x", b"a" * 300, b"b") + request("GET", "/wait") + b"GET /x"
    for _ in range(200):
        client = Client(mini.port).send(data[: choose.randrange(len(data))])
        choose.choice((leave_by_reset, leave_by_close))(client)
    assert_nothing_is_kept(mini)


def test_a_half_closed_client_gets_its_answers(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(request("GET", "/x") * 20 + request("POST", "/x", body=b"last")).half_close()
        bodies = [client.answer().body for _ in range(20)]
        last = client.answer()
        assert client.is_closed()

    assert bodies == [b"served"] * 20
    assert (last.body, last.closes) == (b"last", True)


def test_a_half_closed_client_gets_a_large_answer_whole(mini: Mini) -> None:
    with Client(mini.port) as client:
        assert len(client.get("/large").half_close().answer().body) == LARGE


def test_a_client_that_half_closes_within_its_body_gets_a_400(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(
            request("GET", "/x") + b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nbody"
        ).half_close()

        assert client.answer().body == b"served"
        answer = client.answer()
        assert (answer.status, answer.reason, answer.closes) == (400, "bad_request", True)
        assert client.is_closed()


def test_a_half_closed_client_is_not_waited_for_long() -> None:
    with Mini(virtual_time=True) as mini, Client(mini.port) as client:
        mini.endpoint("wait", "/wait").publish()
        client.get("/wait").half_close()
        eventually(lambda: mini.held() == 1, "its request waits")
        mini.later(1)
        assert mini.held() == 1
        mini.later(1)
        assert client.is_closed()
        assert mini.is_idle()


def paused(mini: Mini) -> bool:
    return any(each.stuck for each in mini.clients())


def test_a_client_that_takes_nothing_for_30_s_is_cut() -> None:
    with Mini(virtual_time=True) as mini, Client(mini.port, receive_buffer=65536) as client:
        mini.backend("large", lambda: b"x" * LARGE).endpoint("large", "/large", {"large": 1.0}).publish()
        client.get("/large")
        eventually(lambda: paused(mini), "it does not take its answer")
        mini.later(62)  # at the first look it may have taken what fits into the kernel's buffers
        assert mini.connections() == 0
        eventually(mini.is_idle, "its call is given up")


def test_a_client_that_takes_its_answer_slowly_is_served() -> None:
    with Mini(virtual_time=True) as mini, Client(mini.port, receive_buffer=65536) as client:
        mini.backend("large", lambda: b"x" * LARGE).endpoint("large", "/large", {"large": 1.0}).publish()
        client.get("/large")
        eventually(lambda: paused(mini), "it does not take its answer")
        taken = 0
        while taken < LARGE:
            taken += len(client.read(2**20))
            mini.later(25)

        assert mini.is_idle()


@pytest.mark.parametrize("fields", [(), ("Connection: close",)])
def test_a_client_that_never_reads_a_small_rest_is_cut_too(fields: tuple[str, ...]) -> None:
    with Mini(virtual_time=True) as mini, Client(mini.port, receive_buffer=4096) as client:
        mini.backend("b", lambda: b"x" * 250_000).endpoint("e", "/x", {"b": 1.0}).publish()
        sock: Any = client.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 64 * 1024
        client.send(request("GET", "/x") * 15 + request("GET", "/x", *fields))
        eventually(lambda: not mini.held(), "all is answered, and most of it not taken")
        mini.later(200)
        assert mini.connections() == 0
        assert mini.is_idle()
