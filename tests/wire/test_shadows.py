"""Shadow traffic: copies that nobody waits for."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini

from rayserve.model.table import Endpoint, Traffic


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def shadow(mini: Mini, share: float) -> None:
    mini._endpoints["e"] = Endpoint("e", "/x", ("GET", "POST"), Traffic({"b": 1.0}, {"s": share}))
    mini.publish()


def test_case_24_a_shadow_gets_a_copy_and_the_caller_only_the_answer(mini: Mini) -> None:
    seen: list[bytes] = []
    mini.backend("b", lambda request: request.data.upper()).backend("s", lambda request: seen.append(request.data))
    shadow(mini, 1.0)

    assert mini.post("/x", b"abc").body == b"ABC"
    eventually(lambda: seen == [b"abc"], "the copy has come")


def test_case_24_errors_and_slowness_of_a_shadow_never_reach_the_caller(mini: Mini) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(request: Any) -> None:
        entered.set()
        gate.wait(10)
        raise ValueError("late and wrong")

    mini.backend("b", lambda: "answer").backend("s", slow, {"max_queued": 0, "max_concurrent_queries": 1})
    shadow(mini, 1.0)

    for _ in range(20):
        assert mini.get("/x").body == b"answer"
    assert entered.wait(10)
    gate.set()
    eventually(lambda: mini.held() == 0, "every slot is free")


def test_case_24_a_share_of_0_copies_nothing_and_a_share_some(mini: Mini) -> None:
    count = 0

    def note() -> None:
        nonlocal count
        count += 1

    mini.backend("b", lambda: "answer").backend("s", note)
    shadow(mini, 0.5)
    for _ in range(200):
        mini.get("/x")
    eventually(lambda: mini.held() == 0, "all copies are through")
    assert 50 < count < 150  # 7 standard deviations

    before = count
    mini._endpoints["e"] = Endpoint("e", "/x", ("GET",), Traffic({"b": 1.0}))
    mini.publish()
    for _ in range(20):
        mini.get("/x")
    assert count == before


def test_case_24_a_large_body_is_copied_whole(mini: Mini) -> None:
    sizes: list[int] = []
    mini.backend("b", lambda request: str(len(request.data))).backend("s", lambda r: sizes.append(len(r.data)))
    shadow(mini, 1.0)

    assert mini.post("/x", bytes(2_000_000)).body == b"2000000"
    eventually(lambda: sizes == [2_000_000], "the copy has come")
