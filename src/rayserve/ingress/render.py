"""Answers as bytes: the status line and the fields the ingress owns, around a header block the replica has rendered.

    status, header block, framing, request id ─► head ─► bytes up to the blank line; the caller appends the body
    reason, detail ─► error ─► a whole answer of our own, with the markers of our errors and a JSON body

The ingress owns Date, Content-Length, Transfer-Encoding, Connection, X-Request-Id and X-Serve-Backend; a header block
must not hold them, nor CR, LF or NUL inside a field: the replica checked that. No Server field is sent. Nothing here
reads a clock: the caller keeps `http_date(now)` for a second.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Final

import msgspec

from rayserve.ingress.head import Head

__all__ = ["CONTINUE", "LAST_CHUNK", "NO_HEAD", "chunk_size", "closes", "error", "has_body", "head", "http_date"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
# Stands for the head of a request that could not be read, where an answer and the access log want one.
NO_HEAD: Final = Head("-", "-", b"", [], {}, "", (1, 1), False, None, False, False, "")

# With the name of the field that follows. The version is ours, whatever the client's is (RFC 9110 section 2.5).
_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}
_OPENING: Final = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\ndate: ".encode("ascii") for status in range(100, 600)
}
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(now: float) -> bytes:
    """Return seconds since the epoch as an IMF-fixdate (RFC 9110 section 5.6.7), in English whatever the locale."""
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(now)
    return b"%s, %02d %s %04d %02d:%02d:%02d GMT" % (
        _DAYS[weekday].encode(), day, _MONTHS[month - 1].encode(), year, hour, minute, second,
    )  # fmt: skip


def has_body(status: int) -> bool:
    """Whether an answer of this status may have a body at all: not 1xx, 204 or 304 (RFC 9112 section 6.3)."""
    return status >= 200 and status != 204 and status != 304


def closes(status: int, content_length: int | None, chunked: bool, version: tuple[int, int]) -> bool:
    """Whether only the end of the connection can end this answer's body, so that the caller must close it.

    Args:
        status: HTTP status.
        content_length: length of the body, None if not known.
        chunked: whether the body is to be chunked; HTTP/1.0 has no chunks (RFC 9112 section 6.1).
        version: the client's HTTP version.
    """
    return content_length is None and not (chunked and version != (1, 0)) and has_body(status)


def head(
    status: int,
    headers_block: bytes,
    *,
    content_length: int | None,
    chunked: bool,
    keep_alive: bool,
    version: tuple[int, int],
    request_id: str,
    backend: str | None,
    date: bytes,
) -> bytes:
    """Return everything of an answer that comes before its body.

    The length wins over chunked when both are given; 1xx, 204 and 304 get neither (RFC 9110 section 8.6). An answer to
    HEAD is rendered as the one to GET would be.

    Args:
        status: HTTP status, 100 to 599.
        headers_block: rendered fields, each ended by CRLF, without those the ingress owns; may be empty.
        content_length: length of the body in bytes, None if not known.
        chunked: whether the body will be sent in chunks; ignored for HTTP/1.0, where `closes` is then true.
        keep_alive: whether the connection stays open; `closes` overrules it.
        version: the client's HTTP version.
        request_id: value of X-Request-Id; visible ASCII.
        backend: value of X-Serve-Backend, None if it is not exposed.
        date: the current `http_date`.
    """
    if content_length is not None:
        framing = b"\r\ncontent-length: %d\r\n" % content_length if has_body(status) else b"\r\n"
    elif not has_body(status):
        framing = b"\r\n"
    elif chunked and version != (1, 0):
        framing = b"\r\ntransfer-encoding: chunked\r\n"
    else:
        framing = b"\r\n"
        keep_alive = False
    if not keep_alive:
        connection = b"\r\nconnection: close\r\n\r\n" if status >= 200 else b"\r\n\r\n"
    elif version == (1, 0):
        connection = b"\r\nconnection: keep-alive\r\n\r\n"
    else:
        connection = b"\r\n\r\n"
    marks = f"{request_id}\r\nx-serve-backend: {backend}" if backend is not None else request_id
    return b"".join(
        (_OPENING[status], date, framing, headers_block, b"x-request-id: ", marks.encode("latin-1"), connection)
    )


def chunk_size(length: int) -> bytes:
    """Return the size line before a chunk of that many bytes, never 0; CRLF follows the data."""
    return b"%x\r\n" % length


def error(
    status: int,
    reason: str,
    detail: str,
    retriable: str,
    request_id: str,
    *,
    keep_alive: bool,
    version: tuple[int, int],
    date: bytes,
    headers: bytes = b"",
    body: bytes = b"",
    retry_after_s: int = 0,
    bare: bool = False,
    backend: str | None = None,
) -> bytes:
    """Return a whole answer that we make ourselves: JSON `{"error", "detail", "request_id"}` and our markers.

    Args:
        status: HTTP status, 400 to 599 (or what an `HTTPError` asks for).
        reason: a word of `rayserve.errors.REASONS`; sent as X-Serve-Reason and as `error`.
        detail: one sentence for the client; anything goes, it is escaped.
        retriable: `"true"`, `"false"` or `"unknown"`; sent as X-Serve-Retriable.
        request_id: value of X-Request-Id; visible ASCII.
        keep_alive: whether the connection stays open; False after a `Refusal`.
        version: the client's HTTP version; `(1, 1)` when its head could not be read.
        date: the current `http_date`.
        headers: rendered fields to add, such as Allow, which a 405 must have (RFC 9110 section 15.5.6).
        body: a JSON body to send instead of ours.
        retry_after_s: Retry-After in seconds; 0 sends none.
        bare: whether this answers HEAD: the same fields without the body (RFC 9110 section 9.3.2).
        backend: value of X-Serve-Backend, None if it is not exposed.
    """
    if not body:
        # A lone surrogate (in text of a replica) has no place in JSON: it is sent as "\\udc80".
        readable = detail.encode("utf-8", "backslashreplace").decode("utf-8")
        body = msgspec.json.encode({"error": reason, "detail": readable, "request_id": request_id})
    marks = f"x-serve-reason: {reason}\r\nx-serve-retriable: {retriable}\r\n"
    if retry_after_s:
        marks += f"retry-after: {retry_after_s}\r\n"
    if b"content-type:" not in headers.lower():
        marks += "content-type: application/json\r\n"
    rendered = head(
        status,
        marks.encode("ascii") + headers,
        content_length=len(body),
        chunked=False,
        keep_alive=keep_alive,
        version=version,
        request_id=request_id,
        backend=backend,
        date=date,
    )
    return rendered if bare or not has_body(status) else rendered + body
