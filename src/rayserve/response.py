"""What a handler returned → what goes over the wire: status, rendered header block, body.

    handler ── value ──► encode ──────────► Encoded ──► replica ── HEAD frame ──► ingress ──► client
            ── HTTPError ──► encode_error ──►

The header block is final but for what the ingress owns (framing, Date, request id, X-Serve-*): such
fields are dropped here. It is judged here too, so that a bad header is the handler's 500 and never
reaches the ingress. A body is bytes, or an iterator of chunks that is closed by whoever sends it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator, Mapping
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

import msgspec
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.urls import iri_to_uri
from werkzeug.wrappers import Response

from rayserve.encoding import to_json, type_name
from rayserve.errors import BadResultError, CallError, HTTPError
from rayserve.foreign_response import taken_apart

__all__ = [
    "NO_BODY", "STREAM", "AsyncChunks", "Chunks", "Encoded", "announced", "chunk", "encode", "encode_error",
    "render_headers",
]  # fmt: skip

STREAM: Final = b"content-type: text/plain; charset=utf-8\r\n"  # of an answer made bit by bit
_TEXT: Final = b"content-type: text/plain; charset=utf-8\r\n"
_JSON: Final = b"content-type: application/json\r\n"
_BINARY: Final = b"content-type: application/octet-stream\r\n"

NO_BODY: Final = frozenset((204, 205, 304))  # RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5
# The ingress writes these itself: framing and connection of the client's side, and our own markers.
_INGRESS_OWNS: Final = frozenset((
    "connection", "content-length", "date", "keep-alive", "proxy-connection", "transfer-encoding",
    "x-request-id", "x-serve-backend", "x-serve-reason", "x-serve-retriable",
))  # fmt: skip
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2, token
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # section 5.5: no control character but the tab


class Encoded(msgspec.Struct, gc=False):
    """An answer, ready to be framed.

    Attributes:
        status: HTTP status, 200 to 599.
        headers: the rendered block, lower-case names, each line ending in CRLF, no blank line.
        body: the whole body, or a `Chunks` or `AsyncChunks` that makes it.
        size: bytes of body that were announced, if they are not all in `body`; -1: not known.
    """

    status: int
    headers: bytes
    body: bytes | Iterator[bytes] | AsyncIterator[bytes]
    size: int = -1


class Chunks(Iterator[bytes]):
    """The chunks of a sync stream as bytes, without empty ones; `close` ends the stream early.

    `close` must be called in the end, also of a stream that was never begun: a Flask response may
    have something registered to run then.
    """

    __slots__ = ("_close", "_source")

    def __init__(self, source: Iterable[Any], close: Any = None) -> None:
        self._source = iter(source)
        self._close = close if close is not None else getattr(source, "close", None)

    def __next__(self) -> bytes:
        while True:
            if piece := chunk(next(self._source)):
                return piece

    def close(self) -> None:
        """Run the stream's `finally` blocks and close callbacks; harmless when repeated."""
        close, self._close = self._close, None
        if close is not None:
            close()


class AsyncChunks(AsyncIterator[bytes]):
    """The chunks of an async stream as bytes, without empty ones; `aclose` ends the stream early."""

    __slots__ = ("_source",)

    def __init__(self, source: AsyncGenerator[Any, None]) -> None:
        self._source = source

    async def __anext__(self) -> bytes:
        while True:
            if piece := chunk(await anext(self._source)):
                return piece

    async def aclose(self) -> None:
        """Run the stream's `finally` blocks; harmless when repeated."""
        await self._source.aclose()


def encode(value: Any) -> Encoded:
    """Encode what a handler returned.

    `str` becomes plain text, `bytes` octets, `None` an empty 200, a `(body, status)` or
    `(body, status, headers)` tuple what it says, a Flask, Werkzeug or Starlette response itself, a
    generator a stream, anything else JSON.

    Args:
        value: the result of a call, or one item of a batch's result.

    Raises:
        BadResultError: the value cannot be an answer; the message names its type or the header.
    """
    kind = type(value)
    if kind is dict or kind is list:
        return Encoded(200, _JSON, to_json(value))
    if kind is str:
        return Encoded(200, _TEXT, _text(value))
    if kind is tuple and _is_answer(value):
        return _from_tuple(*value)
    if isinstance(value, Response):
        return _from_response(value)
    if (foreign := taken_apart(value)) is not None:
        status, pairs, body = foreign
        if isinstance(body, bytes):
            return _finish(status, render_headers(pairs), body)
        return _finish(status, render_headers(pairs), AsyncChunks(body), announced(pairs))
    headers, content = _content(value)
    return Encoded(200, headers, content)


def encode_error(error: HTTPError | HTTPException | CallError, request_id: str) -> Encoded:
    """Encode an error as a JSON body `{"error": …, "detail": …, "request_id": …}`.

    `error` is the reason of a `CallError`, else the status in words, such as `"not_found"`. Headers of
    the error (`Allow`, `WWW-Authenticate`, `Retry-After`, …) are kept; a response given to `flask.abort`
    is sent as it is.

    Raises:
        BadResultError: a status, detail or header of the error cannot be sent.
    """
    if isinstance(error, HTTPException):
        status, detail, extra = error.code or 500, error.description or "", error.get_headers()
        if error.response is not None or status < 400:  # flask.abort(response), a redirect
            return encode(error.get_response())
        headers = [(name, value) for name, value in extra if name.lower() != "content-type"]
    elif isinstance(error, HTTPError):
        status, detail, headers = error.status, error.detail, _pairs(error.headers)
    else:
        status, detail, headers = error.status, str(error), []
    reason = error.reason if isinstance(error, CallError) else _in_words(status)
    body = to_json({"error": reason, "detail": detail, "request_id": request_id})
    return _finish(status, render_headers(headers, _JSON), body)


def _content(value: Any) -> tuple[bytes, bytes | Iterator[bytes] | AsyncIterator[bytes]]:
    """Return default header block and body of anything but an answer tuple or a response."""
    if isinstance(value, (dict, list, int, float)):  # ahead of the slower questions below
        return _JSON, to_json(value)
    if value is None:
        return b"", b""
    if isinstance(value, str):
        return _TEXT, _text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _BINARY, bytes(value)
    if isinstance(value, (GeneratorType, Generator)):
        return STREAM, Chunks(value)
    if isinstance(value, (AsyncGeneratorType, AsyncGenerator)):
        return STREAM, AsyncChunks(value)
    return _JSON, to_json(value)


def _text(value: str) -> bytes:
    try:
        return str.encode(value)
    except UnicodeEncodeError as error:
        raise BadResultError(f"the result is a str that is not valid text: {error}") from error


def chunk(value: Any) -> bytes:
    """Return one piece of a stream as bytes.

    Raises:
        BadResultError: neither text nor bytes.
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise BadResultError(f"a stream yielded a value of type {type_name(value)}; yield str or bytes")


def _is_answer(value: tuple[Any, ...]) -> bool:
    """Tell `(body, status[, headers])` from a tuple that is data."""
    if not 2 <= len(value) <= 3 or not isinstance(value[1], int) or not 100 <= value[1] <= 599:
        return False
    return len(value) == 2 or _is_headers(value[2])


def _is_headers(value: Any) -> bool:
    if value is None or isinstance(value, Headers):
        return True
    if isinstance(value, Mapping):
        return all(isinstance(name, str) for name in value)
    return isinstance(value, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in value
    )


def _from_tuple(body: Any, status: int, headers: Any = None) -> Encoded:
    pairs = _pairs(headers)
    if isinstance(body, Response):
        return _from_response(body, int(status), pairs)
    default, content = _content(body)
    if status in NO_BODY:
        default = b""
    return _finish(int(status), render_headers(pairs, default) if pairs else default, content)


def _from_response(
    response: Response, status: int | None = None, extra: list[tuple[str, Any]] | None = None
) -> Encoded:
    """Take a response as it is; `extra` replaces its headers of the same name."""
    replaced = {name.lower() for name, _ in extra or ()}
    pairs = [pair for pair in response.headers if pair[0].lower() not in replaced] + (extra or [])
    status = response.status_code if status is None else status
    if response.is_sequence and not response.direct_passthrough:
        body = b"".join(response.iter_encoded())
        response.close()
        return _finish(status, render_headers(pairs), body)
    return _finish(status, render_headers(pairs), Chunks(response.response, response.close), announced(pairs))


def announced(pairs: Iterable[tuple[str, Any]]) -> int:
    """Return the length that a Content-Length among header pairs announces; -1 without, or if it cannot be one."""
    for name, value in pairs:
        if str(name).lower() == "content-length":
            text = str(value).strip()
            return int(text) if text.isascii() and text.isdecimal() else -1
    return -1


def _finish(status: int, headers: bytes, body: Any, size: int = -1) -> Encoded:
    if not 200 <= status <= 599:
        raise BadResultError(f"the result has status {status}, which cannot end a response; use 200 to 599")
    if status in NO_BODY:
        if isinstance(body, Chunks):
            body.close()
        body, size = b"", -1
    return Encoded(status, headers, body, size)


def _pairs(headers: Any) -> list[tuple[str, Any]]:
    """Return header pairs of a mapping (values may be lists), `Headers` or list of pairs."""
    if headers is None:
        return []
    if not isinstance(headers, Mapping):
        return [(name, value) for name, value in headers]
    pairs: list[tuple[str, Any]] = []
    for name, value in headers.items():
        pairs += [(name, item) for item in value] if isinstance(value, (list, tuple, set)) else [(name, value)]
    return pairs


def render_headers(pairs: list[tuple[str, Any]], default: bytes = b"") -> bytes:
    """Render header lines, `default` first unless the content type is among `pairs`."""
    lines, own_type = [], False
    for raw_name, raw_value in pairs:
        name, value = str(raw_name), str(raw_value)
        if not _NAME.fullmatch(name):
            raise BadResultError(f"the result has a header named {name!r}, which is not a valid name")
        name = name.lower()
        if _BAD_VALUE.search(value):
            raise BadResultError(f"the result's header {name!r} holds a line break or control character")
        if name in _INGRESS_OWNS:
            continue
        own_type = own_type or name == "content-type"
        if not value.isascii() and name in ("location", "content-location"):
            value = iri_to_uri(value)
        try:
            lines.append(f"{name}: {value.strip()}\r\n".encode("latin-1"))
        except UnicodeEncodeError:
            raise BadResultError(f"the result's header {name!r} is not latin-1 text; percent-encode it") from None
    return b"".join(lines) if own_type else default + b"".join(lines)


def _in_words(status: int) -> str:
    words = HTTP_STATUS_CODES.get(status, f"status {status}").lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "_", words).strip("_")
