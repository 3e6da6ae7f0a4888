"""Request bodies that reach the handler while they arrive, and what handlers can do with them."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import flask
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.conditions import eventually
from tests.wire.http_client import Client, chunked, request
from tests.wire.mini import Mini

from rayserve.apps import asgi, wsgi
from rayserve.replica.inflow import Broken

STREAM = {"stream_request": True}
LARGE = 300_000  # more than one frame, so never whole at once


class Scene:
    """What a handler saw, and the events it sets."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()
        self.first = b""
        self.error: BaseException | None = None

    def note(self, piece: bytes) -> None:
        if not self.began.is_set():
            self.first = piece
            self.began.set()


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def summary(pieces: list[bytes]) -> dict[str, Any]:
    body = b"".join(pieces)
    return {"size": len(body), "hash": hashlib.sha256(body).hexdigest()}


def sync_handler(scene: Scene) -> Callable[[Any], Any]:
    def handler(request: Any) -> Any:
        pieces = []
        try:
            while piece := request.stream.read1(1 << 20):
                scene.note(piece)
                pieces.append(piece)
        except BaseException as error:
            scene.error = error
            raise
        finally:
            scene.ended.set()
        return summary(pieces)

    return handler


def async_handler(scene: Scene) -> Callable[[Any], Any]:
    async def handler(request: Any) -> Any:
        pieces = []
        try:
            async for piece in request.stream:
                scene.note(piece)
                pieces.append(piece)
        except BaseException as error:
            scene.error = error
            raise
        finally:
            scene.ended.set()
        return summary(pieces)

    return handler


def asgi_app(scene: Scene) -> Any:
    async def handler(request: Request) -> JSONResponse:
        pieces = []
        try:
            async for piece in request.stream():
                scene.note(piece)
                pieces.append(piece)
        except BaseException as error:
            scene.error = error
            raise
        finally:
            scene.ended.set()
        return JSONResponse(summary(pieces))

    return asgi(Starlette(routes=[Route("/x", handler, methods=["POST"])]))


def wsgi_app(scene: Scene) -> Any:
    app = flask.Flask("subject")
    app.add_url_rule("/x", "x", lambda: flask.jsonify(sync_handler(scene)(flask.request)), methods=["POST"])
    return wsgi(app)


KINDS: dict[str, tuple[Callable[[Scene], Any], dict[str, Any]]] = {
    "sync": (sync_handler, STREAM),
    "threads": (sync_handler, {**STREAM, "max_concurrency": 2}),
    "async": (async_handler, STREAM),
    "asgi": (asgi_app, {}),  # apps stream without being asked
    "wsgi": (wsgi_app, STREAM),
}
ALL = pytest.mark.parametrize("kind", list(KINDS))


def serve(mini: Mini, scene: Scene, kind: str, **endpoint: Any) -> None:
    make, config = KINDS[kind]
    route = "/app/*" if kind in ("asgi", "wsgi") else "/app/x"
    mini.backend("b", make(scene), config).endpoint("e", route, {"b": 1.0}, **endpoint).publish()


@ALL
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_handler_sees_the_first_bytes_before_the_last_are_sent(
    mini: Mini, scene: Scene, kind: str, framing: str
) -> None:
    serve(mini, scene, kind)
    rest = bytes(range(250)) * 20_000
    whole = b"first" + rest
    with Client(mini.port) as client:
        if framing == "length":
            client.send(request("POST", "/app/x", f"Content-Length: {len(whole)}") + b"first")
        else:
            client.send(request("POST", "/app/x", "Transfer-Encoding: chunked") + b"5\r\nfirst\r\n")
        assert scene.began.wait(10)
        assert scene.first == b"first"
        assert not scene.ended.is_set()
        client.send(rest if framing == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
        answer = client.answer()

        assert (answer.status, answer.json()) == (200, summary([whole]))
        assert client.post("/app/x", b"again").answer().json() == summary([b"again"])
    assert mini.is_idle()


@ALL
def test_a_body_that_breaks_off_is_an_error_and_never_a_short_body(mini: Mini, scene: Scene, kind: str) -> None:
    serve(mini, scene, kind)
    with Client(mini.port) as client:
        client.send(request("POST", "/app/x", f"Content-Length: {LARGE}") + b"first")
        assert scene.began.wait(10)
        answer = client.half_close().answer()
        assert client.is_closed()

    assert (answer.status, answer.reason) == (400, "bad_request")
    assert scene.ended.wait(10)
    expected = {"async": asyncio.CancelledError, "asgi": Exception}.get(kind, Broken)
    assert isinstance(scene.error, expected)
    eventually(mini.is_idle, "nothing of it is kept")
    assert mini.post("/app/x", b"ok").json() == summary([b"ok"])


@ALL
def test_a_client_that_leaves_is_heard_of_by_the_handler_that_waits(mini: Mini, scene: Scene, kind: str) -> None:
    serve(mini, scene, kind)
    with Client(mini.port) as client:
        client.send(request("POST", "/app/x", "Transfer-Encoding: chunked") + b"5\r\nfirst\r\n")
        assert scene.began.wait(10)
        client.reset()

    assert scene.ended.wait(10)
    assert scene.error is not None
    eventually(mini.is_idle, "nothing of it is kept")
    assert mini.post("/app/x", b"ok").json() == summary([b"ok"])


@ALL
def test_the_deadline_reaches_a_handler_that_waits_for_bytes(mini: Mini, scene: Scene, kind: str) -> None:
    serve(mini, scene, kind, timeout_s=0.6)
    with Client(mini.port) as client:
        client.send(request("POST", "/app/x", f"Content-Length: {LARGE}") + b"first")
        answer = client.answer()

    assert (answer.status, answer.reason) == (504, "deadline")
    assert scene.ended.wait(10)
    assert scene.error is not None
    eventually(mini.is_idle, "nothing of it is kept")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_body_that_is_there_with_its_head_costs_no_stream(mini: Mini, kind: str) -> None:
    async def look(request: Any) -> Any:
        pieces = [piece async for piece in request.stream]
        return [type(request.stream).__name__, b"".join(pieces).decode()]

    def look_sync(request: Any) -> Any:
        return [type(request.stream).__name__, request.stream.read().decode()]

    mini.backend("b", look if kind == "async" else look_sync, STREAM).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        assert client.post("/x", b"body").answer().json() == ["Whole", "body"]
        assert client.send(chunked("POST", "/x", b"bo", b"dy")).answer().json() == ["Whole", "body"]
        client.send(request("POST", "/x", "Content-Length: 4"))
        mini.on_front(lambda: None)
        assert mini.held() == 0, "a small body is waited for, not its slot taken"
        assert client.send(b"body").answer().json() == ["Whole", "body"]
        client.send(request("POST", "/x", "Transfer-Encoding: chunked"))
        eventually(lambda: mini.held() == 1, "how much comes is not known")
        assert client.send(b"4\r\nbody\r\n0\r\n\r\n").answer().json() == ["Stream", "body"]


@pytest.mark.parametrize("is_async", [False, True])
def test_what_asks_for_the_whole_body_waits_for_it(mini: Mini, is_async: bool) -> None:
    entered = threading.Event()

    def handler(request: Any) -> Any:
        entered.set()
        return [request.content_length, request.get_json()["x"], len(request.get_data())]

    async def async_handler(request: Any) -> Any:
        return handler(request)

    mini.backend("b", async_handler if is_async else handler, STREAM).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        client.send(request("POST", "/x", "Content-Type: application/json", "Transfer-Encoding: chunked"))
        client.send(b'1\r\n{\r\n6\r\n"x": 7\r\n')
        assert entered.wait(10)
        client.send(b"1\r\n}\r\n0\r\n\r\n")
        assert client.answer().json() == [None, 7, 8]


def test_lines_forms_and_exact_reads(mini: Mini) -> None:
    def lines(request: Any) -> Any:
        return [line.decode() for line in request.stream]

    def form(request: Any) -> Any:
        return request.form["a"]

    def exact(request: Any) -> Any:
        return [request.stream.read(3).decode(), request.stream.read().decode(), request.get_data(as_text=True)]

    for name, code in {"lines": lines, "form": form, "exact": exact}.items():
        mini.backend(name, code, STREAM).endpoint(name, f"/{name}", {name: 1.0})
    mini.publish()

    def ask(path: str, *pieces: bytes, fields: tuple[str, ...] = ()) -> Any:
        with Client(mini.port) as client:
            client.send(request("POST", path, "Transfer-Encoding: chunked", *fields))
            eventually(lambda: mini.held() == 1, "it runs while its body arrives")
            for piece in pieces:
                client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            return client.send(b"0\r\n\r\n").answer()

    assert ask("/lines", b"a\nb", b"c\n", b"d").json() == ["a\n", "bc\n", "d"]
    urlencoded = "Content-Type: application/x-www-form-urlencoded"
    assert ask("/form", b"a=", b"1", fields=(urlencoded,)).body == b"1"
    assert ask("/exact", b"a", b"bcd").json() == ["abc", "d", ""]


def test_a_wsgi_app_is_told_no_length_that_nobody_knows(mini: Mini) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        named = {name: environ.get(name) for name in ("CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING")}
        start_response("200 OK", [])
        return [repr((named, len(environ["wsgi.input"].read()))).encode()]

    def told(tag: str, config: dict[str, Any]) -> list[bytes]:
        mini.backend(tag, wsgi(lambda: app), config).endpoint("e", "/*", {tag: 1.0}).publish()
        body = bytes(LARGE)
        with Client(mini.port) as client:
            return [client.post("/", body).answer().body, client.send(chunked("POST", "/", body)).answer().body]

    announced = repr(({"CONTENT_LENGTH": str(LARGE), "HTTP_TRANSFER_ENCODING": None}, LARGE)).encode()
    chunks = repr(({"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"}, LARGE)).encode()
    assert told("whole", {}) == [announced, announced]  # gathered: its length is known
    assert told("stream", STREAM) == [announced, chunks]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_body_is_echoed_while_it_arrives(mini: Mini, is_async: bool) -> None:
    def echo(request: Any) -> Iterator[bytes]:
        while piece := request.stream.read1(1000):
            yield piece

    async def async_echo(request: Any) -> AsyncIterator[bytes]:
        async for piece in request.stream:
            yield piece

    mini.backend("b", async_echo if is_async else echo, STREAM).endpoint("e", "/x", {"b": 1.0}).publish()
    for fields in ((), ("Connection: close",)):  # an answer that begins must not stop the reading, not even then
        with Client(mini.port) as client:
            client.send(request("POST", "/x", "Transfer-Encoding: chunked", *fields))
            client.send(b"3\r\none\r\n")
            assert client._head()[0] == 200
            assert client.read(8) == b"3\r\none\r\n"
            client.send(b"3\r\ntwo\r\n")
            assert client.read(8) == b"3\r\ntwo\r\n"
            client.send(b"0\r\n\r\n")
            assert client.read(5) == b"0\r\n\r\n"
            if fields:
                assert client.is_closed()
            else:
                assert client.send(chunked("POST", "/x", b"again")).answer().body == b"again"
    eventually(mini.is_idle, "nothing is kept")


def test_a_stream_kept_beyond_its_call_ends_in_an_error(mini: Mini) -> None:
    kept: list[Any] = []

    def keep(request: Any) -> str:
        kept.append(request.stream)
        return "answered"

    mini.backend("b", keep, STREAM).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        client.send(request("POST", "/x", f"Content-Length: {LARGE}"))
        assert client.answer().body == b"answered"
        with pytest.raises(Broken, match="has ended"):
            kept[0].read()


def test_a_helper_thread_of_a_sync_handler_may_read(mini: Mini) -> None:
    def handler(request: Any) -> Any:
        seen: list[bytes] = []
        reader = threading.Thread(target=lambda: seen.append(request.stream.read()))
        reader.start()
        reader.join(10)
        return len(seen[0])

    mini.backend("b", handler, STREAM).endpoint("e", "/x", {"b": 1.0}).publish()

    assert mini.post("/x", bytes(2_000_000)).json() == 2_000_000


def test_calls_go_on_while_an_async_handler_waits_for_bytes(mini: Mini, scene: Scene) -> None:
    serve(mini, scene, "async")
    with Client(mini.port) as slow:
        slow.send(request("POST", "/app/x", f"Content-Length: {LARGE}") + b"first")
        assert scene.began.wait(10)
        assert mini.post("/app/x", bytes(LARGE)).json()["size"] == LARGE
        assert slow.send(bytes(LARGE - 5)).answer().json()["size"] == LARGE
