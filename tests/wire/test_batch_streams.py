"""Batch handlers that are generators: lists are yielded, each call gets the stream of its items (case 25)."""

import asyncio
import http.client
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.batcher import CONFIG, KINDS
from tests.wire.mini import Mini

from rayserve.batching import accept_batch
from rayserve.context import context
from rayserve.errors import BadResultError, HTTPError, UserCodeError

Steps = Callable[[list[Any]], Iterator[Any]]


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(lambda: not any(each._intake.admitted for each in running.replicas.values()), "every slot is free")
    while _open:
        _open.pop().close()


_open: list[Any] = []  # closed at the end of each test


def handler(kind: str, steps: Steps) -> Any:
    """Return a batch handler of that kind; what is an Event in `steps` is waited for, all else yielded."""

    def sync(items: list[Any]) -> Iterator[Any]:
        running = steps(items)
        try:
            for step in running:
                if isinstance(step, threading.Event):
                    assert step.wait(20)
                else:
                    yield step
        finally:  # the end of this generator need not be that of `running`: some 3.12 keep what a closed frame holds
            running.close()  # type: ignore[attr-defined]

    async def on_loop(items: list[Any]) -> AsyncIterator[Any]:
        running = steps(items)
        try:
            for step in running:
                while isinstance(step, threading.Event) and not step.is_set():
                    await asyncio.sleep(0.001)
                if not isinstance(step, threading.Event):
                    yield step
        finally:
            running.close()  # type: ignore[attr-defined]

    return accept_batch(on_loop if kind == "async" else sync)


def serve(mini: Mini, kind: str, steps: Steps, size: int, **config: Any) -> Any:
    """Serve batches of exactly `size`; return a handle."""
    batches = {"max_batch_size": size, "batch_wait_timeout": 10, **CONFIG[kind], **config}
    mini.backend("b", handler(kind, steps), batches).endpoint("e", "/e", {"b": 1.0}).publish()
    return mini.handle("e")


def ask(mini: Mini, count: int) -> list[http.client.HTTPResponse]:
    """Send that many requests, then wait for the heads of their answers."""
    connections = [http.client.HTTPConnection("127.0.0.1", mini.port, timeout=10) for _ in range(count)]
    for number, connection in enumerate(connections):
        connection.request("GET", f"/e?n={number}")
    responses = [connection.getresponse() for connection in connections]
    _open.extend((*connections, *responses))
    return responses


@pytest.mark.parametrize("kind", KINDS)
def test_each_call_of_a_batch_gets_its_items_as_they_are_made(mini: Mini, kind: str) -> None:
    gates = [threading.Event() for _ in range(3)]

    def steps(items: list[Any]) -> Iterator[Any]:
        for number, gate in enumerate(gates):
            yield [(item, number, context.batch_size) for item in items]
            yield gate

    handle = serve(mini, kind, steps, 3)
    streams = [iter(call) for call in [handle.remote(word) for word in "abc"]]
    for number, gate in enumerate(gates):
        assert [next(stream) for stream in streams] == [(word, number, 3) for word in "abc"]
        gate.set()
    assert [list(stream) for stream in streams] == [[], [], []]


@pytest.mark.parametrize("kind", KINDS)
def test_over_http_the_items_are_chunks(mini: Mini, kind: str) -> None:
    gate = threading.Event()

    def steps(items: list[Any]) -> Iterator[Any]:
        yield [f"{item.args['n']}:" for item in items]
        yield gate
        yield [b"end" for _ in items]

    serve(mini, kind, steps, 2)
    responses = ask(mini, 2)
    assert [response.getheader("transfer-encoding") for response in responses] == ["chunked", "chunked"]
    assert sorted(response.read(2) for response in responses) == [b"0:", b"1:"]
    gate.set()
    assert [response.read() for response in responses] == [b"end", b"end"]


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_nothing_this_time_and_stop_iteration_the_end_of_one_stream(mini: Mini, kind: str) -> None:
    def steps(items: list[Any]) -> Iterator[Any]:
        for number in range(4):
            yield [_item(item, number) for item in items]

    def _item(item: str, number: int) -> Any:
        if item == "short" and number == 1:
            return StopIteration
        if item == "shorter" and number == 0:
            return StopIteration()
        return None if item == "odd" and number % 2 == 0 else number

    handle = serve(mini, kind, steps, 4)
    calls = [handle.remote(word) for word in ("all", "odd", "short", "shorter")]

    assert [list(call) for call in calls] == [[0, 1, 2, 3], [1, 3], [0], []]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_as_an_item_cuts_that_stream_alone(mini: Mini, kind: str) -> None:
    def steps(items: list[Any]) -> Iterator[Any]:
        yield [KeyError("at once") if item == "first" else 1 for item in items]
        yield [HTTPError(418, "later") if item == "second" else object.__new__(_Unsendable) if item == "third" else 2
               for item in items]  # fmt: skip
        yield [3 for _ in items]

    handle = serve(mini, kind, steps, 4)
    calls = {word: handle.remote(word) for word in ("first", "second", "third", "fourth")}
    assert list(calls["fourth"]) == [1, 2, 3]
    with pytest.raises(KeyError, match="at once"):
        calls["first"].result(10)
    for word, error in (("second", HTTPError), ("third", BadResultError)):
        stream = iter(calls[word])
        assert next(stream) == 1
        with pytest.raises(error):
            next(stream)


class _Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("stays here")


@pytest.mark.parametrize("kind", KINDS)
def test_over_http_an_exception_is_an_answer_first_and_a_cut_later(mini: Mini, kind: str) -> None:
    def steps(items: list[Any]) -> Iterator[Any]:
        yield [HTTPError(418, "tea") if item.args["n"] == "0" else "a" for item in items]
        yield [HTTPError(418, "tea") if item.args["n"] == "1" else "b" for item in items]
        yield [3 if item.args["n"] == "2" else "c" for item in items]

    serve(mini, kind, steps, 4)
    responses = ask(mini, 4)
    assert [response.status for response in responses] == [418, 200, 200, 200]
    assert b'"detail":"tea"' in responses[0].read()
    for response, came in ((responses[1], b"a"), (responses[2], b"ab")):
        with pytest.raises(http.client.IncompleteRead) as cut:
            response.read()
        assert cut.value.partial == came
    assert responses[3].read() == b"abc"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda items: items[:-1], "1 results for 2 requests"),
        (lambda items: [*items, 1], "3 results for 2 requests"),
        (lambda items: "ab", "it returned str"),
        (lambda items: dict.fromkeys(items), "it returned dict"),
        (lambda items: None, "it returned NoneType"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_a_wrong_list_fails_every_call_of_the_batch(mini: Mini, kind: str, wrong: Any, says: str, before: int) -> None:
    closed = threading.Event()

    def steps(items: list[Any]) -> Iterator[Any]:
        try:
            for _ in range(before):
                yield [1 for _ in items]
            yield wrong(items)
            yield [2 for _ in items]
        finally:
            closed.set()

    handle = serve(mini, kind, steps, 2)
    calls = [handle.remote(word) for word in "ab"]
    for call in calls:
        seen = []
        with pytest.raises(BadResultError, match=says):
            for item in call:
                seen.append(item)
        assert seen == [1] * before
    assert closed.wait(10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [0, 50])
def test_what_the_generator_raises_cuts_every_stream(mini: Mini, kind: str, before: int) -> None:
    def steps(items: list[Any]) -> Iterator[Any]:
        for number in range(before):
            yield [number for _ in items]
        raise KeyError("here")

    handle = serve(mini, kind, steps, 2)
    calls = [handle.remote(word) for word in "ab"]
    for call in calls:
        seen = []
        with pytest.raises(KeyError, match="here"):
            for item in call:
                seen.append(item)
        assert seen == list(range(before))


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_whose_client_is_gone_is_left_out_and_the_others_go_on(mini: Mini, kind: str) -> None:
    gate, closed = threading.Event(), threading.Event()
    cancelled: list[bool] = []

    def steps(items: list[Any]) -> Iterator[Any]:
        try:
            yield [0 for _ in items]
            yield gate
            cancelled.append(context.cancelled)
            yield [1 for _ in items]
            yield [2 for _ in items]
        finally:
            closed.set()

    handle = serve(mini, kind, steps, 3)
    streams = [iter(call) for call in [handle.remote(word) for word in "abc"]]
    assert [next(stream) for stream in streams] == [0, 0, 0]
    streams[1].close()
    eventually(lambda: _working(mini) == 2, "the replica has heard")
    gate.set()

    assert [list(stream) for stream in (streams[0], streams[2])] == [[1, 2], [1, 2]]
    assert cancelled == [False]
    assert closed.wait(10)


def _working(mini: Mini) -> int:
    (replica,) = mini.replicas.values()
    return sum(not work.cancelled for session in replica._server.sessions for work in session._works.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["http", "handle"])
def test_when_all_are_gone_the_generator_is_closed(mini: Mini, kind: str, way: str) -> None:
    closed = threading.Event()

    def steps(items: list[Any]) -> Iterator[Any]:
        try:
            while True:
                yield ["x" * 1000 for _ in items]
        finally:
            closed.set()

    handle = serve(mini, kind, steps, 2)
    if way == "http":
        assert [response.read(1) for response in ask(mini, 2)] == [b"x", b"x"]
        while _open:
            _open.pop().close()
    else:
        for stream in [iter(call) for call in [handle.remote(word) for word in "ab"]]:
            assert next(stream)[0] == "x"
            stream.close()

    assert closed.wait(10)
    assert _next_batch_is_served(mini)


def _next_batch_is_served(mini: Mini) -> bool:
    streams = [iter(call) for call in [mini.handle("e").remote(word) for word in "ab"]]
    came = [next(stream) for stream in streams]
    for stream in streams:
        stream.close()
    return len(came) == 2


def test_an_async_generator_that_waits_is_cancelled_when_all_are_gone(mini: Mini) -> None:
    closed = threading.Event()

    @accept_batch
    async def steps(items: list[Any]) -> AsyncIterator[Any]:
        try:
            yield [StopIteration if item == "b" else 0 for item in items]
            await asyncio.sleep(60)
        finally:
            closed.set()

    mini.backend("b", steps, {"max_batch_size": 3, "batch_wait_timeout": 10}).endpoint("e", None, {"b": 1.0}).publish()
    streams = [iter(call) for call in [mini.handle("e").remote(word) for word in "abc"]]
    assert [next(streams[0]), list(streams[1]), next(streams[2])] == [0, [], 0]
    streams[0].close()
    assert not closed.is_set()
    streams[2].close()

    assert closed.wait(10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slowest_client_sets_the_pace_of_its_batch(mini: Mini, kind: str) -> None:
    made: list[int] = []

    def steps(items: list[Any]) -> Iterator[Any]:
        for number in range(100):
            made.append(number)
            yield [bytes(50_000) for _ in items]

    handle = serve(mini, kind, steps, 2)
    quick, slow = (iter(call) for call in [handle.remote(word) for word in "ab"])
    came: list[int] = []

    def read() -> None:
        came.extend(len(item) for item in quick)

    reader = threading.Thread(target=read)
    reader.start()
    assert len(next(slow)) == 50_000
    eventually(lambda: _is_held(mini), "the slow one has used its credit up")
    assert len(made) < 30, "the generator waits"
    assert reader.is_alive(), "and so does the quick one"
    assert sum(1 for _ in slow) == 99
    reader.join(10)

    assert came == [50_000] * 100


def _is_held(mini: Mini) -> bool:
    (replica,) = mini.replicas.values()
    return any(not outflow.clear for session in replica._server.sessions for outflow in session._outflows.values())


def test_a_returned_generator_is_still_a_list_of_results(mini: Mini) -> None:
    @accept_batch
    def results(items: list[Any]) -> Iterator[str]:
        return (f"{item}!" for item in items)

    mini.backend("b", results, {"max_batch_size": 2, "batch_wait_timeout": 10}).endpoint(
        "e", None, {"b": 1.0}
    ).publish()
    calls = [mini.handle("e").remote(word) for word in "ab"]

    assert [call.result(10) for call in calls] == ["a!", "b!"]


@pytest.mark.parametrize("kind", KINDS)
def test_sys_exit_in_the_middle_is_an_error_of_every_call(mini: Mini, kind: str) -> None:
    def steps(items: list[Any]) -> Iterator[Any]:
        yield [0 for _ in items]
        raise SystemExit(3)

    handle = serve(mini, kind, steps, 2)
    for call in [handle.remote(word) for word in "ab"]:
        with pytest.raises(UserCodeError, match="SystemExit: 3"):
            list(call)
