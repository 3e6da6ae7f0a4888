"""User code that does what it should not: the right caller hears of it, nothing is leaked, the next call is served."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini

from rayserve.errors import BadRequestError, DeadlineError, NotFoundError


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(lambda: running.is_idle() and not admitted(running), "every slot is free again")


def admitted(mini: Mini) -> int:
    return sum(replica._intake.admitted for replica in mini.replicas.values())


def test_an_async_generator_that_never_awaits_leaves_others_their_turn(mini: Mini) -> None:
    class Service:
        async def endless(self) -> AsyncIterator[str]:
            while True:
                yield ""
                yield "x"

        async def quick(self) -> str:
            return "served"

    mini.backend("b", Service).endpoint("e", "/e", {"b": 1.0}).publish()
    stream = iter(mini.handle("e").options("endless").remote())
    assert next(stream) == ""
    assert mini.get("/e", {"x-serve-call-method": "quick"}).body == b"served"
    stream.close()


@pytest.mark.parametrize("way", ["call", "stream"])
def test_a_handler_that_goes_on_after_its_cancellation_blocks_nobody(mini: Mini, way: str) -> None:
    began, heard, gate = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    async def stubborn() -> None:
        began.release()
        while not gate.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                heard.release()

    class Service:
        async def call(self) -> str:
            await stubborn()
            return "late"

        async def stream(self) -> AsyncIterator[str]:
            yield "first"
            await stubborn()
            yield "late"

        async def quick(self) -> str:
            return "served"

    mini.backend("b", Service).endpoint("e", None, {"b": 1.0}).publish()
    call = mini.handle("e").options(way).remote()
    if way == "stream":
        stream = iter(call)
        assert next(stream) == "first"
        assert began.acquire(timeout=10)
        stream.close()
    else:
        assert began.acquire(timeout=10)
        call.cancel()
    assert heard.acquire(timeout=10)
    assert mini.handle("e").options("quick").remote().result(10) == "served"
    assert admitted(mini) == 1, "it holds its slot as long as it runs"
    gate.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_nested_call_to_an_unknown_endpoint_is_the_handlers_own_error(
    mini: Mini, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Sync:
        def __call__(self) -> Any:
            return mini.handle("nope").remote().result(10)

        def quick(self) -> str:
            return "served"

    class Async:
        async def __call__(self) -> Any:
            return await mini.handle("nope").remote()

        async def quick(self) -> str:
            return "served"

    mini.backend("b", Sync if kind == "sync" else Async).endpoint("e", "/e", {"b": 1.0}).publish()
    answer = mini.get("/e")
    assert (answer.status, answer["x-serve-reason"]) == (500, "user_exception"), "the client asked for one that exists"
    assert "no endpoint 'nope'" in caplog.text
    with pytest.raises(NotFoundError, match="no endpoint 'nope'"):
        mini.handle("e").remote().result(10)
    assert mini.get("/e", {"x-serve-call-method": "quick"}).body == b"served"


def test_what_a_handler_passes_on_of_a_full_or_late_endpoint_keeps_its_reason(mini: Mini) -> None:
    gate = threading.Event()

    def held() -> None:
        assert gate.wait(20)

    async def outer() -> Any:
        return await mini.handle("inner").options(timeout_s=0.05).remote()

    mini.backend("inner", held).backend("outer", outer)
    mini.endpoint("inner", None, {"inner": 1.0}).endpoint("e", "/e", {"outer": 1.0}).publish()
    answer = mini.get("/e")
    gate.set()

    assert (answer.status, answer["x-serve-reason"]) == (504, "deadline")


def test_a_sync_endpoint_that_calls_itself_waits_for_itself_until_its_deadline(mini: Mini) -> None:
    entered: list[float] = []

    def itself(depth: int = 0) -> Any:
        entered.append(time.monotonic())
        return mini.handle("e").remote(depth + 1).result()

    mini.backend("b", itself).backend("other", lambda: "served")
    mini.endpoint("e", None, {"b": 1.0}).endpoint("other", None, {"other": 1.0}).publish()
    call = mini.handle("e").options(timeout_s=0.3).remote()
    eventually(lambda: entered, "it runs")
    assert mini.handle("other").remote().result(10) == "served", "others are not held up"
    with pytest.raises(DeadlineError):
        call.result(10)
    eventually(lambda: not admitted(mini), "it has let go of itself")
    # The calls inside wait behind the outer one, whose time is theirs; but for its accuracy none begins after it.
    assert entered[-1] - entered[0] < 0.3 + 0.02


@pytest.mark.parametrize("way", ["http", "remote", "request"])
def test_an_endpoint_that_calls_itself_for_ever_is_refused_at_depth_32(
    mini: Mini, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    entered: list[None] = []

    async def itself(_: Any = None) -> Any:
        entered.append(None)
        if way == "request":
            return (await mini.handle("e").request()).content
        return await mini.handle("e").remote()

    mini.backend("b", itself).endpoint("e", "/e", {"b": 1.0}).publish()
    if way == "http":
        assert mini.get("/e").status == 500
        assert "nested deeper than 32 at endpoint 'e'; does it call itself?" in caplog.text
    else:
        handle = mini.handle("e")
        call = handle.remote() if way == "remote" else handle.request()
        with pytest.raises(BadRequestError, match="nested deeper than 32 at endpoint 'e'; does it call itself"):
            call.result(20)
    assert len(entered) == 33


def test_the_time_given_at_the_edge_is_the_budget_of_all_nested_calls(mini: Mini) -> None:
    """Three deep: what the client's header leaves is shared by all, and what comes too late never runs."""
    gate, ran = threading.Event(), []

    def last(number: int) -> None:
        ran.append(number)
        assert gate.wait(20)

    async def middle(number: int) -> Any:
        return await mini.handle("last").remote(number)

    async def edge() -> Any:
        return await asyncio.gather(*(mini.handle("middle").remote(number) for number in range(4)))

    mini.backend("last", last).backend("middle", middle).backend("edge", edge)
    mini.endpoint("last", None, {"last": 1.0}).endpoint("middle", None, {"middle": 1.0})
    mini.endpoint("e", "/e", {"edge": 1.0}).publish()
    answer = mini.get("/e", {"x-request-timeout-ms": "300"})
    assert (answer.status, answer["x-serve-reason"]) == (504, "deadline")
    assert len(ran) == 1, "the others waited for the thread of user code"
    eventually(lambda: admitted(mini) == 1, "the replicas have heard that nobody waits")
    gate.set()
    eventually(lambda: not admitted(mini), "nothing is left of them")

    assert len(ran) == 1, "expired work never runs"


def test_a_nested_exception_tells_each_level_once(mini: Mini) -> None:
    async def countdown(left: int) -> Any:
        if not left:
            raise KeyError("at the bottom")
        return await mini.handle("e").remote(left - 1)

    mini.backend("b", countdown).endpoint("e", None, {"b": 1.0}).publish()
    with pytest.raises(KeyError, match="at the bottom") as raised:
        mini.handle("e").remote(20).result(20)

    assert len(raised.value.__notes__) == 21
    assert sum(map(len, raised.value.__notes__)) < 21 * 1000
