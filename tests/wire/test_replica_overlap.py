"""Calls that overlap: threads, tasks, sync methods beside a loop; each sees its own context (cases 10 and 28)."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import Any

import flask
import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.raw_router import RawRouter

from rayserve.batching import accept_batch
from rayserve.context import context
from rayserve.wire import codec


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def only(mini: Mini) -> Any:
    (replica,) = mini.replicas.values()
    return replica


def facts() -> tuple[Any, ...]:
    return context.request_id, context.endpoint, context.web, context.backend, context.batch_size, context.cancelled


class Overlap:
    """Lets calls in until `goal` of them are inside at once, and then through."""

    def __init__(self, goal: int) -> None:
        self.goal, self.inside, self.most = goal, 0, 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.most >= self.goal, 10)
        with self._changed:
            self.inside -= 1

    async def awaited(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        async with asyncio.timeout(10):
            while self.most < self.goal:
                await asyncio.sleep(0)
        self.inside -= 1


def ask_at_once(mini: Mini, count: int) -> list[Any]:
    """Ask by HTTP and by handle, all at the same time; return what each saw, before and after it overlapped."""
    results = [mini.handle("e").remote(number) for number in range(count)]
    answers: list[Any] = [None] * count

    def ask(number: int) -> None:
        answers[number] = mini.get("/e", {"x-request-id": f"web-{number}"}).json()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [result.result(20) for result in results] + answers


def judge(seen: list[Any], count: int) -> None:
    assert all(list(before) == list(after) for before, after in seen), "nobody saw another call's context"
    calls, webs = seen[:count], seen[count:]
    assert len({before[0] for before, _ in calls}) == count
    assert [before[0] for before, _ in webs] == [f"web-{number}" for number in range(count)]
    assert all(list(before[1:]) == ["e", False, "b", None, False] for before, _ in calls)
    assert all(list(before[1:]) == ["e", True, "b", None, False] for before, _ in webs)


def test_case_28_threads_overlap_exactly_as_many_as_configured(mini: Mini) -> None:
    overlap = Overlap(3)

    def handler(_: Any) -> Any:
        before = facts()
        overlap()
        return before, facts()

    mini.backend("b", handler, {"max_concurrency": 3, "max_concurrent_queries": 32})
    mini.endpoint("e", "/e", {"b": 1.0}).publish()

    judge(ask_at_once(mini, 6), 6)
    assert overlap.most == 3


def test_case_28_async_handlers_overlap(mini: Mini) -> None:
    overlap = Overlap(12)

    async def handler(_: Any) -> Any:
        before = facts()
        await overlap.awaited()
        return before, facts()

    mini.backend("b", handler).endpoint("e", "/e", {"b": 1.0}).publish()

    judge(ask_at_once(mini, 6), 6)


def test_case_28_sync_code_runs_one_at_a_time_unless_told_otherwise(mini: Mini) -> None:
    overlap = Overlap(1)

    def handler(_: Any) -> Any:
        before = facts()
        overlap()
        return before, facts()

    mini.backend("b", handler).endpoint("e", "/e", {"b": 1.0}).publish()

    judge(ask_at_once(mini, 6), 6)
    assert overlap.most == 1


class Mixed:
    """An async class with a sync method."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, word: str) -> str:
        return word

    def blocks(self, gate: Any) -> Any:
        before = facts()
        self.seen.append(threading.current_thread().name)
        assert GATE.wait(10)
        return before == facts(), asyncio._get_running_loop() is None, asyncio.run(asyncio.sleep(0, "ran"))

    def reconfigure(self, config: Any) -> None:
        self.seen.append(config)

    async def order(self) -> list[Any]:
        return self.seen


GATE = threading.Event()


def test_sync_methods_of_an_async_class_run_beside_the_loop(mini: Mini) -> None:
    GATE.clear()
    mini.backend("b", Mixed).endpoint("e", None, {"b": 1.0}).publish()
    handle = mini.handle("e")
    blocked = handle.options("blocks").remote(None)
    assert handle.remote("meanwhile").result(10) == "meanwhile"
    GATE.set()

    assert blocked.result(10) == (True, True, "ran")


def test_case_28_sync_methods_of_an_async_class_overlap_in_their_threads(mini: Mini) -> None:
    overlap = Overlap(3)

    class Code:
        async def __call__(self) -> None: ...

        def single(self, _: Any) -> None:
            overlap()

        @accept_batch
        def batch(self, items: list[Any]) -> list[Any]:
            overlap()
            return items

    mini.backend("b", Code, {"max_concurrency": 3}).endpoint("e", None, {"b": 1.0}).publish()
    for method in ("single", "batch"):
        overlap.most = 0
        calls = [mini.handle("e").options(method).remote(number) for number in range(6)]
        for call in calls:
            call.result(10)

        assert overlap.most == 3


def test_case_10_reconfigure_of_an_async_class_never_overlaps_a_call(mini: Mini) -> None:
    GATE.clear()
    mini.backend("b", Mixed).endpoint("e", None, {"b": 1.0}).publish()
    handle = mini.handle("e")
    assert handle.remote("x").result(10) == "x"
    blocked = handle.options("blocks").remote(None)
    eventually(lambda: only(mini)._executor._running, "it runs")
    mini.user_config("b", "config")
    eventually(lambda: only(mini)._executor._jobs, "the job waits")
    later = handle.remote("later")
    GATE.set()

    assert later.result(10) == "later"
    assert blocked.result(10)[0]
    seen = handle.options("order").remote().result(10)
    assert (len(seen), seen[1]) == (2, "config")
    eventually(lambda: [report.error for report in mini.reports] == [""], "it was reported")


def test_case_10_reconfigure_never_overlaps_a_call_in_threads(mini: Mini) -> None:
    inside: set[Any] = set()
    wrong: list[str] = []

    class Code:
        def __call__(self, _: Any = None) -> None:
            me = threading.get_ident()
            inside.add(me)
            if "config" in inside:
                wrong.append("a call began while reconfigure ran")
            inside.discard(me)

        def reconfigure(self, config: Any) -> None:
            if inside:
                wrong.append("reconfigure began while a call ran")
            inside.add("config")
            threading.Event().wait(0.005)
            inside.discard("config")

    mini.backend("b", Code, {"max_concurrency": 4, "max_concurrent_queries": 32}).endpoint(
        "e", None, {"b": 1.0}
    ).publish()
    handle = mini.handle("e")
    for number in range(1, 6):
        calls = [handle.remote(None) for _ in range(100)]
        mini.user_config("b", number)
        for call in calls:
            call.result(10)
    eventually(lambda: [report.revision for report in mini.reports] == [1, 2, 3, 4, 5], "all five were done")

    assert wrong == []


@pytest.mark.parametrize("kind", ["sync", "threads", "async", "beside"])
def test_case_17_jsonify_works_wherever_user_code_runs(mini: Mini, kind: str) -> None:
    async def awaited(request: Any) -> Any:
        return flask.jsonify({"args": dict(request.args)})

    class Beside:
        async def other(self) -> None: ...

        def __call__(self, request: Any) -> Any:
            return flask.jsonify({"args": dict(request.args)})

    code = {"async": awaited, "beside": Beside}.get(kind, lambda request: flask.jsonify({"args": dict(request.args)}))
    mini.backend("b", code, {"max_concurrency": 2} if kind == "threads" else {})
    mini.endpoint("e", "/e", {"b": 1.0}).publish()
    if kind == "async":
        mini.user_config("b", 1)  # nothing the table does may change where calls run

    for _ in range(3):
        assert mini.get("/e?a=1").json() == {"args": {"a": "1"}}


def test_what_a_task_leaves_in_its_context_is_not_seen_by_the_next_call(mini: Mini) -> None:
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="clean")

    async def handler(word: str) -> str:
        seen = mark.get()
        mark.set(word)
        return seen

    mini.backend("b", handler, {"max_concurrent_queries": 1}).endpoint("e", None, {"b": 1.0}).publish()
    results = [mini.handle("e").remote("dirty") for _ in range(20)]

    assert {result.result(10) for result in results} == {"clean"}


def test_an_async_call_that_is_cancelled_hears_of_it(mini: Mini) -> None:
    began, cancelled = threading.Semaphore(0), threading.Semaphore(0)

    async def forever() -> None:
        began.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.release()
            raise

    mini.backend("b", forever).publish()
    intake = only(mini)._intake
    with RawRouter(only(mini)) as router:
        for stream in range(1, 6):
            router.call(stream)
            assert began.acquire(timeout=10)
        router.cancel(3)
        assert cancelled.acquire(timeout=10)
        assert router.failure(3).reason == "cancelled"
        router.call(6)
        router.cancel(6)  # in the same read: it may be cancelled before its first step
        assert router.frame(codec.FAIL, stream=6)
    for _ in range(4):
        assert cancelled.acquire(timeout=10), "the others are cancelled with the link"
    eventually(lambda: intake.admitted == 0, "nothing is left of them")


def test_a_handler_that_swallows_its_cancellation_still_ends_once(mini: Mini) -> None:
    began = threading.Semaphore(0)

    async def stubborn() -> str:
        began.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "so what"
        return "never"

    mini.backend("b", stubborn, {"max_concurrent_queries": 1}).publish()
    with RawRouter(only(mini)) as router:
        for stream in range(1, 4):
            router.call(stream)
            assert began.acquire(timeout=10)
            router.cancel(stream)
            router.frame(codec.HEAD, codec.FAIL, stream=stream)


def test_a_handler_that_blocks_the_loop_is_named_in_the_log(mini: Mini, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    async def blocks_the_loop() -> str:
        gate.wait(10)
        return "at last"

    mini.backend("b", blocks_the_loop).endpoint("e", None, {"b": 1.0}).publish()
    with caplog.at_level(logging.WARNING, "rayserve.user"):
        result = mini.handle("e").remote()
        eventually(lambda: "blocked the event loop" in caplog.text, "it is named")
        gate.set()
        assert result.result(10) == "at last"

    assert "blocks_the_loop (" in caplog.text
    assert "gate.wait(10)" in caplog.text
    eventually(lambda: not only(mini)._executor._watch.watching, "nobody watches an idle loop")
