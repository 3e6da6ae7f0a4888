"""WebSockets with the clients that people use: websockets (sync and asyncio) and aiohttp."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.websocket_apps import recorder, serve
from tests.wire.websocket_clients import Aiohttp, Client, Closed, Denied, SyncWebsockets, Websockets
from websockets.sync.client import connect


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "every slot is free")


@pytest.fixture(params=[SyncWebsockets, Websockets, Aiohttp])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    made: Client = request.param()
    yield made
    made.end()


@pytest.fixture
def seen() -> queue.Queue[Any]:
    return queue.Queue()


def test_text_and_bytes_of_all_sizes(mini: Mini, client: Client, seen: queue.Queue[Any]) -> None:
    client.connect(serve(mini, recorder(seen)))

    for size in (0, 1, 125, 126, 65_535, 65_536, 1_048_576):
        client.send(b"\xff" * size)
        assert client.receive() == b"\xff" * size
        client.send("ü" * (size // 2))
        assert client.receive() == "ü" * (size // 2)


def test_many_messages_are_answered_in_order(mini: Mini, client: Client, seen: queue.Queue[Any]) -> None:
    client.connect(serve(mini, recorder(seen)))

    for number in range(300):
        client.send(f"message {number}")
    assert [client.receive() for _ in range(300)] == [f"message {number}" for number in range(300)]


def test_a_message_of_the_app_comes_in_fragments(mini: Mini, client: Client) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "ü" * 3_000_000})
        await send({"type": "websocket.send", "bytes": b"behind it"})
        await receive()
        await receive()

    client.connect(serve(mini, app))
    assert client.receive() == "ü" * 3_000_000
    assert client.receive() == b"behind it"


@pytest.mark.parametrize("pieces", [["a", "", "ü", "c"], [b"a", b"", b"\xff", b"c"]])
def test_fragments_of_the_client_are_one_message(mini: Mini, seen: queue.Queue[Any], pieces: list[Any]) -> None:
    with connect(serve(mini, recorder(seen))) as client:  # aiohttp sends none
        client.send(iter(pieces))
        assert client.recv() == pieces[1].join(pieces)


def test_pings_are_answered_between_messages(mini: Mini, client: Client, seen: queue.Queue[Any]) -> None:
    client.connect(serve(mini, recorder(seen)))

    for _ in range(3):
        client.ping()
        client.send("here")
        assert client.receive() == "here"


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_clients_code_reaches_the_app(mini: Mini, client: Client, seen: queue.Queue[Any], code: int) -> None:
    client.connect(serve(mini, recorder(seen)))

    assert seen.get(timeout=10)["type"] == "websocket.connect"
    assert client.close(code, "bored ✓") == code
    assert seen.get(timeout=10) == {"type": "websocket.disconnect", "code": code, "reason": "bored ✓"}


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1012, 3000, 4999])
def test_the_apps_code_reaches_the_client(mini: Mini, client: Client, code: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "first"})
        await send({"type": "websocket.close", "code": code, "reason": "enough ✓"})

    client.connect(serve(mini, app))
    assert client.receive() == "first"
    with pytest.raises(Closed) as closed:
        client.receive()
    assert closed.value.args == (code, "enough ✓")


def test_an_app_that_fails_is_1011(mini: Mini, client: Client) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("bad")

    client.connect(serve(mini, app))
    with pytest.raises(Closed) as closed:
        client.receive()
    assert closed.value.args == (1011, "user exception")


def test_a_subprotocol_is_agreed_upon(mini: Mini, client: Client) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][-1]})
        await receive()
        await receive()

    client.connect(serve(mini, app), ["soap", "wamp", "v2.chat"])
    assert client.subprotocol() == "v2.chat"


def test_a_denial_is_seen(mini: Mini, client: Client) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    with pytest.raises(Denied) as denied:
        client.connect(serve(mini, app))
    assert denied.value.args == (403,)
