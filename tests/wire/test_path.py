"""A request's whole way on one machine, without Ray."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.wire.mini import Mini

from rayserve.context import context


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def test_a_json_post_comes_back_doubled(mini: Mini) -> None:
    mini.backend("b", lambda request: {"y": 2 * request.get_json()["x"]}).endpoint("e", "/x", {"b": 1.0}).publish()

    answer = mini.post("/x", b'{"x": 21}', {"content-type": "application/json"})

    assert (answer.status, answer.json()) == (200, {"y": 42})
    assert answer["x-serve-backend"] == "b"


def test_a_large_body_goes_there_and_back(mini: Mini) -> None:
    mini.backend("b", lambda request: request.data[::-1]).endpoint("e", "/x", {"b": 1.0}).publish()
    body = bytes(range(256)) * 8192

    assert mini.post("/x", body).body == body[::-1]


def test_an_async_handler_answers(mini: Mini) -> None:
    async def shout(request: Any) -> str:
        return str(request.data.decode().upper())

    mini.backend("b", shout).endpoint("e", "/x", {"b": 1.0}).publish()

    assert mini.post("/x", b"abc").body == b"ABC"


def test_a_handle_gets_the_value_itself(mini: Mini) -> None:
    mini.backend("b", lambda a, b: {a, b}).endpoint("e", None, {"b": 1.0}).publish()

    assert mini.handle("e").remote(1, b=2).result(10) == {1, 2}


def test_a_batch_gathers_what_waits_behind_a_gate(mini: Mini) -> None:
    from rayserve.batching import accept_batch

    entered, gate = threading.Event(), threading.Event()
    sizes = []

    @accept_batch
    def together(requests: list[Any]) -> list[int]:
        sizes.append(context.batch_size)
        entered.set()
        gate.wait(10)
        return [len(requests)] * len(requests)

    mini.backend("b", together, {"max_batch_size": 5}).endpoint("e", None, {"b": 1.0}).publish()
    handle = mini.handle("e")
    first = handle.remote("x")
    assert entered.wait(10)
    others = [handle.remote("x") for _ in range(10)]
    gate.set()

    assert first.result(10) == 1
    assert all(other.result(10) <= 5 for other in others)
    assert len(sizes) < 11
