"""Sync user code on the main thread: who reads while it runs, where it runs, and what may run inside it."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.processes import start
from tests.wire.raw_router import RawRouter

from rayserve.context import context
from rayserve.wire import codec, heads


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


class Held:
    """User code that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.began, self.gate = threading.Semaphore(0), threading.Event()
        self.ended: list[Any] = []

    def __call__(self, word: Any = None) -> Any:
        self.began.release()
        assert self.gate.wait(20)
        self.ended.append(word)
        return word

    def wait(self) -> None:
        assert self.began.acquire(timeout=10)


def only(mini: Mini) -> Any:
    (replica,) = mini.replicas.values()
    return replica


def test_while_a_handler_blocks_the_io_thread_reads_and_answers(mini: Mini) -> None:
    held = Held()
    mini.backend("b", lambda word: held(word), {"max_concurrent_queries": 2}).publish()
    with RawRouter(only(mini)) as router:
        router.call(1, "first")
        held.wait()
        router.call(2, "second")
        router.call(3, "third")
        router.send(codec.frame(codec.PING, 0))

        assert router.frame(codec.REJECT, stream=3)[4] == heads.BUSY
        assert router.frame(codec.PONG)[3] == 2, "and it says how many it holds"
        router.cancel(2)
        assert router.failure(2).reason == "cancelled", "a queued call is dropped at once, not when its turn comes"
        assert router.frame(codec.FREE), "and its slot is offered"
        held.gate.set()
        assert router.value(1) == "first"
    assert held.ended == ["first"]


def test_a_cancellation_is_seen_by_sync_code_that_runs(mini: Mini) -> None:
    held, seen = Held(), threading.Event()

    def watch() -> bool:
        held.began.release()
        while not context.cancelled:
            threading.Event().wait(0.001)
        seen.set()
        return context.cancelled

    mini.backend("b", watch).publish()
    with RawRouter(only(mini)) as router:
        router.call(1)
        held.wait()
        router.cancel(1)
        assert seen.wait(10)
        assert router.value(1) is True, "it still ends with exactly one frame"


def test_a_router_that_vanishes_cancels_its_calls(mini: Mini) -> None:
    held, seen = Held(), threading.Event()

    def watch(word: str) -> None:
        held.began.release()
        while not context.cancelled:
            threading.Event().wait(0.001)
        seen.set()

    mini.backend("b", watch).publish()
    intake = only(mini)._intake
    with RawRouter(only(mini)) as router:
        router.call(1, "x")
        held.wait()
        router.call(2, "queued")
        eventually(lambda: intake.admitted == 2, "both are admitted")
    assert seen.wait(10)
    eventually(lambda: intake.admitted == 0, "nothing is left of them")


def test_sync_code_may_use_asyncio_and_wait_for_handles(mini: Mini) -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    def outer(x: int) -> int:
        inner = mini.handle("inner").remote(x).result(10)
        return asyncio.run(double(inner)) + 1

    mini.backend("inner", double).backend("outer", outer)
    mini.endpoint("inner", None, {"inner": 1.0}).endpoint("outer", None, {"outer": 1.0}).publish()

    assert mini.handle("outer").remote(5).result(10) == 21


class Threads:
    """Tells which thread ran what."""

    def __init__(self) -> None:
        self.seen = [threading.get_ident()]

    def reconfigure(self, config: Any) -> None:
        self.seen.append(threading.get_ident())

    def where(self) -> tuple[list[int], int, bool]:
        self.seen.append(threading.get_ident())
        return self.seen, threading.main_thread().ident or 0, asyncio._get_running_loop() is None


def test_constructor_reconfigure_and_calls_share_the_main_thread(mini: Mini) -> None:
    (process,) = start(mini, "b", f"{__name__}:Threads", 1)
    try:
        mini.endpoint("e", None, {"b": 1.0}).publish()
        where = mini.handle("e").options("where")
        where.remote().result(10)
        mini.user_config("b", None)
        eventually(lambda: mini.reports, "reconfigured")
        seen, main, no_loop = where.remote().result(10)

        assert mini.reports[0].error == ""
        assert (len(seen), set(seen), no_loop) == (4, {main}, True)
    finally:
        process.end()


def test_case_10_a_reconfigure_waits_for_the_call_that_runs(mini: Mini) -> None:
    held = Held()
    order = []

    class Code:
        def __call__(self) -> None:
            held()
            order.append("call")

        def reconfigure(self, config: Any) -> None:
            order.append(config)

    mini.backend("b", Code).publish()
    with RawRouter(only(mini)) as router:
        router.call(1)
        held.wait()
        mini.user_config("b", "new")
        held.gate.set()
        router.value(1)
        eventually(lambda: mini.reports, "reconfigured")

    assert order == ["call", "new"]


def test_case_10_a_reconfigure_that_raises_is_reported_and_calls_go_on(mini: Mini) -> None:
    class Code:
        def __call__(self) -> str:
            return "fine"

        def reconfigure(self, config: Any) -> None:
            raise SystemExit(f"not {config}")

    mini.backend("b", Code).endpoint("e", None, {"b": 1.0}).publish()
    mini.user_config("b", "that")
    eventually(lambda: mini.reports, "reported")

    assert "SystemExit: not that" in mini.reports[0].error
    assert mini.handle("e").remote().result(10) == "fine"


def test_while_reconfigure_runs_the_io_thread_reads(mini: Mini) -> None:
    held = Held()

    class Code:
        def __call__(self) -> str:
            return "fine"

        def reconfigure(self, config: Any) -> None:
            held()

    mini.backend("b", Code).publish()
    with RawRouter(only(mini)) as router:
        router.call(1)
        router.value(1)
        mini.user_config("b", None)
        held.wait()
        router.send(codec.frame(codec.PING, 0))
        assert router.frame(codec.PONG)
        held.gate.set()


def test_quick_calls_are_answered_in_order_and_without_the_watch_when_idle(mini: Mini) -> None:
    mini.backend("b", lambda x: x, {"max_concurrent_queries": 100}).publish()
    executor = only(mini)._executor
    with RawRouter(only(mini)) as router:
        for stream in range(1, 51):
            router.call(stream, stream)
        assert [router.value(stream) for stream in range(1, 51)] == list(range(1, 51))
    eventually(lambda: not executor._watching, "nobody watches an idle thread")
    assert not executor._leading


def test_the_answer_of_a_quick_call_does_not_wait_for_a_slow_one_behind_it(mini: Mini) -> None:
    held = {"slow 1": Held(), "slow 2": Held()}
    mini.backend("b", lambda word: held[word](word) if word in held else word, {"max_concurrent_queries": 4}).publish()
    with RawRouter(only(mini)) as router:
        for stream, word in enumerate(["slow 1", "quick", "slow 2"], 1):
            router.call(stream, word)
        held["slow 1"].wait()
        router.send(codec.frame(codec.PING, 0))
        assert router.frame(codec.PONG)[3] == 3, "the I/O thread leads, and has read them all"
        held["slow 1"].gate.set()
        held["slow 2"].wait()
        assert router.value(2) == "quick"
        assert not held["slow 2"].ended
        held["slow 2"].gate.set()
        assert (router.value(1), router.value(3)) == ("slow 1", "slow 2")
