"""WebSockets of real apps, with a real client."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.websocket_apps import recorder, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from rayserve.context import context


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "every slot is free")


def test_the_example_of_starlettes_documentation(mini: Mini) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope=scope, receive=receive, send=send)
        await websocket.accept()
        await websocket.send_text("Hello, world!")
        await websocket.close()

    with connect(serve(mini, app)) as client:
        assert client.recv() == "Hello, world!"
        with pytest.raises(ConnectionClosedOK):
            client.recv()
        assert client.close_code == 1000


def test_an_endpoint_class_of_starlette_and_http_beside_it(mini: Mini) -> None:
    class Echo(WebSocketEndpoint):
        encoding = "text"

        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            await websocket.send_text(f"Message text was: {data}")

    app = Starlette(
        routes=[
            Route("/", lambda _: PlainTextResponse("Hello, world!")),
            WebSocketRoute("/echo", Echo),
        ]
    )
    url = serve(mini, app)

    with connect(f"{url}echo") as client:
        for text in ("one", "two", "drei ✓"):
            client.send(text)
            assert client.recv() == f"Message text was: {text}"
        assert mini.get("/ws/").body == b"Hello, world!"


def test_a_fastapi_websocket_with_path_query_and_headers(mini: Mini) -> None:
    app = fastapi.FastAPI()

    @app.websocket("/items/{item}/ws")
    async def items(websocket: WebSocket, item: int, q: str = "") -> None:
        await websocket.accept(headers=[(b"x-mine", b"1"), (b"Sec-WebSocket-Accept", b"forged")])
        await websocket.send_json({"item": item, "q": q, "cookie": websocket.cookies.get("session")})
        try:
            await websocket.receive_text()
        except WebSocketDisconnect:
            return

    with connect(f"{serve(mini, app)}items/3/ws?q=a", additional_headers={"cookie": "session=s1"}) as client:
        assert client.response is not None
        assert client.response.headers["x-mine"] == "1"
        assert client.response.headers["x-serve-backend"] == "b"
        assert client.recv() == '{"item":3,"q":"a","cookie":"s1"}'


def test_the_scope_says_where_it_is_mounted_and_what_is_offered(mini: Mini) -> None:
    seen: queue.Queue[Any] = queue.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.put(scope)
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][1]})
        seen.put(context.deadline)
        await send({"type": "websocket.close"})

    with connect(f"{serve(mini, app)}chat?x=1", subprotocols=[Subprotocol("soap"), Subprotocol("wamp")]) as client:
        assert client.subprotocol == "wamp"
    scope = seen.get(timeout=10)
    assert (scope["type"], scope["scheme"], scope["root_path"], scope["path"]) == ("websocket", "ws", "/ws", "/ws/chat")
    assert (scope["query_string"], scope["http_version"], "method" in scope) == (b"x=1", "1.1", False)
    assert scope["subprotocols"] == ["soap", "wamp"]
    assert seen.get(timeout=10) is None  # the endpoint's time-out ran to the accept


def test_text_and_bytes_of_all_sizes_come_back_as_they_are(mini: Mini) -> None:
    with connect(serve(mini, recorder(queue.Queue())), max_size=None) as client:
        for size in (0, 1, 125, 126, 65_535, 65_536, 65_537, 1_048_576):
            client.send(b"\x00" * size)
            assert client.recv() == b"\x00" * size
            client.send("ü" * (size // 2))
            assert client.recv() == "ü" * (size // 2)


def test_fragments_of_the_client_reach_the_app_as_one_message(mini: Mini) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with connect(serve(mini, recorder(seen))) as client:
        client.send(iter(["a", "", "ü", "c"]))
        assert client.recv() == "aüc"
    assert seen.get(timeout=10)["type"] == "websocket.connect"
    assert seen.get(timeout=10) == {"type": "websocket.receive", "text": "aüc"}


def test_a_message_of_the_app_may_be_larger_than_any_buffer(mini: Mini) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "ü" * 3_000_000})
        await receive()

    with connect(serve(mini, app), max_size=None) as client:
        assert client.recv() == "ü" * 3_000_000


def test_the_apps_close_code_and_reason_reach_the_client(mini: Mini) -> None:
    seen: queue.Queue[Any] = queue.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4002, "reason": "no more ✓"})
        seen.put(await receive())

    with connect(serve(mini, app)) as client, pytest.raises(ConnectionClosedError) as closed:
        client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4002, "no more ✓")
    assert seen.get(timeout=10) == {"type": "websocket.disconnect", "code": 4002, "reason": "no more ✓"}


def test_the_clients_close_code_and_reason_reach_the_app_behind_its_messages(mini: Mini) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with connect(serve(mini, recorder(seen))) as client:
        client.send("last words")
        client.close(4003, "bored")
    assert [seen.get(timeout=10)["type"] for _ in range(2)] == ["websocket.connect", "websocket.receive"]
    assert seen.get(timeout=10) == {"type": "websocket.disconnect", "code": 4003, "reason": "bored"}


def test_a_close_before_the_accept_is_a_403_and_the_connection_serves_on(mini: Mini) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.close", "code": 1008})

    with pytest.raises(InvalidStatus) as refused:
        connect(serve(mini, app))
    assert refused.value.response.status_code == 403


def test_an_app_can_deny_with_an_answer_of_its_own(mini: Mini) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.send_denial_response(PlainTextResponse("pay first", 402, {"x-price": "3"}))

    with pytest.raises(InvalidStatus) as refused:
        connect(serve(mini, app))
    response = refused.value.response
    assert (response.status_code, response.headers["x-price"], response.body) == (402, "3", b"pay first")


@pytest.mark.parametrize(
    "what", ["raises", "returns", "sends first", "closes badly", "raises later", "says nothing", "returns later"]
)
def test_an_app_that_misbehaves(mini: Mini, what: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if what == "raises":
            raise ValueError("bad")
        if what == "returns":
            return
        if what == "sends first":
            await send({"type": "websocket.send", "text": "too early"})
        await send({"type": "websocket.accept"})
        if what == "closes badly":
            await send({"type": "websocket.close", "code": 1006})
        if what == "raises later":
            raise ValueError("bad")
        if what == "says nothing":
            await send({"type": "websocket.send"})

    url = serve(mini, app)
    if what in ("raises", "returns", "sends first"):
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        assert refused.value.response.status_code == 500
    else:
        with connect(url) as client:
            with pytest.raises((ConnectionClosedOK, ConnectionClosedError)):
                client.recv()
            assert client.close_code == (1000 if what == "returns later" else 1011)
