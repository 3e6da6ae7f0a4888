"""A response of Starlette's or FastAPI's that a plain handler returned, taken apart.

    JSONResponse, HTMLResponse, … ─► status, header pairs, bytes
    StreamingResponse ─► status, header pairs, async generator

Starlette is never imported here: a value can be of its types only if the user did that. What needs the whole app around
it, files and background tasks, is refused rather than left undone.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from rayserve.encoding import type_name
from rayserve.errors import BadResultError

__all__ = ["taken_apart"]


def taken_apart(value: Any) -> tuple[int, list[tuple[str, str]], bytes | AsyncGenerator[Any, None]] | None:
    """Return status, header pairs and body of a Starlette response; None for anything else.

    Raises:
        BadResultError: it has a background task, or sends itself, as a `FileResponse` does.
    """
    module = sys.modules.get("starlette.responses")
    if module is None or not isinstance(value, module.Response):
        return None
    if value.background is not None:
        raise BadResultError(
            f"the result is a {type_name(value)} with a background task, which only a whole app can run; "
            "leave it out, or serve the app with serve.asgi"
        )
    body = getattr(value, "body", None)
    if body is None:
        if not hasattr(value, "body_iterator"):
            raise BadResultError(
                f"the result is a {type_name(value)}, which only a whole app can send; "
                "return flask.send_file(…), or serve the app with serve.asgi"
            )
        body = _pieces(value.body_iterator)
    pairs = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in value.raw_headers]
    return value.status_code, pairs, bytes(body) if isinstance(body, (bytes, memoryview)) else body


async def _pieces(source: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    try:
        async for piece in source:
            yield piece
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
