"""Server-sent events: `return serve.sse(generator())`.

    str | dict | anything JSON ─► "event:", "id:", "retry:", "data:" lines ─► text/event-stream

The format is the one of the HTML standard, section 9.2 (server-sent events).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final

from rayserve.encoding import to_json
from rayserve.errors import BadResultError, InvalidTypeError

__all__ = ["sse"]

_HEADERS: Final = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_FIELDS: Final = ("event", "id", "retry")


def sse(
    events: Iterable[Any] | AsyncIterable[Any], headers: Mapping[str, str] | None = None
) -> tuple[Iterator[bytes] | AsyncIterator[bytes], int, dict[str, str]]:
    """Make an answer that sends each event as it is made; return it from a handler.

    Args:
        events: a generator or async generator (or any iterable). A `str` is sent as data as it is; a dict whose keys
            are among `data`, `event`, `id` and `retry` (milliseconds) is an event with these fields; anything else is
            sent as JSON data.
        headers: further response headers.

    Returns:
        What a handler returns: body, status and headers.

    Raises:
        InvalidTypeError: `events` cannot be iterated over.
    """
    named = {**_HEADERS, **(headers or {})}
    if isinstance(events, AsyncIterable):
        return _async_lines(events), 200, named
    if isinstance(events, (str, bytes, Mapping)) or not isinstance(events, Iterable):
        raise InvalidTypeError(f"serve.sse takes an iterable of events, got {type(events).__name__}")
    return _lines(events), 200, named


def _lines(events: Iterable[Any]) -> Iterator[bytes]:
    for event in events:
        yield _encoded(event)


async def _async_lines(events: AsyncIterable[Any]) -> AsyncIterator[bytes]:
    async for event in events:
        yield _encoded(event)


def _encoded(event: Any) -> bytes:
    fields: Mapping[str, Any] = {"data": event}
    if isinstance(event, dict) and event and event.keys() <= {"data", *_FIELDS}:
        fields = event
    lines = []
    for name in _FIELDS:
        if name in fields:
            value = str(fields[name])
            if "\n" in value or "\r" in value or "\0" in value:
                raise BadResultError(f"the {name} of a server-sent event holds a line break")
            lines.append(f"{name}: {value}\n")
    if "data" in fields:
        data = fields["data"]
        text = data if isinstance(data, str) else to_json(data).decode()
        # Each line of the data is a field of its own; the browser joins them again.
        lines += [f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return ("".join(lines) + "\n").encode()


sse.__module__ = "rayserve"
