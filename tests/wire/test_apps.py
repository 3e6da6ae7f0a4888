"""Whole web apps behind a mount: FastAPI, Starlette, Flask."""

import http.client
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import fastapi
import flask
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from tests.wire.mini import Mini

from rayserve.apps import asgi, wsgi
from rayserve.replica.replies import user_traceback

METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS")


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def serve(mini: Mini, app: Any, route: str = "/app/*") -> None:
    mini.backend("b", app).endpoint("e", route, {"b": 1.0}, methods=METHODS).publish()


def test_a_fastapi_app_answers_under_its_prefix(mini: Mini) -> None:
    app = fastapi.FastAPI()

    @app.get("/items/{item}")
    def item(item: int, q: str = "") -> dict[str, Any]:
        return {"item": item, "q": q}

    @app.post("/sum")
    async def add(numbers: list[int]) -> int:
        return sum(numbers)

    serve(mini, asgi(app))

    assert mini.get("/app/items/3?q=a").json() == {"item": 3, "q": "a"}
    assert mini.get("/app/items/x").status == 422
    assert mini.post("/app/sum", b"[1, 2, 3]", {"content-type": "application/json"}).json() == 6
    assert mini.get("/app/openapi.json").json()["servers"] == [{"url": "/app"}]
    assert mini.get("/app/none").status == 404


def test_the_lifespan_runs_around_all_requests_and_its_state_is_seen(mini: Mini) -> None:
    ended = threading.Event()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"model": "loaded"}
        ended.set()

    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.model)

    serve(mini, asgi(Starlette(routes=[Route("/", show)], lifespan=lifespan)), "/*")

    assert mini.get("/").body == b"loaded"
    mini.remove_backend("b")
    mini.publish()
    assert ended.wait(10)


def test_a_failing_lifespan_says_why(mini: Mini) -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no weights")
        yield

    with pytest.raises(Exception, match="no weights") as caught:
        mini.backend("b", asgi(Starlette(lifespan=lifespan), lifespan="on"))
    trace = caught.tb
    while trace.tb_next is not None and trace.tb_frame.f_code.co_name != "_make_executor":
        trace = trace.tb_next
    shown = user_traceback(caught.value.with_traceback(trace))
    assert "no weights" in shown
    assert "/lifespan.py" not in shown.partition("LifespanError")[0], (
        "frames of ours or the loop's tell nobody anything"
    )


def test_a_streaming_response_of_an_app_arrives(mini: Mini) -> None:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"%d\n" % number

    async def stream(_: Request) -> StreamingResponse:
        return StreamingResponse(numbers())

    serve(mini, asgi(Starlette(routes=[Route("/s", stream)])))

    assert mini.get("/app/s").body == b"".join(b"%d\n" % number for number in range(1000))


def test_a_large_body_reaches_an_app(mini: Mini) -> None:
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    serve(mini, asgi(Starlette(routes=[Route("/n", size, methods=["POST"])])))

    assert mini.post("/app/n", bytes(3_000_000)).body == b"3000000"


def test_an_app_that_raises_is_a_500_and_serves_on(mini: Mini) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/bad"):
            raise ValueError("bad")
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"X-A", b"1"), (b"content-length", b"2")]}
        )
        await send({"type": "http.response.body", "body": b"ok"})

    serve(mini, asgi(app))

    assert mini.get("/app/bad").status == 500
    good = mini.get("/app/good")
    assert (good.status, good.body, good["x-a"]) == (200, b"ok", "1")


def test_a_flask_app_answers_under_its_prefix(mini: Mini) -> None:
    app = flask.Flask("shop")

    @app.route("/where")
    def where() -> dict[str, str]:
        return {"root": flask.request.script_root, "path": flask.request.path, "url": flask.url_for("where")}

    @app.route("/up", methods=["POST"])
    def up() -> str:
        return str(len(flask.request.data))

    @app.route("/stream")
    def stream() -> flask.Response:
        return flask.Response(f"{number}\n" for number in range(100))

    serve(mini, wsgi(app, threads=2))

    assert mini.get("/app/where").json() == {"root": "/app", "path": "/where", "url": "/app/where"}
    assert mini.post("/app/up", bytes(1_000_000)).body == b"1000000"
    assert mini.get("/app/stream").body == b"".join(b"%d\n" % number for number in range(100))
    assert mini.get("/app/none").status == 404


def test_wsgi_threads_overlap(mini: Mini) -> None:
    together = threading.Barrier(12)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        together.wait(10)
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"met"]

    serve(mini, wsgi(app, threads=12))
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(mini.get("/app/x").body)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert answers == [b"met"] * 12


def test_a_factory_is_called_on_the_replica(mini: Mini) -> None:
    def make() -> Starlette:
        async def here(_: Request) -> PlainTextResponse:
            return PlainTextResponse("made")

        return Starlette(routes=[Route("/", here)])

    serve(mini, asgi(make), "/*")

    assert mini.get("/").body == b"made"


def test_a_handle_cannot_call_an_app(mini: Mini) -> None:
    serve(mini, asgi(fastapi.FastAPI()))

    with pytest.raises(ValueError, match="by HTTP"):
        mini.handle("e").remote().result(10)


@pytest.mark.parametrize("more", [False, True])
def test_an_app_that_sends_another_length_than_it_announced_is_found_out(mini: Mini, more: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"5")]})
        await send({"type": "http.response.body", "body": b"four", "more_body": more})
        await send({"type": "http.response.body", "body": b""})

    serve(mini, asgi(app))

    if more:  # its head is on its way already: the client sees that the body is not whole
        with pytest.raises(http.client.IncompleteRead):
            mini.get("/app/x")
    else:
        assert mini.get("/app/x").status == 500


@pytest.mark.parametrize("chunks", [[b"four"], [b"fo", b"ur", b"five"]])
def test_a_wsgi_app_that_sends_another_length_than_it_announced_is_found_out(mini: Mini, chunks: list[bytes]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        return chunks if environ["QUERY_STRING"] else iter(chunks)

    serve(mini, wsgi(app))

    assert mini.get("/app/x?list").status == 500
    with pytest.raises(http.client.HTTPException):
        mini.get("/app/x")


def test_an_app_that_ignores_its_lifespan_is_taken_to_have_none(mini: Mini) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

    serve(mini, asgi(app))
    assert mini.get("/app/x").status == 204
    with pytest.raises(Exception, match=r"returned before startup\.complete"):
        mini.backend("insists", asgi(app, lifespan="on"))


def test_head_without_an_announced_length_says_none(mini: Mini) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    serve(mini, asgi(app))
    head = mini.ask("HEAD", "/app/x")
    assert (head.status, head.get("content-length")) == (200, None)
    assert mini.get("/app/x").get("content-length") == "0"
