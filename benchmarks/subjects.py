"""The code that is served: the same two answers in RayServe, in bare ASGI and in Flask.

    POST /double   {"x": 1} → {"y": 2}                POST /size   any body → {"bytes": its length}

`asgi` runs under uvicorn, `wsgi` under gunicorn, the plain functions in RayServe's replicas.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import flask

__all__ = ["asgi", "double", "noop", "size", "wsgi"]

Message = dict[str, Any]


def double(request: flask.Request) -> dict[str, int]:
    """Answer twice the number."""
    return {"y": 2 * request.get_json()["x"]}


def size(request: flask.Request) -> dict[str, int]:
    """Answer the body's length."""
    return {"bytes": len(request.data)}


def noop() -> str:
    """Answer as little as can be."""
    return ""


async def asgi(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Do the same by hand, on nothing but the ASGI protocol."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = b"".join(pieces)
    answer = {"bytes": len(body)} if scope["path"] == "/size" else {"y": 2 * json.loads(body)["x"]}
    data = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def wsgi() -> flask.Flask:
    """Return the Flask app."""
    app = flask.Flask("bench")
    app.add_url_rule("/double", "double", lambda: double(flask.request), methods=["POST"])
    app.add_url_rule("/size", "size", lambda: size(flask.request), methods=["POST"])
    return app
