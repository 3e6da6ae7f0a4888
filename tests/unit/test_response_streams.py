import asyncio
import io
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

import flask
import pytest

from rayserve.errors import BadResultError
from rayserve.response import AsyncChunks, Chunks, encode

TEXT = b"content-type: text/plain; charset=utf-8\r\n"
JSON = b"content-type: application/json\r\n"
HTML = b"content-type: text/html; charset=utf-8\r\n"


def test_generator_becomes_a_stream_of_bytes() -> None:
    ended = []

    def chunks() -> Generator[Any, None, None]:
        try:
            yield "é"
            yield b""
            yield bytearray(b"b")
            yield 3
        finally:
            ended.append(1)

    encoded = encode(chunks())
    assert (encoded.status, encoded.headers) == (200, TEXT)
    assert isinstance(encoded.body, Chunks)
    assert [next(encoded.body), next(encoded.body)] == ["é".encode(), b"b"]
    with pytest.raises(BadResultError, match="yielded a value of type int; yield str or bytes"):
        next(encoded.body)
    encoded.body.close()
    encoded.body.close()
    assert ended == [1]


def test_generator_with_status_and_headers() -> None:
    encoded = encode(((x for x in "ab"), 201, {"content-type": "text/event-stream"}))
    assert (encoded.status, encoded.headers) == (201, b"content-type: text/event-stream\r\n")
    assert isinstance(encoded.body, Iterator)
    assert list(encoded.body) == [b"a", b"b"]


def test_streaming_flask_response() -> None:
    closed = []
    response = flask.Response((x for x in ["a", "b"]), mimetype="text/csv")
    response.call_on_close(lambda: closed.append(1))
    encoded = encode(response)
    assert encoded.headers == b"content-type: text/csv; charset=utf-8\r\n"
    assert isinstance(encoded.body, Chunks)
    assert list(encoded.body) == [b"a", b"b"]
    assert closed == []
    encoded.body.close()
    assert closed == [1]


def test_passthrough_response_is_streamed() -> None:
    encoded = encode(flask.Response(io.BytesIO(b"ab\ncd"), direct_passthrough=True))
    assert isinstance(encoded.body, Chunks)
    assert b"".join(encoded.body) == b"ab\ncd"


def test_async_generator_becomes_an_async_stream() -> None:
    ended = []

    async def chunks() -> AsyncGenerator[Any, None]:
        try:
            yield "a"
            yield ""
            yield b"b"
            yield "c"
        finally:
            ended.append(1)

    async def run() -> list[bytes]:
        encoded = encode(chunks())
        assert encoded.headers == TEXT
        assert isinstance(encoded.body, AsyncChunks)
        got = [await anext(encoded.body), await anext(encoded.body)]
        await encoded.body.aclose()
        return got

    assert asyncio.run(run()) == [b"a", b"b"]
    assert ended == [1]


def test_stream_with_a_status_that_has_no_body_is_closed() -> None:
    ended = []

    def chunks() -> Generator[str, None, None]:
        try:
            yield "a"
        finally:
            ended.append(1)

    begun = chunks()
    next(begun)
    assert encode((begun, 204)).body == b""
    assert ended == [1]


@pytest.mark.parametrize(("announced", "size"), [("5", 5), (" 12 ", 12), ("0", 0), ("-1", -1), ("five", -1), ("٣", -1)])
def test_the_length_that_a_streamed_response_announces_is_kept(announced: str, size: int) -> None:
    response = flask.Response(iter([b"a"]), headers={"Content-Length": announced})
    encoded = encode(response)
    assert encoded.size == size
    assert b"content-length" not in encoded.headers  # the ingress writes it


def test_a_streamed_response_without_a_length_has_none() -> None:
    assert encode(flask.Response(iter([b"a"]))).size == -1
    assert encode(flask.Response(iter([b"a"]), 204, {"Content-Length": "5"})).size == -1
