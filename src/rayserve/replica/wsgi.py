"""Calls a WSGI app for one request (PEP 3333).

Request.environ + SCRIPT_NAME ─► app(environ, start_response) ─► iterable ─► Encoded: whole, or a stream
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any
from urllib.parse import unquote_to_bytes

from rayserve.errors import BadResultError
from rayserve.replica.inflow import Inflow, Stream
from rayserve.request import Request
from rayserve.response import NO_BODY, Chunks, Encoded, announced, render_headers
from rayserve.wire.heads import Open

__all__ = ["call_wsgi"]

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def call_wsgi(app: WSGIApp, head: Open, body: bytes, inflow: Inflow | None) -> Encoded:
    """Run `app` for one request.

    Args:
        app: the app.
        head: the request.
        body: its body, if it is here already.
        inflow: its body, if it still arrives.

    Raises:
        BadResultError: the app broke PEP 3333.
        Exception: whatever the app raised.
    """
    environ = _environ(head, body, inflow)
    said: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info is not None and said and written:
            raise exc_info[1].with_traceback(exc_info[2])
        if said and exc_info is None:
            raise BadResultError("the app called start_response twice without exc_info")
        said[:] = [status, headers]
        return written.append

    result = app(environ, start_response)
    try:
        iterator = iter(result)
        # An app may call start_response as late as its first chunk (PEP 3333, "The start_response() callable").
        written += islice(iterator, 1)
        if not said:
            raise BadResultError("the app returned without calling start_response")
        status, headers = said
        block = render_headers(headers)
        code = int(status.split(" ", 1)[0])
        size = -1 if code in NO_BODY else announced(headers)
        if head.method != "HEAD" and isinstance(result, (list, tuple)):
            written += iterator
            if size >= 0 and size != sum(map(len, written)):
                raise BadResultError(f"the app announced {size} bytes (Content-Length) and sent another number")
            size = sum(map(len, written))
    except BaseException:
        _close(result)
        raise
    if size >= 0 and (head.method == "HEAD" or size == sum(map(len, written))):  # all of it is here
        _close(result)
        return Encoded(code, block, b"".join(written), size)
    return Encoded(code, block, Chunks(_chain(written, iterator), lambda: _close(result)), size)


def _environ(head: Open, body: bytes, inflow: Inflow | None) -> dict[str, Any]:
    environ: dict[str, Any] = dict(Request(head, body, None if inflow is None else Stream(inflow)).environ)
    root = unquote_to_bytes(head.root).decode("latin-1")
    path = unquote_to_bytes(head.target).decode("latin-1")
    environ["SCRIPT_NAME"] = root
    environ["PATH_INFO"] = path[len(root) :] if root and path.startswith(root) else path
    environ["wsgi.multithread"] = True
    environ["wsgi.multiprocess"] = True
    environ["wsgi.errors"] = sys.stderr
    return environ


def _chain(early: list[bytes], rest: Iterable[bytes]) -> Iterable[bytes]:
    yield from early
    yield from rest


def _close(result: Any) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()
