"""Bytes of WebSocket clients that wait in the ingress count against max_buffered_bytes, as those of bodies do."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.websocket_apps import BINARY, CONTINUATION, TEXT, Raw, frame, serve

MOST = 3 * 2**20
HALF = 600_000


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini(max_buffered_bytes=MOST) as running:
        yield running
        eventually(running.is_idle, "nothing is held, and nothing is counted any more")


@pytest.fixture
def seen() -> queue.Queue[Any]:
    return queue.Queue()


async def measure(scope: Any, receive: Any, send: Any) -> None:
    """Answer each message with its length."""
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": str(len(message["bytes"]))})


def held(mini: Mini) -> int:
    size: int = mini.on_front(lambda: mini.site.held)
    return size


def begin_frame(client: Raw) -> bytes:
    """Send the first part of a message; return the rest."""
    whole = frame(BINARY, bytes(HALF + 5))
    client.sock.sendall(whole[:-5])
    return whole[-5:]


def begin_fragments(client: Raw) -> bytes:
    """Send a fragment; return the last one."""
    client.send(BINARY, bytes(HALF), fin=False)
    return frame(CONTINUATION, bytes(5))


@pytest.mark.parametrize("begin", [begin_frame, begin_fragments])
def test_a_message_that_is_not_whole_counts(mini: Mini, begin: Any) -> None:
    serve(mini, measure)
    with Raw(mini.port) as client, Raw(mini.port) as vanishes:
        rest = begin(client)
        begin(vanishes)
        eventually(lambda: 2 * HALF <= held(mini) <= 2 * HALF + 100, "both count")
        vanishes.__exit__()
        eventually(lambda: HALF <= held(mini) <= HALF + 50, "one is gone")
        client.sock.sendall(rest)
        assert client.read() == (TEXT, b"600005")
        assert held(mini) == 0


def test_messages_that_wait_for_a_slow_app_count(mini: Mini, seen: queue.Queue[Any]) -> None:
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not go.is_set():
            await asyncio.sleep(0.001)
        while (message := await receive())["type"] == "websocket.receive":
            seen.put(len(message["bytes"]))

    serve(mini, app)
    with Raw(mini.port) as client:
        client.send(BINARY, bytes(HALF))
        eventually(lambda: held(mini) > HALF - 300_000, "what is beyond the app's credit waits here")
        assert held(mini) < HALF
        go.set()
        assert seen.get(timeout=10) == HALF
        eventually(lambda: held(mini) == 0, "it was sent on")


def test_one_byte_too_many_is_1013_for_the_client_that_sends_it(mini: Mini, seen: queue.Queue[Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def noting() -> Any:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                seen.put(message["code"])
            return message

        await measure(scope, noting, send)

    serve(mini, app)
    clients = [Raw(mini.port) for _ in range(6)]
    rests = [begin_fragments(client) for client in clients[:5]]
    eventually(lambda: held(mini) == 5 * HALF, "five have begun")

    refused = mini.post("/ws/", bytes(MOST - 5 * HALF + 1))
    assert (refused.status, refused["x-serve-reason"], refused["retry-after"]) == (503, "queue_full", "1")
    begin_fragments(clients[5])
    assert clients[5].closed_with() == 1013
    assert seen.get(timeout=10) == 1013
    for client, rest in zip(clients[:5], rests, strict=True):
        client.sock.sendall(rest)
        assert client.read() == (TEXT, b"600005"), "the others are served"
    for client in clients:
        client.__exit__()
