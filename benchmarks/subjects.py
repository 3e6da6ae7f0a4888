"""The code that is served by RayServe and by its peers alike.

    POST /double   {"x": 1} → {"y": 2}                POST /size     any body → {"bytes": its length}
    POST /hundred  100 small chunks                   WebSocket      each text message comes back

`asgi` runs under uvicorn, `wsgi` under gunicorn, the plain functions in RayServe's replicas, `echo` in both.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import flask

__all__ = ["CHUNK", "CHUNKS", "asgi", "double", "echo", "hundred", "noop", "size", "wsgi"]

CHUNKS, CHUNK = 100, b"a small chunk of about a token.\n"

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def double(request: flask.Request) -> dict[str, int]:
    """Answer twice the number."""
    return {"y": 2 * request.get_json()["x"]}


def size(request: flask.Request) -> dict[str, int]:
    """Answer the body's length."""
    return {"bytes": len(request.data)}


def noop() -> str:
    """Answer as little as can be."""
    return ""


async def hundred() -> AsyncIterator[bytes]:
    """Answer in chunks, without a pause between them."""
    for _ in range(CHUNKS):
        yield CHUNK


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Send back what a WebSocket brings, until it is closed."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def asgi(scope: Message, receive: Receive, send: Send) -> None:
    """Do all of it by hand, on nothing but the ASGI protocol."""
    if scope["type"] == "websocket":
        return await echo(scope, receive, send)
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    if scope["path"] == "/hundred":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        async for chunk in hundred():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        return await send({"type": "http.response.body"})
    body = b"".join(pieces)
    answer = {"bytes": len(body)} if scope["path"] == "/size" else {"y": 2 * json.loads(body)["x"]}
    data = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    return await send({"type": "http.response.body", "body": data})


def wsgi() -> flask.Flask:
    """Return the Flask app."""
    app = flask.Flask("bench")
    app.add_url_rule("/double", "double", lambda: double(flask.request), methods=["POST"])
    app.add_url_rule("/size", "size", lambda: size(flask.request), methods=["POST"])
    return app
