"""`handle.request`: HTTP-shaped calls by Python code, without HTTP (case 30)."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import fastapi
import flask
import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini

from rayserve.apps import asgi, wsgi
from rayserve.batching import accept_batch
from rayserve.call_result import HandleOptions
from rayserve.context import context
from rayserve.errors import (
    BadRequestError,
    BadResultError,
    DeadlineError,
    HTTPError,
    NotFoundError,
    QueueFullError,
)  # fmt: skip
from rayserve.handle import ServeHandle


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def serve(
    mini: Mini, code: Any, route: str | None = None, config: dict[str, Any] | None = None, **options: Any
) -> ServeHandle:
    mini.backend("b", code, config).endpoint("e", route, {"b": 1.0}, **options).publish()
    return mini.handle("e")


def test_case_30_a_handler_sees_a_real_flask_request(mini: Mini) -> None:
    def show(request: flask.Request) -> dict[str, Any]:
        assert isinstance(request, flask.Request)
        return {
            "method": request.method, "path": request.path, "args": request.args.getlist("q"), "json": request.json,
            "x": request.headers["X-One"], "view": request.view_args, "web": context.web, "host": request.host,
        }  # fmt: skip

    handle = serve(mini, show, "/items/{item}")
    call = handle.request("patch", "/items/a%20b?q=1", params={"q": ["2", "3"]}, json=[1], headers={"X-One": "1"})
    response = call.result(10)

    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {
        "method": "PATCH", "path": "/items/a b", "args": ["1", "2", "3"], "json": [1], "x": "1",
        "view": {"item": "a b"}, "web": True, "host": "localhost",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("route", "path", "seen"),
    [
        (None, None, "/"),
        ("/own", None, "/own"),
        ("/m/*", None, "/m/"),
        ("/a/{b}", None, "/"),
        ("/own", "/other", "/other"),
    ],
)
def test_case_30_without_a_path_the_endpoints_own_is_asked_for(
    mini: Mini, route: str | None, path: str | None, seen: str
) -> None:
    handle = serve(mini, lambda request: request.path, route)

    assert handle.request(path=path).result(10).text == seen


def test_case_30_what_was_answered_is_a_response_whatever_its_status(mini: Mini) -> None:
    def answer(request: flask.Request) -> Any:
        if request.path == "/abort":
            flask.abort(410, "it is gone")
        if request.path == "/error":
            raise HTTPError(418, "a teapot", {"X-Tea": "green"})
        return flask.Response(b"made", 201, {"X-Own": "yes"})

    handle = serve(mini, answer)
    made, error = handle.request().result(10), handle.request(path="/error").result(10)

    assert (made.status_code, made.content, made.headers["x-own"]) == (201, b"made", "yes")
    assert (error.status_code, error.json()["detail"], error.headers["x-tea"]) == (418, "a teapot", "green")
    assert handle.request(path="/abort").result(10).json()["detail"] == "it is gone"
    with pytest.raises(HTTPError, match="a teapot"):
        error.raise_for_status()


def test_case_30_what_ended_without_an_answer_raises(mini: Mini) -> None:
    class Fails:
        def __call__(self, request: flask.Request) -> Any:
            if request.path == "/odd":
                return object()
            raise KeyError(request.path)

    handle = serve(mini, Fails)
    with pytest.raises(KeyError, match="/x") as raised:
        handle.request(path="/x").result(10)
    assert "raised in the replica" in raised.value.__notes__[0]
    with pytest.raises(BadResultError, match="object"):
        handle.request(path="/odd").result(10)
    with pytest.raises(NotFoundError, match='no method "other"'):
        handle.options("other").request().result(10)


def test_case_30_deadlines_and_full_lines_hold_too(mini: Mini) -> None:
    gate = threading.Event()

    def held() -> str:
        assert gate.wait(20)
        return "done"

    handle = serve(mini, held, None, {"max_concurrent_queries": 1, "max_queued": 1})
    first = handle.request("POST")
    with pytest.raises(DeadlineError):
        handle.options(timeout_s=0.05).request("POST").result(10)
    second, third = handle.request("POST"), handle.request("POST")
    with pytest.raises(QueueFullError):
        third.result(10)
    gate.set()

    assert [first.result(10).text, second.result(10).text] == ["done", "done"]


@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
def test_case_30_bodies_of_every_size_go_both_ways(mini: Mini, size: int) -> None:
    handle = serve(mini, lambda request: request.get_data()[::-1])
    data = bytes(range(250)) * (size // 250)

    assert handle.request("POST", "/", data=data).result(10).content == data[::-1]


def test_case_30_a_streamed_answer_is_collected(mini: Mini) -> None:
    def stream(request: flask.Request) -> Iterator[str]:
        for number in range(50):
            yield f"{number:05}" * 4000

    assert len(serve(mini, stream).request().result(10).content) == 50 * 20_000


def test_a_stream_that_breaks_off_raises(mini: Mini) -> None:
    def stream(request: flask.Request) -> Iterator[str]:
        yield "a"
        raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        serve(mini, stream).request().result(10)


def test_head_has_no_body(mini: Mini) -> None:
    response = serve(mini, lambda request: "text").request("HEAD").result(10)

    assert (response.status_code, response.content) == (200, b"")


def test_case_30_typed_handlers_check_what_came(mini: Mini) -> None:
    def double(item: int, times: int = 2) -> int:
        return item * times

    handle = serve(mini, double, "/double/{item}")

    assert handle.request(path="/double/4", params={"times": 3}).result(10).json() == 12
    assert handle.request(path="/double/x").result(10).status_code == 422


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_case_30_web_apps_can_be_asked(mini: Mini, kind: str) -> None:
    if kind == "asgi":
        app = fastapi.FastAPI()
        app.get("/items/{item}")(lambda item: {"item": item})
        code = asgi(app)
    else:
        site = flask.Flask("site")
        site.get("/items/<item>")(lambda item: {"item": item})
        code = wsgi(site)
    handle = serve(mini, code, "/app/*")

    assert handle.request(path="/app/items/3").result(10).json() == {"item": "3"}
    assert handle.request(path="/app/none").result(10).status_code == 404
    assert handle.request(path="/items/4").result(10).json() == {"item": "4"}, "outside of the mount: the app's own"
    with pytest.raises(BadRequestError, match=r"handle\.request"):
        handle.remote().result(10)


def test_requests_and_python_calls_never_share_a_batch(mini: Mini) -> None:
    @accept_batch
    def handler(items: list[Any]) -> list[Any]:
        return [(len(items), getattr(item, "path", item)) for item in items]

    handle = serve(mini, handler, None, {"max_batch_size": 8})
    calls = [handle.request(path=f"/{number}") for number in range(3)]
    plain = handle.remote("python")

    assert plain.result(10) == (1, "python")
    assert [call.result(10).json()[1] for call in calls] == ["/0", "/1", "/2"]


def test_case_30_inside_of_a_backend_the_request_nests(mini: Mini) -> None:
    async def inner(request: flask.Request) -> Any:
        return {"id": context.request_id, "deadline": context.deadline}

    async def outer(request: flask.Request) -> Any:
        response = await mini.handle("inner").request(path="/x")
        return {"inner": response.json(), "id": context.request_id, "deadline": context.deadline}

    mini.backend("inner", inner).endpoint("inner", None, {"inner": 1.0})
    serve(mini, outer, "/outer")
    answer = mini.get("/outer", {"x-request-id": "abc"}).json()

    assert answer["id"] == answer["inner"]["id"] == "abc"
    assert abs(answer["deadline"] - answer["inner"]["deadline"]) < 0.05


def test_a_request_can_be_cancelled(mini: Mini) -> None:
    heard = threading.Event()
    began = threading.Event()

    async def wait(request: flask.Request) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            heard.set()

    call = serve(mini, wait).request()
    assert began.wait(10)
    call.cancel()

    assert heard.wait(10)
    eventually(lambda: all(replica._intake.admitted == 0 for replica in mini.replicas.values()), "nothing is held")


def test_unknown_options_are_errors(mini: Mini) -> None:
    handle = serve(mini, lambda: "x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'timeout'"):
        handle.request(timeout=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="json or data"):
        handle.request(json=1, data=b"1")


def test_an_endpoint_that_comes_later_is_waited_for(mini: Mini) -> None:
    serve(mini, lambda request: request.view_args)
    call = ServeHandle("mini", HandleOptions("later", missing_ok=True)).request(path="/later/7")
    mini.endpoint("later", "/later/{n}", {"b": 1.0}).publish()

    assert call.result(10).json() == {"n": "7"}
