"""Many requests on one connection: order, bounds, and delivery in whatever pieces the network makes."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Client, chunked, request
from tests.wire.mini import Mini


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


class Gates:
    """An async backend whose calls are answered in the order in which the test opens their gates."""

    entered = 0
    most = 0
    gates: dict[str, asyncio.Event]
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        Gates.entered = Gates.most = 0
        Gates.gates = {}

    async def __call__(self, request: Any) -> str:
        Gates.loop = asyncio.get_running_loop()
        Gates.entered += 1
        Gates.most = max(Gates.most, Gates.entered)
        name = str(request.args["n"])
        gate = Gates.gates.setdefault(name, asyncio.Event())
        await gate.wait()
        Gates.entered -= 1
        return name * int(request.args.get("times", "1"))

    @staticmethod
    def open(name: str) -> None:
        Gates.loop.call_soon_threadsafe(lambda: Gates.gates.setdefault(name, asyncio.Event()).set())


def test_answers_keep_the_order_of_their_requests(mini: Mini) -> None:
    mini.backend("b", Gates).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        client.send(b"".join(request("GET", f"/x?n={n}") for n in "abc") + request("GET", "/nowhere"))
        eventually(lambda: Gates.entered == 3, "all three are under way")
        for name in "cab":
            Gates.open(name)

        assert [client.answer().body for _ in "abc"] == [b"a", b"b", b"c"]
        assert client.answer().status == 404
    assert mini.is_idle()


def test_a_large_answer_waits_for_its_turn_too(mini: Mini) -> None:
    mini.backend("b", Gates).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        client.send(b"".join(request("GET", f"/x?n={n}&times=1000000") for n in "abc"))
        eventually(lambda: Gates.entered == 3, "all three are under way")
        for name in "cba":
            Gates.open(name)

        assert [client.answer().body for _ in "abc"] == [b"a" * 10**6, b"b" * 10**6, b"c" * 10**6]
    assert mini.is_idle()


def test_no_more_than_sixteen_requests_of_a_connection_are_under_way(mini: Mini) -> None:
    mini.backend("b", Gates).endpoint("e", "/x", {"b": 1.0}).publish()
    names = [chr(97 + number % 26) + str(number) for number in range(40)]
    with Client(mini.port) as client:
        client.send(b"".join(request("GET", f"/x?n={name}") for name in names))
        eventually(lambda: Gates.entered == 16, "sixteen are under way")
        assert mini.held() == 16
        for name in names:
            Gates.open(name)

        assert [client.answer().body.decode() for _ in names] == names
    assert Gates.most == 16


@pytest.mark.parametrize("path", ["/x", "/nowhere"])
def test_nine_thousand_pipelined_requests_are_all_answered(mini: Mini, path: str) -> None:
    mini.backend("b", lambda: "served").endpoint("e", "/x", {"b": 1.0}).publish()
    data = b"".join(request("GET", path, f"X-Request-Id: {number}") for number in range(9000))
    with Client(mini.port) as client:
        sender = threading.Thread(target=client.send, args=(data,))  # who only sends is not read from for ever
        sender.start()
        answers = [client.answer() for _ in range(9000)]
        sender.join()

    assert [int(answer["x-request-id"]) for answer in answers] == list(range(9000))
    assert {answer.status for answer in answers} == {200 if path == "/x" else 404}


def test_a_client_that_only_sends_is_not_read_from_for_ever(mini: Mini) -> None:
    mini.publish()
    with Client(mini.port, receive_buffer=4096) as client:
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):  # the server stopped reading: its answers are not taken
            for _ in range(2000):
                client.send(request("GET", "/nowhere") * 1000)
        assert mini.unsent() < 2**20


def test_what_follows_a_close_is_not_served(mini: Mini) -> None:
    seen = []
    mini.backend("b", lambda request: seen.append(request.args["n"])).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        client.send(request("GET", "/x?n=1") + request("GET", "/x?n=2", "Connection: close") + request("GET", "/x?n=3"))
        first, second = client.answer(), client.answer()
        assert client.is_closed()

    assert not first.closes
    assert second.closes
    assert seen == ["1", "2"]


def test_an_http_1_0_client_that_pipelines_gets_what_it_may(mini: Mini) -> None:
    mini.backend("b", lambda request: request.args["n"]).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        client.send(request("GET", "/x?n=1", "Connection: keep-alive", version="1.0") + request("GET", "/x?n=2"))

        assert client.answer(version="1.0").body == b"1"
        assert client.answer().body == b"2"


STREAM = (
    b"\r\n" + request("GET", "/x?n=1", "X-Long: " + "y" * 30)
    + request("POST", "/x?n=2", body=b"four") + b"\r\n\r\n"
    + chunked("POST", "/x?n=3", b"a", b"bc" * 10, fields=("Trailer: T",))[:-2] + b"T: 1\r\n\r\n"
    + request("GET", "/x?n=4", "Connection: close")
)  # fmt: skip
ANSWERS = [b"1", b"2four", b"3a" + b"bc" * 10, b"4"]


def test_requests_are_understood_however_they_are_cut_in_two(mini: Mini) -> None:
    mini.backend("b", lambda request: request.args["n"] + request.data.decode()).endpoint("e", "/x", {"b": 1.0})
    mini.publish()
    for cut in range(1, len(STREAM)):
        with Client(mini.port) as client:
            client.send(STREAM[:cut])
            mini.on_front(lambda: None)  # the first part has been read before the second one is sent
            client.send(STREAM[cut:])
            assert [client.answer().body for _ in ANSWERS] == ANSWERS, f"cut at {cut}"
            assert client.is_closed()


def test_requests_are_understood_byte_by_byte(mini: Mini) -> None:
    mini.backend("b", lambda request: request.args["n"] + request.data.decode()).endpoint("e", "/x", {"b": 1.0})
    mini.publish()
    with Client(mini.port) as client:
        for position in range(len(STREAM)):
            client.send(STREAM[position : position + 1])
            mini.on_front(lambda: None)
        assert [client.answer().body for _ in ANSWERS] == ANSWERS
        assert client.is_closed()
    assert mini.is_idle()
