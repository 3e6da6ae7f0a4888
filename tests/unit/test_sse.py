"""Server-sent events as bytes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayserve.errors import BadResultError
from rayserve.sse import sse


def sent(events: Any) -> bytes:
    body, status, headers = sse(events)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    return b"".join(body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        ("hello", b"data: hello\n\n"),
        ("two\nlines\r\nand\rmore", b"data: two\ndata: lines\ndata: and\ndata: more\n\n"),
        ({"x": 1}, b'data: {"x":1}\n\n'),
        ([1, 2], b"data: [1,2]\n\n"),
        ({"event": "token", "data": "a", "id": 7}, b"event: token\nid: 7\ndata: a\n\n"),
        ({"retry": 500}, b"retry: 500\n\n"),
    ],
)
def test_an_event_has_its_fields_on_lines(event: Any, lines: bytes) -> None:
    assert sent([event]) == lines


def test_async_events_come_out_the_same() -> None:
    async def events() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    async def read() -> list[bytes]:
        body, _, _ = sse(events())
        return [chunk async for chunk in body]  # type: ignore[union-attr]

    assert asyncio.run(read()) == [b"data: a\n\n", b"data: b\n\n"]


def test_a_line_break_in_a_field_is_refused() -> None:
    with pytest.raises(BadResultError, match="line break"):
        sent([{"event": "a\nb", "data": "x"}])


def test_what_is_no_iterable_of_events_is_refused() -> None:
    for nothing in ("text", {"data": "x"}, 3):
        with pytest.raises(TypeError, match=r"serve\.sse takes an iterable"):
            sse(nothing)  # type: ignore[arg-type]
