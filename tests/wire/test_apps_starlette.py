"""Starlette as its documentation teaches it, under a mount: routing, static files, middleware, streams, WebSockets."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from tests.conditions import eventually
from tests.wire.mini import Mini
from websockets.sync.client import connect

from rayserve.apps import asgi


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "every slot is free")


@pytest.fixture
def client(mini: Mini) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{mini.url}/site", timeout=20) as opened:
        yield opened


def serve(mini: Mini, app: ASGIApp) -> None:
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    mini.backend("b", asgi(app)).endpoint("e", "/site/*", {"b": 1.0}, methods).publish()


# -- routing -------------------------------------------------------------------------------------------


async def show(request: Request) -> JSONResponse:
    return JSONResponse({
        "params": {name: str(value) for name, value in request.path_params.items()},
        "path": request.url.path,
        "home": str(request.url_for("home")),
        "base": str(request.base_url),
    })  # fmt: skip


class Cart(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse(f"cart of {request.path_params['user']}")

    async def delete(self, request: Request) -> Response:
        return Response(status_code=204)


def shop() -> Starlette:
    users = [
        Route("/", show, name="list"),
        Route("/{user}/cart", Cart),
        Route("/{user:int}", show, name="detail"),
    ]
    return Starlette(
        routes=[
            Route("/", lambda request: PlainTextResponse("home"), name="home"),
            Route("/files/{rest:path}", show),
            Route("/price/{value:float}", show),
            Mount("/users", routes=users, name="users"),
        ]
    )


def test_routes_their_parameters_and_mounts_within_the_mount(mini: Mini, client: httpx.Client) -> None:
    serve(mini, shop())

    assert client.get("/").text == "home"
    detail = client.get("/users/7").json()
    assert detail["params"] == {"user": "7"}
    assert detail["path"] == "/site/users/7"
    assert detail["home"] == f"{mini.url}/site/"
    assert client.get("/files/a/b%20c/%C3%BC").json()["params"] == {"rest": "a/b c/ü"}
    assert client.get("/price/2.5").json()["params"] == {"value": "2.5"}
    assert client.get("/users/ada/cart").text == "cart of ada"
    assert client.delete("/users/ada/cart").status_code == 204
    assert client.post("/users/ada/cart").status_code == 405
    assert client.get("/nowhere").status_code == 404
    assert "x-serve-reason" not in client.get("/nowhere").headers  # the app's own answer


def test_a_missing_slash_is_redirected_within_the_mount(mini: Mini, client: httpx.Client) -> None:
    serve(mini, shop())

    answer = client.get("/users")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{mini.url}/site/users/")
    assert client.get("/users", follow_redirects=True).status_code == 200


# -- files ---------------------------------------------------------------------------------------------


def test_static_files(mini: Mini, client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("body { color: red }")
    (tmp_path / "index.html").write_text("<h1>index</h1>")
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * 8192)
    serve(mini, Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path, html=True), name="static")]))

    style = client.get("/static/style.css")
    assert (style.headers["content-type"], style.text) == ("text/css; charset=utf-8", "body { color: red }")
    again = client.get("/static/style.css", headers={"if-none-match": style.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head("/static/large.bin")
    assert (head.headers["content-length"], head.content) == (str(2**21), b"")
    assert client.get("/static/large.bin").content == bytes(range(256)) * 8192
    assert client.get("/static/").text == "<h1>index</h1>"
    assert client.get("/static/none.txt").status_code == 404
    assert client.get("/static/../test_apps_starlette.py").status_code == 404


def test_a_part_of_a_file(mini: Mini, client: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(bytes(range(256)))
    serve(mini, Starlette(routes=[Route("/n", lambda request: FileResponse(file, filename="numbers.bin"))]))

    part = client.get("/n", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/256"
    assert "numbers.bin" in client.get("/n").headers["content-disposition"]


# -- middleware ----------------------------------------------------------------------------------------


class Stamp(BaseHTTPMiddleware):
    def __init__(self, app: ASGIApp, value: str) -> None:
        super().__init__(app)
        self.value = value

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = self.value
        return response


class PureStamp:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-pure", b"yes"))
            await send(message)

        await self.app(scope, receive, send_on if scope["type"] == "http" else send)


def test_middleware(mini: Mini, client: httpx.Client) -> None:
    async def count(request: Request) -> Response:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse({"visits": request.session["visits"], "padding": "x" * 3000})

    async def numbers(request: Request) -> Response:
        return StreamingResponse(str(number) for number in range(5))

    serve(
        mini,
        Starlette(
            routes=[Route("/", count), Route("/numbers", numbers)],
            middleware=[
                Middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["PUT"]),
                Middleware(GZipMiddleware, minimum_size=1000),
                Middleware(SessionMiddleware, secret_key="not a secret"),
                Middleware(Stamp, value="stamped"),
                Middleware(PureStamp),
            ],
        ),
    )

    first = client.get("/", headers={"origin": "https://shop.example"})
    assert (first.headers["x-stamp"], first.headers["x-pure"]) == ("stamped", "yes")
    assert first.headers["content-encoding"] == "gzip"
    assert first.headers["access-control-allow-origin"] == "https://shop.example"
    assert [first.json()["visits"], client.get("/").json()["visits"]] == [1, 2]
    assert client.get("/numbers").text == "01234"
    asked = {"origin": "https://shop.example", "access-control-request-method": "PUT"}
    assert client.options("/", headers=asked).headers["access-control-allow-methods"] == "PUT"


# -- bodies --------------------------------------------------------------------------------------------


def test_requests_their_cookies_forms_and_streams(mini: Mini, client: httpx.Client) -> None:
    async def form(request: Request) -> Response:
        async with request.form() as fields:
            upload = fields["file"]
            assert not isinstance(upload, str)
            content = await upload.read()
            return JSONResponse([fields["name"], upload.filename, len(content), request.cookies.get("user")])

    async def size(request: Request) -> Response:
        return PlainTextResponse(str(sum([len(piece) async for piece in request.stream()])))

    serve(mini, Starlette(routes=[Route("/f", form, methods=["POST"]), Route("/s", size, methods=["POST"])]))

    upload = {"file": ("a.bin", bytes(2_000_000))}
    asked = client.post("/f", data={"name": "ü"}, files=upload, headers={"cookie": "user=ada"})
    assert asked.json() == ["ü", "a.bin", 2_000_000, "ada"]
    assert client.post("/s", content=iter([bytes(1_000_000)] * 3)).text == "3000000"


# -- streams and background tasks ----------------------------------------------------------------------


def test_a_streaming_response_arrives_piece_by_piece(mini: Mini, client: httpx.Client) -> None:
    gates = [threading.Event() for _ in range(3)]

    async def slow() -> AsyncIterator[str]:
        for number, gate in enumerate(gates):
            yield f"<li>{number}</li>"
            while not gate.is_set():
                await asyncio.sleep(0.001)

    serve(mini, Starlette(routes=[Route("/", lambda request: StreamingResponse(slow(), media_type="text/html"))]))

    with client.stream("GET", "/") as answer:
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        pieces = answer.iter_text()
        for number, gate in enumerate(gates):
            assert next(pieces) == f"<li>{number}</li>"
            gate.set()


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_stream_without_end_stops_when_its_client_leaves(mini: Mini, client: httpx.Client, size: int) -> None:
    stopped = threading.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            while True:
                yield bytes(size)  # it never waits for anything by itself
        finally:
            stopped.set()

    routes = [
        Route("/", lambda request: StreamingResponse(endless())),
        Route("/other", lambda request: PlainTextResponse("served")),
    ]
    serve(mini, Starlette(routes=routes))

    with client.stream("GET", "/") as answer:
        assert next(answer.iter_raw())
        assert mini.get("/site/other").body == b"served", "others have their turn meanwhile"
    assert stopped.wait(10)
    eventually(mini.is_idle, "its slot is free")


def test_a_client_that_leaves_is_heard_of(mini: Mini, client: httpx.Client) -> None:
    heard: list[bool] = []
    entered, done = threading.Event(), threading.Event()

    async def wait(request: Request) -> Response:
        entered.set()
        while not await request.is_disconnected():
            await asyncio.sleep(0.001)
        heard.append(True)
        done.set()
        return Response()

    serve(mini, Starlette(routes=[Route("/", wait)]))
    with pytest.raises(httpx.ReadTimeout):
        client.get("/", timeout=0.2)
    assert entered.wait(10)
    assert done.wait(10)


def test_a_background_task_runs_behind_the_answer(mini: Mini, client: httpx.Client) -> None:
    gate, sent = threading.Event(), threading.Event()
    mails: list[str] = []

    async def mail(to: str) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.001)
        mails.append(to)

    def note(to: str) -> None:  # a sync one: in a thread
        mails.append(f"noted {to}")
        sent.set()

    async def sign_up(request: Request) -> Response:
        tasks = BackgroundTasks()
        tasks.add_task(mail, "ada")
        tasks.add_task(note, to="ada")
        return JSONResponse({"status": "signed up"}, background=tasks)

    serve(mini, Starlette(routes=[Route("/", sign_up)]))
    assert client.get("/").json() == {"status": "signed up"}
    assert mails == []
    gate.set()
    assert sent.wait(10)
    assert mails == ["ada", "noted ada"]


def test_a_replica_that_leaves_finishes_its_background_tasks_before_its_shutdown(
    mini: Mini, client: httpx.Client
) -> None:
    gate, ended = threading.Event(), threading.Event()
    order: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        order.append("shutdown")
        ended.set()

    async def work() -> None:
        while not gate.is_set():
            await asyncio.sleep(0.001)
        order.append("task")

    routes = [Route("/", lambda request: PlainTextResponse("soon", background=BackgroundTask(work)))]
    serve(mini, Starlette(routes=routes, lifespan=lifespan))
    (replica,) = mini.replicas.values()
    assert client.get("/").text == "soon"
    mini.endpoint("e", "/site/*").remove_backend("b")
    mini.publish()
    eventually(lambda: replica._intake.draining, "it has the table")
    gate.set()
    assert ended.wait(10)
    assert order == ["task", "shutdown"]


# -- errors, lifespan, WebSockets ----------------------------------------------------------------------


def test_exception_handlers(mini: Mini, client: httpx.Client) -> None:
    async def not_found(request: Request, error: Exception) -> Response:
        return PlainTextResponse("nothing here", 404)

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": type(error).__name__}, 500)

    async def no_tea(request: Request, error: Exception) -> Response:
        return PlainTextResponse("no tea", 418, {"x-pot": "short"})

    class NoTea(Exception):
        pass

    async def raising(request: Request) -> Response:
        raise {"tea": NoTea(), "value": ValueError("bad"), "http": HTTPException(409, "taken", {"x-by": "ada"})}[
            request.path_params["what"]
        ]

    handlers: dict[Any, Any] = {404: not_found, 500: failed, NoTea: no_tea}
    serve(mini, Starlette(routes=[Route("/{what}", raising)], exception_handlers=handlers))

    assert (client.get("/a/b").status_code, client.get("/a/b").text) == (404, "nothing here")
    assert (client.get("/tea").status_code, client.get("/tea").headers["x-pot"]) == (418, "short")
    assert (client.get("/value").status_code, client.get("/value").json()) == (500, {"error": "ValueError"})
    assert (client.get("/http").text, client.get("/http").headers["x-by"]) == ("taken", "ada")


class State(TypedDict):
    words: dict[str, str]


def test_the_state_of_the_lifespan_reaches_requests_and_websockets(mini: Mini, client: httpx.Client) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        app.state.kind = "dictionary"
        yield {"words": {"hi": "hallo"}}

    async def word(request: Request) -> Response:
        return PlainTextResponse(f"{request.app.state.kind}: {request.state.words[request.query_params['w']]}")

    async def words(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(websocket.state.words[text])

    routes = [Route("/", word), WebSocketRoute("/ws", words)]
    serve(mini, Starlette(routes=routes, lifespan=lifespan))

    assert client.get("/?w=hi").text == "dictionary: hallo"
    with connect(f"ws://127.0.0.1:{mini.port}/site/ws") as socket:
        socket.send("hi")
        assert socket.recv() == "hallo"


def test_a_websocket_endpoint(mini: Mini) -> None:
    codes: list[int] = []
    left = threading.Event()

    class Echo(WebSocketEndpoint):
        encoding = "json"

        async def on_connect(self, websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_json({"where": str(websocket.url_for("echo", room="1"))})

        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            await websocket.send_json({"room": websocket.path_params["room"], "said": data})

        async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
            codes.append(close_code)
            left.set()

    serve(mini, Starlette(routes=[WebSocketRoute("/rooms/{room}", Echo, name="echo")]))
    with connect(f"ws://127.0.0.1:{mini.port}/site/rooms/blue") as socket:
        assert socket.recv() == f'{{"where":"ws://127.0.0.1:{mini.port}/site/rooms/1"}}'
        socket.send('{"a": [1, 2]}')
        assert socket.recv() == '{"room":"blue","said":{"a":[1,2]}}'
        socket.close(4001)
    assert left.wait(10)
    assert codes == [4001]


def test_a_request_whose_client_is_gone_is_no_error_of_the_app(
    mini: Mini, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()

    async def stream() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await StreamingResponse(stream())(scope, receive, send)
        except ClientDisconnect:
            ended.set()
            raise

    serve(mini, Mount("/", app))
    with client.stream("GET", "/") as answer:
        assert next(answer.iter_raw())
    assert ended.wait(10)
    eventually(mini.is_idle, "its slot is free")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
