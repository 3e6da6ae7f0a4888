"""Answers made bit by bit, over HTTP."""

import asyncio
import http.client
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.responses import StreamingResponse
from tests.conditions import eventually
from tests.wire.mini import Mini

from rayserve.context import context
from rayserve.errors import CallCancelledError, HTTPError


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
    while _open:
        _open.pop().close()


_open: list[Any] = []  # closed at the end of each test


def chunks_of(mini: Mini, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", mini.port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    _open.extend((connection, response))
    return response


def test_a_generator_is_sent_chunk_by_chunk(mini: Mini) -> None:
    gates = [threading.Event() for _ in range(3)]

    def count() -> Iterator[str]:
        for number, gate in enumerate(gates):
            yield f"{number}\n"
            assert gate.wait(10)

    mini.backend("b", count).endpoint("e", "/x", {"b": 1.0}).publish()
    response = chunks_of(mini, "/x")

    assert response.status == 200
    assert response.getheader("transfer-encoding") == "chunked"
    for number, gate in enumerate(gates):
        assert response.read(2) == b"%d\n" % number  # it came while the generator waits at its gate
        gate.set()
    assert response.read() == b""


def test_an_async_generator_is_sent_chunk_by_chunk(mini: Mini) -> None:
    gate = threading.Event()

    async def count() -> AsyncIterator[bytes]:
        yield b"first"
        while not gate.is_set():
            await asyncio.sleep(0.001)
        yield b"second"

    mini.backend("b", count).endpoint("e", "/x", {"b": 1.0}).publish()
    response = chunks_of(mini, "/x")

    assert response.read(5) == b"first"
    gate.set()
    assert response.read() == b"second"


@pytest.mark.parametrize("kind", ["sync", "async", "threads"])
def test_a_starlette_stream_is_sent_chunk_by_chunk(mini: Mini, kind: str) -> None:
    gate, ended = threading.Event(), threading.Event()

    async def chunks() -> AsyncIterator[str]:
        try:
            yield "first"
            while not gate.is_set():
                await asyncio.sleep(0.001)
            yield "second"
        finally:
            ended.set()

    def plain() -> StreamingResponse:
        return StreamingResponse(chunks(), 202, media_type="text/csv")

    async def later() -> StreamingResponse:
        return plain()

    mini.backend("b", later if kind == "async" else plain, {"max_concurrency": 2} if kind == "threads" else {})
    mini.endpoint("e", "/x", {"b": 1.0}).publish()
    response = chunks_of(mini, "/x")

    assert (response.status, response.getheader("content-type")) == (202, "text/csv; charset=utf-8")
    assert response.read(5) == b"first"
    gate.set()
    assert response.read() == b"second"
    assert ended.wait(10)


def test_an_async_generator_that_sync_code_returns_is_sent_too(mini: Mini) -> None:
    async def chunks() -> AsyncIterator[str]:
        yield str(context.request_id)
        await asyncio.sleep(0)
        yield "!"

    mini.backend("b", lambda: chunks()).endpoint("e", "/x", {"b": 1.0}).publish()

    assert mini.get("/x", {"x-request-id": "me"}).body == b"me!"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_of_many_megabytes_arrives_whole(mini: Mini, kind: str) -> None:
    piece = bytes(range(256)) * 256

    def sync() -> Iterator[bytes]:
        for _ in range(256):
            yield piece

    async def later() -> AsyncIterator[bytes]:
        for _ in range(256):
            yield piece

    mini.backend("b", sync if kind == "sync" else later).endpoint("e", "/x", {"b": 1.0}).publish()

    assert chunks_of(mini, "/x").read() == piece * 256


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_raises_at_once_is_an_error_answer(mini: Mini, kind: str) -> None:
    def sync() -> Iterator[bytes]:
        raise HTTPError(418, "no")
        yield b""

    async def later() -> AsyncIterator[bytes]:
        raise HTTPError(418, "no")
        yield b""

    mini.backend("b", sync if kind == "sync" else later).endpoint("e", "/x", {"b": 1.0}).publish()

    assert mini.get("/x").status == 418
    assert mini.get("/x").status == 418


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_in_mid_stream_cuts_the_connection(mini: Mini, kind: str) -> None:
    def sync() -> Iterator[bytes]:
        for number in range(50):
            yield b"%d\n" % number
        raise ValueError("item 50")

    async def later() -> AsyncIterator[bytes]:
        for chunk in sync():
            yield chunk

    mini.backend("b", sync if kind == "sync" else later).backend("ok", lambda: "ok")
    mini.endpoint("e", "/x", {"b": 1.0}).endpoint("ok", "/ok", {"ok": 1.0}).publish()
    response = chunks_of(mini, "/x")

    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    assert mini.get("/ok").status == 200


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_client_that_leaves_stops_the_generator(mini: Mini, kind: str) -> None:
    finished = threading.Event()
    piece = b"x" * 65536

    def sync() -> Iterator[bytes]:
        try:
            while True:
                yield piece
        finally:
            finished.set()

    async def later() -> AsyncIterator[bytes]:
        try:
            while True:
                yield piece
        finally:
            finished.set()

    mini.backend("b", sync if kind == "sync" else later).endpoint("e", "/x", {"b": 1.0}).publish()
    connection = http.client.HTTPConnection("127.0.0.1", mini.port, timeout=10)
    connection.request("GET", "/x")
    response = connection.getresponse()
    response.read(100_000)
    response.close()
    connection.close()

    assert finished.wait(10)


def test_a_slow_client_pauses_the_generator(mini: Mini) -> None:
    made = 0
    piece = b"x" * 65536

    def endless() -> Iterator[bytes]:
        nonlocal made
        for _ in range(4000):
            made += 1
            yield piece

    mini.backend("b", endless).endpoint("e", "/x", {"b": 1.0}).publish()
    connection = http.client.HTTPConnection("127.0.0.1", mini.port, timeout=10)
    connection.request("GET", "/x")
    response = connection.getresponse()
    response.read(1)
    before = -1
    settled = threading.Event()
    for _ in range(200):  # until two looks find the same count: nothing moves any more
        if made == before:
            break
        before = made
        settled.wait(0.05)

    assert made < 1000
    response.close()
    connection.close()


def test_a_flask_response_streams(mini: Mini) -> None:
    import flask

    def events(request: Any) -> flask.Response:
        return flask.Response((f"data: {n}\n\n" for n in range(3)), mimetype="text/event-stream")

    mini.backend("b", events).endpoint("e", "/x", {"b": 1.0}).publish()
    answer = mini.get("/x")

    assert answer["content-type"].startswith("text/event-stream")
    assert answer.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_a_handle_iterates_over_a_generator(mini: Mini) -> None:
    def count(most: int) -> Iterator[dict[str, int]]:
        for number in range(most):
            yield {"n": number}

    mini.backend("b", count).endpoint("e", None, {"b": 1.0}).publish()

    assert [item["n"] for item in mini.handle("e").remote(1000)] == list(range(1000))


def test_a_handle_iterates_over_an_async_generator_in_async_code(mini: Mini) -> None:
    async def count(most: int) -> AsyncIterator[int]:
        for number in range(most):
            yield number

    mini.backend("b", count).endpoint("e", None, {"b": 1.0}).publish()
    handle = mini.handle("e")

    async def read() -> list[int]:
        return [item async for item in handle.remote(1000)]

    assert asyncio.run(read()) == list(range(1000))


def test_values_of_many_megabytes_stream_over_a_handle(mini: Mini) -> None:
    def blocks() -> Iterator[bytes]:
        for number in range(20):
            yield bytes([number]) * 1_000_000

    mini.backend("b", blocks).endpoint("e", None, {"b": 1.0}).publish()

    assert [(block[0], len(block)) for block in mini.handle("e").remote()] == [(n, 1_000_000) for n in range(20)]


def test_a_handle_gets_the_exception_of_a_generator_after_what_it_yielded(mini: Mini) -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    mini.backend("b", fail).endpoint("e", None, {"b": 1.0}).publish()
    stream = iter(mini.handle("e").remote())

    assert next(stream) == 1
    with pytest.raises(KeyError, match="two"):
        next(stream)


def test_closing_a_stream_over_a_handle_stops_the_generator(mini: Mini) -> None:
    finished = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(50_000)
        finally:
            finished.set()

    mini.backend("b", endless).endpoint("e", None, {"b": 1.0}).publish()
    stream = iter(mini.handle("e").remote())
    next(stream)
    stream.close()

    assert finished.wait(10)


def test_iterating_over_one_value_says_so(mini: Mini) -> None:
    mini.backend("b", lambda: 3).endpoint("e", None, {"b": 1.0}).publish()

    with pytest.raises(TypeError, match="not with a generator"):
        iter(mini.handle("e").remote())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("way", ["http", "handle"])
@pytest.mark.parametrize("error", [HTTPError(418, "tea"), KeyError("here")])
def test_an_error_at_item_50_cuts_that_stream_and_no_other(
    mini: Mini, is_async: bool, way: str, error: Exception
) -> None:
    def fails() -> Iterator[str]:
        yield from ("x" for _ in range(50))
        raise error

    async def fails_async() -> AsyncIterator[str]:
        for item in fails():
            yield item

    mini.backend("b", fails_async if is_async else fails).endpoint("e", "/x", {"b": 1.0}).publish()
    (replica,) = mini.replicas.values()
    links: set[Any] = set()
    for _ in range(2):
        if way == "http":
            response = chunks_of(mini, "/x")
            with pytest.raises(http.client.IncompleteRead) as cut:
                response.read()
            assert cut.value.partial == b"x" * 50
        else:
            seen = []
            with pytest.raises(type(error)):
                for item in mini.handle("e").remote():
                    seen.append(item)
            assert seen == ["x"] * 50
        eventually(lambda: not replica._intake.admitted, "nothing is held")
        now = set(replica._server.sessions)
        assert links <= now, "no link was given up for it"
        links = now


class Endless:
    """A stream that says when it has ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def __call__(self) -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            self.ended.set()


def endless(mini: Mini) -> Endless:
    stream = Endless()

    async def run() -> AsyncIterator[int]:
        async for number in stream():
            yield number

    mini.backend("b", run).endpoint("e", None, {"b": 1.0}).publish()
    return stream


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_is_let_go_of_stops_the_generator(mini: Mini, begun: bool) -> None:
    stream = endless(mini)
    call = mini.handle("e").remote()
    if begun:
        for number in call:
            if number == 3:
                break
    else:
        call.result(10)
    del call

    assert stream.ended.wait(10)


def test_cancelling_a_call_whose_answer_streams_stops_the_generator_and_is_heard(mini: Mini) -> None:
    stream = endless(mini)
    call = mini.handle("e").remote()
    items = iter(call)
    assert next(items) == 0
    call.cancel()
    assert stream.ended.wait(10)
    with pytest.raises(CallCancelledError):
        list(items)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_nested_stream_ends_with_the_call_it_is_read_in(mini: Mini, kind: str) -> None:
    gate, began = threading.Event(), threading.Event()

    async def inner() -> AsyncIterator[str]:
        yield "first"
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            gate.set()

    def outer() -> list[str]:
        return list(mini.handle("inner").remote())

    async def outer_async() -> list[str]:
        return [item async for item in mini.handle("inner").remote()]

    mini.backend("inner", inner).backend("outer", outer if kind == "sync" else outer_async)
    mini.endpoint("inner", None, {"inner": 1.0}).endpoint("outer", None, {"outer": 1.0}).publish()
    call = mini.handle("outer").remote()
    assert began.wait(10)
    call.cancel()

    assert gate.wait(10)
    eventually(lambda: not any(each._intake.admitted for each in mini.replicas.values()), "both have ended")
