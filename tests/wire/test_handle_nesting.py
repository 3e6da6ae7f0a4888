"""Calls inside calls: budgets, contexts, exceptions and cancellations on their way down and up (cases 29 to 31)."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini

from rayserve import handle as handles
from rayserve.batching import accept_batch
from rayserve.context import context
from rayserve.errors import CallCancelledError, DeadlineError, HTTPError, QueueFullError, UserCodeError


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def chain(mini: Mini, outer: Any, inner: Any, **options: Any) -> Any:
    mini.backend("inner", inner, {"max_concurrent_queries": 8}).backend("outer", outer)
    mini.endpoint("inner", None, {"inner": 1.0}, **options).endpoint("outer", "/outer", {"outer": 1.0}).publish()
    return mini.handle("outer")


def facts() -> dict[str, Any]:
    return {"web": context.web, "id": context.request_id, "deadline": context.deadline, "trace": context.traceparent}


def test_case_31_web_is_true_by_http_and_false_by_handle_and_the_request_id_travels(mini: Mini) -> None:
    chain(mini, lambda _: [facts(), mini.handle("inner").remote().result(10)], facts)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = mini.get("/outer", {"x-request-id": "abc", "traceparent": trace}).json()

    assert [each["web"] for each in answer] == [True, False]
    assert [each["id"] for each in answer] == ["abc", "abc"]
    assert [each["trace"] for each in answer] == [trace, trace]


def test_one_deadline_is_the_budget_of_all_nested_calls(mini: Mini) -> None:
    handle = chain(mini, lambda: [facts(), mini.handle("inner").remote().result(10)], facts, timeout_s=1000)
    outer, inner = handle.options(timeout_s=5.0).remote().result(10)

    assert abs(outer["deadline"] - inner["deadline"]) < 0.05


def test_when_the_budget_is_spent_the_nested_call_ends_too(mini: Mini) -> None:
    seen: list[Any] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("inner")
            raise

    def outer() -> None:
        try:
            mini.handle("inner").remote().result()
        except Exception as error:
            seen.append(type(error))

    handle = chain(mini, outer, inner)
    with pytest.raises(DeadlineError):
        handle.options(timeout_s=0.2).remote().result(10)
    eventually(lambda: len(seen) == 2, "both have heard")

    assert "inner" in seen
    assert not {DeadlineError, CallCancelledError}.isdisjoint(seen)


@pytest.mark.parametrize("kind", ["sync", "async", "forgotten", "batch", "async batch"])
def test_cancelling_a_call_cancels_what_it_called(mini: Mini, kind: str) -> None:
    began, ended = threading.Semaphore(0), threading.Semaphore(0)

    async def inner() -> None:
        began.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.release()
            raise

    def sync() -> None:
        mini.handle("inner").remote().result()

    async def awaited() -> None:
        await mini.handle("inner").remote()

    async def forgotten() -> None:
        _call = mini.handle("inner").remote()
        await asyncio.sleep(60)

    @accept_batch
    def batch(words: list[Any]) -> None:
        mini.handle("inner").remote().result()

    @accept_batch
    async def async_batch(words: list[Any]) -> None:
        await forgotten()

    codes = {"sync": sync, "async": awaited, "forgotten": forgotten, "batch": batch, "async batch": async_batch}
    handle = chain(mini, codes[kind], inner)
    call = handle.remote(*["word"] * ("batch" in kind))
    assert began.acquire(timeout=10)
    call.cancel()
    call.cancel()

    assert ended.acquire(timeout=10)
    with pytest.raises(CallCancelledError, match="endpoint 'outer' was cancelled"):
        call.result(10)
    eventually(lambda: all(replica._intake.admitted == 0 for replica in mini.replicas.values()), "all slots are free")


def test_cancelling_a_queued_call_keeps_it_from_the_handler(mini: Mini) -> None:
    began, gate, ran = threading.Semaphore(0), threading.Event(), []

    def handler(number: int) -> int:
        ran.append(number)
        began.release()
        gate.wait(10)
        return number

    mini.backend("b", handler, {"max_concurrent_queries": 2}).endpoint("e", None, {"b": 1.0}).publish()
    calls = [mini.handle("e").remote(number) for number in range(4)]  # one runs, one is queued there, two wait here
    assert began.acquire(timeout=10)
    (io,) = handles._threads.values()
    calls[1].cancel()
    calls[3].cancel()
    eventually(lambda: io.router.held() == 2, "both are gone")
    gate.set()

    assert [calls[number].result(10) for number in (0, 2)] == [0, 2]
    assert ran == [0, 2]


def test_an_awaited_call_is_cancelled_with_the_task_that_waits(mini: Mini) -> None:
    began, ended = threading.Semaphore(0), threading.Semaphore(0)

    async def handler() -> None:
        began.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.release()
            raise

    mini.backend("b", handler).endpoint("e", None, {"b": 1.0}).publish()
    call = mini.handle("e").remote()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await call

    asyncio.run(main())
    assert began.acquire(timeout=10) and ended.acquire(timeout=10)
    with pytest.raises(CallCancelledError):
        call.result(0)


def test_dropping_a_result_cancels_nothing(mini: Mini) -> None:
    ran = threading.Event()
    mini.backend("b", lambda: ran.set()).endpoint("e", None, {"b": 1.0}).publish()
    mini.handle("e").remote()

    assert ran.wait(10)


def test_a_call_cancelled_after_it_ended_keeps_its_value(mini: Mini) -> None:
    mini.backend("b", lambda: 1).endpoint("e", None, {"b": 1.0}).publish()
    call = mini.handle("e").remote()
    assert call.result(10) == 1
    call.cancel()
    assert call.result(0) == 1


# -- exceptions -----------------------------------------------------------------------------------------


class Plain(Exception):
    pass


class Fussy(ValueError):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why


class Prefixed(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(f"prefix {text}")


class Carries(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def raising(error: type[BaseException], *args: Any, **kwargs: Any) -> None:
    raise error(*args, **kwargs)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_case_29_exceptions_come_back_as_their_own_class(mini: Mini, kind: str) -> None:
    async def awaited(error: type[BaseException], *args: Any, **kwargs: Any) -> None:
        raise error(*args, **kwargs)

    mini.backend("b", awaited if kind == "async" else raising).endpoint("e", None, {"b": 1.0}).publish()
    handle = mini.handle("e")
    with pytest.raises(Plain) as plain:
        handle.remote(Plain, "a", 2).result(10)
    assert plain.value.args == ("a", 2)
    assert "raised in the replica" in plain.value.__notes__[0] and "raise error(" in plain.value.__notes__[0]
    with pytest.raises(Fussy) as fussy:
        handle.remote(Fussy, 7, why="so").result(10)
    assert (str(fussy.value), fussy.value.code, fussy.value.why) == ("7: so", 7, "so")
    with pytest.raises(Prefixed) as prefixed:
        handle.remote(Prefixed, "x").result(10)
    assert str(prefixed.value) == "prefix x", "its constructor ran once"
    with pytest.raises(Carries) as carries:
        handle.remote(Carries, "text").result(10)
    assert str(carries.value) == "text" and not hasattr(carries.value, "lock")
    with pytest.raises(HTTPError) as http:
        handle.remote(HTTPError, 418, {"tea": 1}).result(10)
    assert (http.value.status, http.value.detail) == (418, {"tea": 1})
    with pytest.raises(UserCodeError, match="SystemExit: 3"):
        handle.remote(SystemExit, 3).result(10)


def test_an_exception_of_a_local_class_still_tells_its_text(mini: Mini) -> None:
    def local() -> None:
        class Local(Exception):
            pass

        raise Local("what happened")

    mini.backend("b", local).endpoint("e", None, {"b": 1.0}).publish()
    with pytest.raises(UserCodeError, match="Local: what happened"):  # plain pickle here; on Ray it travels by value
        mini.handle("e").remote().result(10)


def test_an_exception_passes_through_every_call_above_it(mini: Mini) -> None:
    handle = chain(mini, lambda: mini.handle("inner").remote().result(10), lambda: raising(Fussy, 1, why="deep"))
    with pytest.raises(Fussy, match="1: deep"):
        handle.remote().result(10)


def test_a_refusal_below_does_not_promise_that_nothing_was_started(mini: Mini) -> None:
    handle = chain(mini, lambda: raising(QueueFullError, "3 calls wait already"), lambda: None)
    with pytest.raises(QueueFullError) as refused:
        handle.remote().result(10)
    assert (refused.value.retriable, QueueFullError("here").retriable) == ("unknown", "true")
