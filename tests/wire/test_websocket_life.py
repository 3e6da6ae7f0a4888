"""How long WebSockets live, and what ends them: silence, slowness, death."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.websocket_apps import BINARY, CLOSE, PING, PONG, TEXT, Raw, ask, frame, recorder, serve

from rayserve.wire.codec import CREDIT

MUCH = 64 * 1024


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini(virtual_time=True) as running:
        yield running
        eventually(running.is_idle, "every slot is free")


@pytest.fixture
def seen() -> queue.Queue[Any]:
    return queue.Queue()


def next_of(seen: queue.Queue[Any], kind: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = seen.get(timeout=10)
        if message["type"] == f"websocket.{kind}":
            return message


# -- keep-alive ----------------------------------------------------------------------------------------


def test_an_idle_websocket_is_pinged_every_20_s_and_lives_on(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        for _ in range(6):
            mini.later(20.5)
            assert client.read() == (PING, b"")
            client.send(PONG, b"")
            client.send(TEXT, b"here")
            assert client.read() == (TEXT, b"here")


def test_a_silent_client_is_closed_20_s_after_the_ping(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        mini.later(20.5)
        assert client.read() == (PING, b"")
        mini.later(19)
        assert mini.held() == 1
        mini.later(2)
        assert client.closed_with() == 1011
    assert next_of(seen, "disconnect")["code"] == 1006


def test_the_endpoints_time_out_runs_to_the_accept_only(mini: Mini, seen: queue.Queue[Any]) -> None:
    accept = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"].endswith("never"):
            seen.put(await receive())
            return
        await send({"type": "websocket.accept"})
        while not accept.is_set():
            await asyncio.sleep(0.001)
        await send({"type": "websocket.send", "text": "late"})

    serve(mini, app)
    mini.endpoint("e", "/ws/*", {"b": 1.0}, timeout_s=0.2).publish()
    with Raw(mini.port) as client, Raw(mini.port, upgrade=False) as other:
        assert other.ask(ask("/ws/never")).startswith(b"HTTP/1.1 504")  # later than 0.2 s
        assert next_of(seen, "disconnect")["code"] == 1006
        accept.set()
        assert client.read() == (TEXT, b"late")


def test_a_client_that_leaves_before_the_accept_is_heard_of(mini: Mini, seen: queue.Queue[Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.put(await receive())
        seen.put(await receive())

    serve(mini, app)
    with Raw(mini.port, upgrade=False) as client:
        client.sock.sendall(ask())
        next_of(seen, "connect")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing is a reset
    assert next_of(seen, "disconnect")["code"] == 1006


# -- back-pressure -------------------------------------------------------------------------------------


def test_a_slow_app_stops_the_client_and_loses_nothing(mini: Mini, seen: queue.Queue[Any]) -> None:
    go = threading.Event()
    received: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not go.is_set():
            await asyncio.sleep(0.001)
        while (message := await receive())["type"] == "websocket.receive":
            received.append(len(message["bytes"]))
        seen.put(message)

    serve(mini, app)
    sent = 0
    with Raw(mini.port) as client:
        client.sock.settimeout(0.3)
        data = frame(BINARY, bytes(MUCH))
        with pytest.raises(TimeoutError):  # the kernel's buffers, the ingress and the replica are full
            while sent < 4000:
                client.sock.sendall(data)
                sent += 1
        assert sent < 1000
        go.set()
        eventually(lambda: len(received) >= sent, "the app got all that was sent")
        assert set(received) == {MUCH}
    assert next_of(seen, "disconnect")["code"] == 1006


def test_messages_and_close_code_reach_a_slow_app_though_the_client_is_gone(mini: Mini, seen: queue.Queue[Any]) -> None:
    go = threading.Event()
    received: list[int] = []
    sizes = [MUCH, MUCH, MUCH, CREDIT - 3 * (MUCH + 5) - 5 - 10, 100]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not go.is_set():
            await asyncio.sleep(0.001)
        while (message := await receive())["type"] == "websocket.receive":
            received.append(len(message["bytes"]))
        seen.put(message)

    serve(mini, app)
    with Raw(mini.port) as client:
        for size in sizes[:-1]:
            client.send(BINARY, bytes(size))  # ten bytes of credit are left
        client.sock.sendall(frame(BINARY, bytes(sizes[-1])) + frame(CLOSE, b"\x0f\xa1bye"))
        assert client.closed_with() == 4001
    eventually(lambda: not mini.on_front(lambda: mini.site.websockets), "the connection is closed")
    go.set()
    assert next_of(seen, "disconnect") == {"type": "websocket.disconnect", "code": 4001, "reason": "bye"}
    assert received == sizes


def flood(sent: list[int], seen: queue.Queue[Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(MUCH)})
                sent.append(MUCH)
        except OSError as error:
            seen.put({"type": "websocket.gone", "error": str(error)})

    return app


def test_a_slow_client_stops_the_app_which_hears_when_it_leaves(mini: Mini, seen: queue.Queue[Any]) -> None:
    sent: list[int] = []
    serve(mini, flood(sent, seen))
    with Raw(mini.port) as client:
        still = -1
        while still != len(sent):  # until nothing moves for a while
            still = len(sent)
            threading.Event().wait(0.2)
        assert 0 < sum(sent) < 16 * 1024 * 1024
        before = len(sent)
        for _ in range(before + 8):
            assert client.read() == (BINARY, bytes(MUCH))
        eventually(lambda: len(sent) > before, "the app goes on")
    assert "gone" in next_of(seen, "gone")["error"]


def test_a_client_that_takes_nothing_for_30_s_is_cut(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, flood([], seen))
    with Raw(mini.port):
        eventually(lambda: mini.on_front(lambda: any(each._stuck for each in mini.site.websockets)), "it is stuck")
        mini.later(95)  # the kernel may take some for a while
        assert next_of(seen, "gone")
        assert not mini.on_front(lambda: mini.site.websockets)


# -- death, and the end --------------------------------------------------------------------------------


def test_the_death_of_the_replica_is_1011(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        next_of(seen, "connect")
        (channel,) = mini.router._linked
        mini.on_front(lambda: channel.lost("killed", True))
        opcode, payload = client.read()
        assert (opcode, payload) == (CLOSE, b"\x03\xf3replica lost")
        client.send(CLOSE, payload[:2])
        assert client.file.read() == b""
    assert next_of(seen, "disconnect")["code"] == 1006


def test_a_websocket_holds_its_slot_until_the_app_has_ended(mini: Mini, seen: queue.Queue[Any]) -> None:
    end = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        seen.put(await receive())
        while not end.is_set():
            await asyncio.sleep(0.001)

    serve(mini, app, max_concurrent_queries=1)
    with Raw(mini.port) as client:
        assert mini.held() == 1
        client.send(CLOSE, b"\x03\xe8")
        assert client.closed_with() == 1000
    next_of(seen, "disconnect")
    assert mini.held() == 1
    end.set()
    eventually(lambda: not mini.held(), "the slot is free")
    with Raw(mini.port) as another:
        assert another.head.startswith(b"HTTP/1.1 101")
    next_of(seen, "disconnect")


def test_a_hundred_websockets_come_and_go_and_leave_nothing(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    clients = [Raw(mini.port) for _ in range(100)]
    for number, client in enumerate(clients):
        client.send(TEXT, b"%d" % number)
        assert client.read() == (TEXT, b"%d" % number)
    assert mini.held() == 100
    for number, client in enumerate(clients):
        if number % 2:
            client.send(CLOSE, b"\x03\xe8")
            assert client.closed_with() == 1000
        client.__exit__()
    codes = [next_of(seen, "disconnect")["code"] for _ in clients]
    assert sorted(codes) == [1000] * 50 + [1006] * 50
    eventually(lambda: not mini.on_front(lambda: mini.site.clock.watched), "no connection is left")
