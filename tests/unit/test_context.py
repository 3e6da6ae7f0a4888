import asyncio
import contextvars
import importlib
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rayserve.context import CallState, Context, batch_state, context, current, enter, leave


def call(request_id: str = "r", endpoint: str = "e", deadline: float | None = None) -> CallState:
    return CallState(True, request_id, endpoint, "b", "b-1", deadline, "00-a-b-01")


@contextmanager
def inside(state: CallState) -> Iterator[None]:
    token = enter(state)
    try:
        yield
    finally:
        leave(token)


def test_outside_a_call() -> None:
    assert context.web is False
    assert context.cancelled is False
    for name in ("batch_size", "request_id", "deadline", "endpoint", "backend", "replica", "traceparent"):
        assert getattr(context, name) is None
    assert repr(context) == "<serve.context outside a call>"


def test_case_28_context_inside_a_call() -> None:
    with inside(call()):
        assert context.web is True
        assert (context.request_id, context.endpoint, context.backend, context.replica) == ("r", "e", "b", "b-1")
        assert context.traceparent == "00-a-b-01"
        assert context.batch_size is None
        assert context.cancelled is False
        assert repr(context) == "<serve.context of 'r' at 'e', backend 'b'>"
    assert context.request_id is None


def test_calls_nest() -> None:
    with inside(call("outer")):
        with inside(call("inner")):
            assert context.request_id == "inner"
        assert context.request_id == "outer"


def test_case_31_web_is_false_by_handle() -> None:
    with inside(CallState(False, "r", "e", "b", "b-1")):
        assert context.web is False
        assert context.request_id == "r"


def test_deadline_is_in_unix_time_and_reads_the_same_every_time() -> None:
    with inside(call(deadline=time.monotonic() + 100)):
        first = context.deadline
        assert first is not None
        assert 99 < first - time.time() <= 100
        assert context.deadline == first


def test_cancelled_is_seen_at_once() -> None:
    state = call()
    with inside(state):
        assert not context.cancelled
        state.cancelled = True
        assert context.cancelled


def test_case_27_context_in_a_batch() -> None:
    now = time.monotonic()
    calls = [call("r1", "e1", now + 50), call("r2", "e2", now + 20), call("r3", "e1")]
    with inside(batch_state(calls)):
        assert context.batch_size == 3
        assert context.request_id == ("r1", "r2", "r3")
        assert context.endpoint == ("e1", "e2", "e1")
        assert context.traceparent == ("00-a-b-01",) * 3
        assert (context.web, context.backend, context.replica) == (True, "b", "b-1")
        assert context.deadline is not None
        assert 19 < context.deadline - time.time() <= 20
        calls[0].cancelled = calls[2].cancelled = True
        assert not context.cancelled
        calls[1].cancelled = True
        assert context.cancelled


def test_batch_of_calls_without_deadline() -> None:
    with inside(batch_state([call()])):
        assert context.deadline is None
        assert context.batch_size == 1


def test_case_28_overlapping_async_handlers_see_their_own() -> None:
    async def handler(request_id: str, mine: asyncio.Event, other: asyncio.Event) -> list[object]:
        enter(call(request_id))
        seen: list[object] = [context.request_id]
        mine.set()
        await other.wait()
        return [*seen, context.request_id]

    async def run() -> list[list[object]]:
        a, b = asyncio.Event(), asyncio.Event()
        return list(await asyncio.gather(handler("a", a, b), handler("b", b, a)))

    assert asyncio.run(run()) == [["a", "a"], ["b", "b"]]
    assert context.request_id is None


def test_case_28_threads_see_their_own() -> None:
    barrier, seen = threading.Barrier(2, timeout=10), {}

    def handler(request_id: str) -> None:
        with inside(call(request_id)):
            barrier.wait()
            seen[request_id] = context.request_id
            barrier.wait()

    threads = [threading.Thread(target=handler, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == {"a": "a", "b": "b"}


def test_thread_of_the_user_sees_the_call_in_a_copied_context() -> None:
    seen: list[object] = []
    with inside(call("r")):
        copied = contextvars.copy_context()
    thread = threading.Thread(target=copied.run, args=(lambda: seen.append(context.request_id),))
    thread.start()
    thread.join(10)
    assert seen == ["r"]


@pytest.mark.parametrize("name", ["web", "request_id", "anything"])
def test_context_is_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(context, name, 1)


def test_pickles_by_name() -> None:
    assert pickle.loads(pickle.dumps(context)) is context


def test_current_outside_says_so() -> None:
    assert current().request_id is None


def test_module_answers_for_the_object() -> None:
    module = sys.modules["rayserve.context"]
    with inside(call("r")):
        assert module.request_id == "r"
    with pytest.raises(AttributeError, match=r"module 'rayserve.context' has no attribute 'nothing'"):
        _ = module.nothing


def test_importing_the_submodule_does_not_hide_the_object() -> None:
    import rayserve

    assert isinstance(rayserve.context, Context)
    importlib.import_module("rayserve.context")
    import rayserve.context as imported

    for found in (vars(rayserve)["context"], imported):
        assert found is context
