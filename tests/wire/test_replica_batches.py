"""How batches form, in threads and on a loop: sizes, waits, cancellations (cases 25 to 27)."""

import threading
import time
from collections.abc import Iterator

import pytest
from tests.conditions import eventually
from tests.wire.batcher import KINDS, ONE_AT_A_TIME, Batcher, serve
from tests.wire.mini import Mini
from tests.wire.raw_router import RawRouter

from rayserve.context import context
from rayserve.replica import mainthread
from rayserve.wire import codec


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


@pytest.mark.parametrize("kind", ONE_AT_A_TIME)
def test_case_25_what_waits_behind_a_gate_shares_batches_in_order(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: [10 * item for item in items])
    replica = serve(mini, kind, batcher, max_batch_size=8)
    batcher.gate.clear()
    handle = mini.handle("e")
    first = handle.remote(0)
    batcher.wait()
    others = [handle.remote(number) for number in range(1, 21)]
    eventually(lambda: len(replica._intake.queue) == 20, "all wait")
    batcher.gate.set()

    assert [result.result(10) for result in [first, *others]] == [10 * number for number in range(21)]
    assert batcher.sizes == [1, 8, 8, 4]
    assert [item for batch in batcher.batches for item in batch] == list(range(21)), "first come first served"
    assert [seen[0] for seen in batcher.contexts] == batcher.sizes
    (facts,) = replica.batches()
    assert facts.sizes == {1: 1, 8: 2, 4: 1}
    assert facts.released == {"idle": 2, "full": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_case_26_two_then_one_at_the_time_out(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: items)
    replica = serve(mini, kind, batcher, max_batch_size=2, batch_wait_timeout=0.2)
    began = time.monotonic()
    results = [mini.handle("e").remote(number) for number in range(3)]

    assert [result.result(10) for result in results] == [0, 1, 2]
    assert batcher.sizes == [2, 1]
    assert time.monotonic() - began >= 0.2
    assert replica.batches()[0].released == {"full": 1, "timeout": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_case_26_an_idle_replica_starts_at_once(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: items)
    replica = serve(mini, kind, batcher, max_batch_size=50)
    for number in range(5):
        assert mini.handle("e").remote(number).result(10) == number

    assert replica.batches()[0].released == {"idle": 5}


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_with_little_time_left_does_not_wait_for_its_batch_to_fill(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: items)
    replica = serve(mini, kind, batcher, max_batch_size=2, batch_wait_timeout=30)
    began = time.monotonic()

    assert mini.handle("e").options(timeout_s=1.0).remote("x").result(10) == "x"
    assert 0.4 <= time.monotonic() - began < 1.0, "half of its time is for the handler"
    assert replica.batches()[0].released == {"deadline": 1}


@pytest.mark.parametrize("forms", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_cancelled_calls_are_left_out_of_the_batch_that_forms(mini: Mini, kind: str, forms: bool) -> None:
    batcher = Batcher(kind, lambda items: items)
    replica = serve(mini, kind, batcher, max_batch_size=3, batch_wait_timeout=20)
    with RawRouter(replica) as router:
        router.call(1, "a")
        router.call(2, "b")
        if forms:
            eventually(lambda: replica._intake.admitted == 2 and not replica._intake.queue, "both are in a batch")
        router.cancel(1)
        router.call(3, "c")
        router.call(4, "d")
        assert [router.value(stream) for stream in (2, 3, 4)] == ["b", "c", "d"]
        assert router.failure(1).reason == "cancelled"
    assert batcher.batches == [["b", "c", "d"]]


@pytest.mark.parametrize("kind", ONE_AT_A_TIME)
def test_expired_calls_never_reach_the_handler(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: items)
    replica = serve(mini, kind, batcher, max_batch_size=8)
    batcher.gate.clear()
    with RawRouter(replica) as router:
        router.call(1, "a")
        batcher.wait()
        router.call(2, "late", left_ms=1)
        router.call(3, "c")
        eventually(lambda: len(replica._intake.queue) == 2, "both wait")
        threading.Event().wait(0.005)
        batcher.gate.set()
        assert router.value(3) == "c"
        assert router.frame(codec.REJECT, stream=2)[4] == b"expired"
    assert batcher.batches == [["a"], ["c"]]


def test_case_27_in_a_batch_the_context_holds_tuples_and_is_cancelled_when_all_are(mini: Mini) -> None:
    batcher = Batcher("sync", lambda items: [context.cancelled] * len(items))
    replica = serve(mini, "sync", batcher, max_batch_size=2, batch_wait_timeout=10)
    batcher.gate.clear()
    with RawRouter(replica) as router:
        router.call(1, "a", left_ms=20_000)
        router.call(2, "b", left_ms=10_000)
        batcher.wait()
        router.cancel(1)
        router.cancel(2)
        eventually(lambda: all(work.cancelled for s in replica._server.sessions for work in s._works.values()), "told")
        batcher.gate.set()
        assert [router.value(stream) for stream in (1, 2)] == [True, True]
    size, ids, endpoints, deadline = batcher.contexts[0]
    assert (size, ids, endpoints) == (2, ("r1", "r2"), ("e", "e"))
    assert 8 < deadline - time.time() <= 10


def test_async_batches_overlap_up_to_max_concurrent_batches(mini: Mini) -> None:
    batcher = Batcher("async", lambda items: items)
    replica = serve(mini, "async", batcher, max_batch_size=2, max_concurrent_batches=3)
    batcher.gate.clear()
    results = [mini.handle("e").remote(0)]
    batcher.wait()
    results += [mini.handle("e").remote(number) for number in range(1, 12)]
    for _ in range(2):
        batcher.wait()
    eventually(lambda: replica._intake.admitted == 12, "all are here")
    assert len(batcher.batches) == 3, "no more than three at once"
    batcher.gate.set()

    assert [result.result(10) for result in results] == list(range(12))
    assert max(batcher.sizes) == 2


def test_an_idle_thread_leaves_calls_to_the_batch_that_forms(mini: Mini) -> None:
    batcher = Batcher("threads", lambda items: items)
    replica = serve(mini, "threads", batcher, max_batch_size=2, batch_wait_timeout=5.0)
    for _ in range(20):
        first = mini.handle("e").remote(1)
        eventually(lambda: replica._intake.admitted == 1 and not replica._intake.queue, "a batch forms")
        second = mini.handle("e").remote(2)
        assert (first.result(10), second.result(10)) == (1, 2)

    assert batcher.sizes == [2] * 20


def test_case_25_what_came_while_a_batch_ran_shares_the_next_even_if_it_is_unread(
    mini: Mini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mainthread, "_IMPATIENCE_S", 1000.0)  # nobody reads while user code runs
    steps = threading.Semaphore(0)

    def step(items: list[int]) -> list[int]:
        assert steps.acquire(timeout=20)
        return items

    batcher = Batcher("sync", step)
    replica = serve(mini, "sync", batcher, max_batch_size=4)
    with RawRouter(replica) as router:
        router.call(1, 1)
        batcher.wait()
        for stream in range(2, 8):  # read together once the first batch is done: four of them run, two stay queued
            router.call(stream, stream)
        steps.release()
        batcher.wait()
        router.call(8, 8)
        router.call(9, 9)
        steps.release(2)
        assert [router.value(stream) for stream in range(1, 10)] == list(range(1, 10))
    assert batcher.sizes == [1, 4, 4]
