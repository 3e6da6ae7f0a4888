"""Responses of Starlette's that a plain handler returned (case 17 and streams out)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from rayserve.errors import BadResultError
from rayserve.response import AsyncChunks, encode


def test_case_17_a_starlette_response_goes_out_as_it_is() -> None:
    encoded = encode(JSONResponse({"a": 1}, 201, {"X-A": "1"}))
    assert (encoded.status, encoded.body) == (201, b'{"a":1}')
    assert encoded.headers == b"x-a: 1\r\ncontent-type: application/json\r\n"  # the ingress writes the length
    assert encode(HTMLResponse("<p>")).headers == b"content-type: text/html; charset=utf-8\r\n"
    assert encode(RedirectResponse("/x")).headers == b"location: /x\r\n"
    assert encode(Response(status_code=204)).body == b""


def test_cookies_of_a_starlette_response_are_all_sent() -> None:
    response = Response("x")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    assert encode(response).headers.count(b"set-cookie: ") == 2


def test_a_starlette_stream_is_a_stream_with_the_length_it_announces() -> None:
    async def run() -> list[bytes]:
        encoded = encode(StreamingResponse(iter(["a", "b"]), headers={"Content-Length": "2"}))
        assert isinstance(encoded.body, AsyncChunks)
        assert encoded.size == 2
        return [piece async for piece in encoded.body]

    assert asyncio.run(run()) == [b"a", b"b"]


def test_a_starlette_stream_that_is_given_up_ends_its_generator() -> None:
    ended = []

    async def chunks() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            ended.append(1)

    async def run() -> None:
        body: Any = encode(StreamingResponse(chunks())).body
        assert await anext(body) == b"a"
        await body.aclose()

    asyncio.run(run())
    assert ended == [1]


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (Response("x", background=BackgroundTask(print)), "with a background task, which only a whole app can run"),
        (FileResponse(__file__), "FileResponse, which only a whole app can send; return flask.send_file"),
    ],
)
def test_what_needs_the_whole_app_is_refused(response: Response, text: str) -> None:
    with pytest.raises(BadResultError, match=text):
        encode(response)
