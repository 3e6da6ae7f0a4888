"""Python calls through handles: arguments, results, waiting, options (cases 29 to 31)."""

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.conditions import eventually
from tests.wire.mini import INSTANCE, Mini

from rayserve import handle as handles
from rayserve.call_result import HandleOptions
from rayserve.context import context
from rayserve.errors import (
    BadRequestError,
    DeadlineError,
    DrainingError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
    NotRunningError,
    QueueFullError,
)  # fmt: skip
from rayserve.handle import ServeHandle


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def serve(mini: Mini, code: Any, config: dict[str, Any] | None = None, **options: Any) -> ServeHandle:
    mini.backend("b", code, config).endpoint("e", None, {"b": 1.0}, **options).publish()
    return mini.handle("e")


class Held:
    def __init__(self) -> None:
        self.began, self.gate = threading.Semaphore(0), threading.Event()

    def __call__(self, word: Any = None) -> Any:
        self.began.release()
        assert self.gate.wait(20)
        return word


def test_case_29_the_backend_is_called_with_exactly_these_arguments(mini: Mini) -> None:
    def echo(first: Any, /, *rest: Any, key: Any = None, **more: Any) -> Any:
        return first, rest, key, more

    handle = serve(mini, echo)
    assert handle.remote(1).result(10) == (1, (), None, {})
    assert handle.remote({"a"}, 2, None, key=b"k", first="x").result(10) == ({"a"}, (2, None), b"k", {"first": "x"})
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        handle.remote().result(10)


def test_case_29_remote_does_not_wait_and_result_may_wait_a_while(mini: Mini) -> None:
    held = Held()
    handle = serve(mini, lambda word: held(word))
    first, second = handle.remote("a"), handle.remote("b")
    assert held.began.acquire(timeout=10)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="the call goes on"):
            first.result(0.001)
    assert not first.done() and not second.done()
    held.gate.set()

    assert (first.result(10), second.result()) == ("a", "b")
    assert first.result() == "a", "as often as one likes"
    assert first.done()


def test_case_29_in_a_running_loop_result_says_await(mini: Mini) -> None:
    handle = serve(mini, lambda x: x)

    async def main() -> None:
        call = handle.remote(1)
        with pytest.raises(RuntimeError, match="`await` the CallResult"):
            call.result(10)
        assert await call == 1
        with pytest.raises(RuntimeError, match="await"):
            call.result(0)

    asyncio.run(main())


def test_case_29_await_works_many_times_from_many_loops(mini: Mini) -> None:
    held = Held()
    handle = serve(mini, lambda word: held(word))
    call = handle.remote("x")
    seen = []

    async def wait() -> None:
        seen.extend(await asyncio.gather(*(_awaited(call) for _ in range(3))))

    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    held.gate.set()
    for thread in threads:
        thread.join(10)

    assert seen == ["x"] * 9
    assert call.result(10) == "x"


async def _awaited(call: Any) -> Any:
    return await call


def test_case_29_a_loop_that_is_gone_harms_nobody(mini: Mini) -> None:
    held = Held()
    handle = serve(mini, lambda word: held(word))
    call = handle.remote("x")

    async def leave() -> None:
        task = asyncio.ensure_future(asyncio.shield(_awaited(call)))
        await asyncio.sleep(0)
        task.cancel()

    loop = asyncio.new_event_loop()
    waiter = loop.create_task(_awaited(call))
    loop.run_until_complete(asyncio.sleep(0))
    waiter._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    held.gate.set()

    assert call.result(10) == "x"


def test_case_29_results_as_arguments_arrive_as_values(mini: Mini) -> None:
    handle = serve(mini, lambda *args, **kwargs: (args, kwargs))
    inner = handle.remote(1)

    assert handle.remote(inner, 2, x=inner).result(10) == ((((1,), {}), 2), {"x": ((1,), {})})


def test_case_29_an_argument_that_failed_fails_the_call(mini: Mini) -> None:
    def divide(a: float, b: float = 1) -> float:
        return a / b

    handle = serve(mini, divide)
    with pytest.raises(ZeroDivisionError):
        handle.remote(handle.remote(1, 0)).result(10)


@pytest.mark.parametrize("wrap", [lambda call: [call], lambda call: {"k": call}, lambda call: (1, (call,))])
def test_case_29_a_result_inside_an_argument_is_a_type_error(mini: Mini, wrap: Any) -> None:
    handle = serve(mini, lambda x: x)
    with pytest.raises(TypeError, match="top-level argument, or await it first"):
        handle.remote(wrap(handle.remote(1)))


def test_an_argument_that_cannot_be_pickled_is_named(mini: Mini) -> None:
    handle = serve(mini, lambda x: x)
    with pytest.raises(InvalidTypeError, match=r"endpoint 'e' cannot be pickled.*lock"):
        handle.remote(threading.Lock())


def test_case_29_refusals_surface_in_the_result(mini: Mini) -> None:
    held = Held()
    handle = serve(mini, lambda word: held(word), {"max_concurrent_queries": 1, "max_queued": 1})
    calls = [handle.remote(number) for number in range(3)]
    with pytest.raises(QueueFullError, match="max_queued=1"):
        calls[2].result(10)
    with pytest.raises(NotFoundError, match="no endpoint 'nope'"):
        ServeHandle(INSTANCE, HandleOptions("nope")).remote().result(10)
    held.gate.set()
    assert [call.result(10) for call in calls[:2]] == [0, 1]


def test_missing_ok_waits_for_an_endpoint_to_come(mini: Mini) -> None:
    serve(mini, lambda x: x)
    call = ServeHandle(INSTANCE, HandleOptions("later", missing_ok=True)).remote("x")
    assert not call.done()
    mini.endpoint("later", None, {"b": 1.0}).publish()

    assert call.result(10) == "x"


@pytest.mark.parametrize("size", [10, 10_000, 3_000_000])
def test_case_29_arrays_travel_beside_the_pickle_and_arrive_writable(mini: Mini, size: int) -> None:
    def double(array: Any) -> Any:
        assert array.flags.writeable
        array *= 2
        return {"array": array, "sum": array.sum()}

    handle = serve(mini, double)
    array = np.arange(size, dtype=np.float64)
    value = handle.remote(array).result(10)
    value["array"] += 1

    assert np.array_equal(value["array"], 2 * np.arange(size) + 1)
    assert array[1] == 1, "the caller's array is its own"


def test_case_30_options_make_another_handle(mini: Mini) -> None:
    class Code:
        def __call__(self, x: int) -> str:
            return f"call {x}"

        def other(self, x: int) -> str:
            return f"other {x}"

    handle = serve(mini, Code)
    other = handle.options(method_name="other", timeout_s=5)

    assert (handle.remote(1).result(10), other.remote(2).result(10)) == ("call 1", "other 2")
    assert other.options(shard_key="k").remote(3).result(10) == "other 3"
    assert repr(other) == "ServeHandle('e', method_name='other', timeout_s=5)"
    with pytest.raises(NotFoundError, match=r'no method "third".*"other"'):
        handle.options("third").remote(1).result(10)
    for wrong, error in (({"timeout_s": 0}, InvalidValueError), ({"timeout_s": "1"}, InvalidTypeError)):
        with pytest.raises(error):
            handle.options(**wrong)
    with pytest.raises(InvalidTypeError):
        handle.options(1)  # type: ignore[arg-type]


class _Above:
    def inherited(self, word: Any = None) -> str:
        return "inherited"


class _Below(_Above):
    def own(self, word: Any = None) -> str:
        return "own"


def test_case_19_an_inherited_method_that_is_listed_can_be_called_by_handle(mini: Mini) -> None:
    mini.endpoint("other", None, {"b": 1.0})
    handle = serve(mini, _Below, call_methods=["inherited"]).options("inherited")
    other = mini.handle("other")

    assert handle.remote().result(10) == "inherited"
    assert handle.request().result(10).text == "inherited"
    assert other.options("own").remote().result(10) == "own"
    with pytest.raises(NotFoundError, match="list it in the endpoint's call_methods"):
        other.options("inherited").remote().result(10)


def test_case_30_timeout_s_is_the_calls_own(mini: Mini) -> None:
    held = Held()
    handle = serve(mini, lambda: held())
    began = time.monotonic()
    with pytest.raises(DeadlineError):
        handle.options(timeout_s=0.1).remote().result(10)
    held.gate.set()

    assert 0.1 <= time.monotonic() - began < 1.0


def test_case_23_the_same_shard_key_goes_to_the_same_backend(mini: Mini) -> None:
    mini.backend("a", lambda: context.backend).backend("b", lambda: context.backend)
    mini.endpoint("e", None, {"a": 0.5, "b": 0.5}).publish()
    handle = mini.handle("e")
    seen = {key: {handle.options(shard_key=key).remote().result(10) for _ in range(5)} for key in "abcdefgh"}

    assert all(len(backends) == 1 for backends in seen.values())
    assert len(set.union(*seen.values())) == 2


def test_case_30_handles_can_be_pickled(mini: Mini) -> None:
    handle = serve(mini, lambda x: x)
    copy = pickle.loads(pickle.dumps(handle.options("__call__", shard_key="k", timeout_s=3)))

    assert copy.remote(1).result(10) == 1
    assert repr(copy) == "ServeHandle('e', method_name='__call__', shard_key='k', timeout_s=3)"


def test_a_process_that_is_not_connected_is_told_so() -> None:
    with pytest.raises(NotRunningError, match=r'instance "elsewhere"; call serve.init'):
        ServeHandle("elsewhere", HandleOptions("e")).remote(1)


def test_disconnecting_ends_every_call(mini: Mini) -> None:
    held = Held()
    handle = serve(mini, lambda word: held(word))
    waiting = [handle.remote(number) for number in range(3)]
    waiting.append(handle.remote(waiting[0]))
    io = handles.thread_of(INSTANCE)
    handles.disconnect(INSTANCE)
    late = waiting[0]
    for call in waiting:
        with pytest.raises(DrainingError):
            call.result(10)
    with pytest.raises(NotRunningError):
        handle.remote(1)
    io.submit(late)  # one that was under way when the thread ended
    held.gate.set()


def test_a_call_without_argument_trouble_is_refused_beyond_depth_32(
    mini: Mini, caplog: pytest.LogCaptureFixture
) -> None:
    async def again(depth: int) -> Any:
        return await mini.handle("e").remote(depth + 1)

    handle = serve(mini, again)
    with pytest.raises(BadRequestError, match="nested deeper than 32 at endpoint 'e'; does it call itself"):
        handle.remote(0).result(20)
    eventually(lambda: all(replica._intake.admitted == 0 for replica in mini.replicas.values()), "all have ended")
    told = [record.getMessage() for record in caplog.records if "failed in user code" in record.getMessage()]
    assert len(told) == 33
    assert "… 28 more, of the calls between; the logs of their replicas have them" in told[-1]
    assert max(text.count("\n") for text in told) < 80
