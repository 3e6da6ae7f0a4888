"""WebSockets whose replica drains (1012) or whose ingress stops (1001): both ends are told, and nobody waits long."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.front import Front
from tests.wire.mini import Mini
from tests.wire.websocket_apps import CLOSE, TEXT, Raw, ask, recorder, serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rayserve.apps import asgi
from rayserve.replica import websocket
from rayserve.wire.messages import LEAVE_S

RESTART, GOING_AWAY = b"\x03\xf4", b"\x03\xe9"


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini(virtual_time=True) as running:
        yield running
        eventually(running.is_idle, "every slot is free")


@pytest.fixture
def seen() -> queue.Queue[Any]:
    return queue.Queue()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients of a replica that leaves have hardly any time."""
    monkeypatch.setattr(websocket, "LEAVE_S", 0.05)


def disconnect_of(seen: queue.Queue[Any]) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = seen.get(timeout=10)
        if message["type"] == "websocket.disconnect":
            return message


def drain(mini: Mini) -> None:
    mini.endpoint("e", "/ws/*").remove_backend("b")
    mini.publish()


def has_left(mini: Mini) -> bool:
    return all(replica._ran and not replica._intake.admitted for replica in mini.replicas.values())


# -- a replica that drains -----------------------------------------------------------------------------


def test_a_draining_replica_does_not_wait_for_an_idle_websocket(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    (thread,) = mini._threads
    with connect(f"ws://127.0.0.1:{mini.port}/ws/") as client:
        drain(mini)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
        thread.join(10)
        assert not thread.is_alive(), "its run has returned"
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "this replica is going away, connect again")
    assert disconnect_of(seen) == {
        "type": "websocket.disconnect", "code": 1012, "reason": "this replica is going away, connect again",
    }  # fmt: skip


def test_what_the_client_says_before_it_closes_reaches_the_app(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        drain(mini)
        opcode, payload = client.read()
        assert (opcode, payload[:2]) == (CLOSE, RESTART)
        client.send(TEXT, b"last words")
        client.send(CLOSE, b"\x03\xe8")  # some libraries answer each close with 1000
        assert client.file.read() == b"", "no message follows a close"
    assert seen.get(timeout=10)["type"] == "websocket.connect"
    assert seen.get(timeout=10)["text"] == "last words"
    assert disconnect_of(seen)["code"] == 1012
    eventually(lambda: has_left(mini), "the replica has left")


@pytest.mark.usefixtures("impatient")
def test_a_client_that_does_not_answer_does_not_hold_the_replica(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        drain(mini)
        assert client.read()[0] == CLOSE
        assert disconnect_of(seen)["code"] == 1012
        eventually(lambda: has_left(mini), "the replica has left")
        mini.later(11)
        assert client.file.read() == b"", "and the connection is cut"


@pytest.mark.usefixtures("impatient")
def test_a_client_that_takes_nothing_does_not_hold_the_replica(mini: Mini, seen: queue.Queue[Any]) -> None:
    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        seen.put({"type": "websocket.connect"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})
        except OSError as error:
            seen.put(str(error))

    serve(mini, flood)
    with Raw(mini.port):
        eventually(lambda: mini.on_front(lambda: any(each._stuck for each in mini.site.websockets)), "it is stuck")
        drain(mini)
        assert seen.get(timeout=10)["type"] == "websocket.connect"
        assert "gone" in seen.get(timeout=10)
        eventually(lambda: has_left(mini), "the replica has left")


def test_an_app_that_sends_on_hears_of_it_when_its_client_has_left(mini: Mini, seen: queue.Queue[Any]) -> None:
    sent: list[int] = []

    async def ticker(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                sent.append(1)
                await asyncio.sleep(0.001)
        except OSError as error:
            seen.put(str(error))

    serve(mini, ticker)
    with Raw(mini.port) as client:
        drain(mini)
        while (got := client.read())[0] != CLOSE:
            assert got == (TEXT, b"tick")
        assert got[1][:2] == RESTART
        already = len(sent)
        eventually(lambda: len(sent) > already, "it sends on, to nobody")
        client.send(CLOSE, RESTART)
        assert client.file.read() == b""
    assert "gone" in seen.get(timeout=10)
    eventually(lambda: has_left(mini), "the replica has left")


def test_a_websocket_accepted_late_is_asked_to_leave_at_once(mini: Mini, seen: queue.Queue[Any]) -> None:
    accept, entered = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        entered.set()
        while not accept.is_set():
            await asyncio.sleep(0.001)
        await send({"type": "websocket.accept"})
        seen.put(await receive())

    serve(mini, app)
    with Raw(mini.port, upgrade=False) as client:
        client.sock.sendall(ask())
        assert entered.wait(10)
        drain(mini)
        (replica,) = mini.replicas.values()
        eventually(lambda: replica._intake.draining, "it drains")
        accept.set()
        assert client.read_head().startswith(b"HTTP/1.1 101")
        assert client.read()[1][:2] == RESTART
        client.send(CLOSE, RESTART)
        assert client.file.read() == b""
    assert disconnect_of(seen)["code"] == 1012


def test_only_those_of_the_replica_that_leaves_are_asked_to(mini: Mini, seen: queue.Queue[Any]) -> None:
    mini.backend("b", asgi(recorder(seen), lifespan="off"), replicas=2).endpoint("e", "/ws/*", {"b": 1.0}).publish()
    clients = [Raw(mini.port) for _ in range(4)]
    first, second = mini.replicas.values()
    eventually(lambda: first._intake.admitted == second._intake.admitted == 2, "two are on each")
    mini.remove_replica("b", next(iter(mini.replicas)))
    mini.publish()
    told: list[Raw] = []
    staying: list[Raw] = []
    asked = lambda: sum(not each._dialogue.open for each in mini.site.websockets)  # noqa: E731
    eventually(lambda: mini.on_front(asked) == 2, "two are asked to leave")
    for client in clients:
        client.send(TEXT, b"echo")
        opcode, payload = client.read()
        (told if opcode == CLOSE else staying).append(client)
        assert (opcode, payload[:2]) in ((CLOSE, RESTART), (TEXT, b"ec"))
    assert (len(told), len(staying)) == (2, 2)
    for client in told:
        client.send(CLOSE, RESTART)
        assert client.file.read() == b""
        again = Raw(mini.port)
        again.send(TEXT, b"here again")
        assert again.read() == (TEXT, b"here again")
        clients.append(again)
    assert second._intake.admitted == 4
    for client in clients:
        client.__exit__()


# -- an ingress that stops -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closing table", "SIGTERM"])
def test_a_draining_ingress_says_going_away(mini: Mini, seen: queue.Queue[Any], how: str) -> None:
    def stop() -> None:
        for each in mini.site.websockets:
            each.drain()

    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        if how == "SIGTERM":
            mini.on_front(stop)
        else:
            mini.publish(closing=True)
        opcode, payload = client.read()
        assert (opcode, payload[:2]) == (CLOSE, GOING_AWAY)
        client.send(CLOSE, payload[:2])
        assert client.file.read() == b""
    assert disconnect_of(seen)["code"] == 1001


def test_no_new_websocket_while_draining(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    mini.on_front(mini.site.drain)
    with Raw(mini.port) as client:
        assert client.head.startswith(b"HTTP/1.1 503")
        assert b"x-serve-reason: draining" in client.head
    assert seen.empty()


def test_a_client_that_does_not_answer_is_cut_and_the_app_hears_why(mini: Mini, seen: queue.Queue[Any]) -> None:
    serve(mini, recorder(seen))
    with Raw(mini.port) as client:
        mini.publish(closing=True)
        assert client.read()[0] == CLOSE
        client.send(TEXT, b"wait")
        mini.later(LEAVE_S - 0.5)
        assert mini.on_front(lambda: mini.site.websockets), "it has time"
        mini.later(1.5)
        assert client.file.read() == b""
    assert seen.get(timeout=10)["type"] == "websocket.connect"
    assert seen.get(timeout=10)["text"] == "wait"
    assert disconnect_of(seen)["code"] == 1001


def test_sigterm_tells_client_and_app_and_the_ingress_exits(seen: queue.Queue[Any]) -> None:
    with Mini() as mini:
        serve(mini, recorder(seen))
        with Front(mini) as front, connect(f"ws://127.0.0.1:{front.port}/ws/") as client:
            client.send("here")
            assert client.recv(10) == "here"
            front.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(10)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "this server is going away")
            assert disconnect_of(seen)["code"] == 1001
            assert front.ended() == 0


def test_sigterm_is_not_held_up_by_a_client_that_does_not_answer(seen: queue.Queue[Any]) -> None:
    with Mini() as mini:
        serve(mini, recorder(seen))
        with Front(mini) as front:
            front.ready()
            with Raw(front.port) as client:
                front.process.send_signal(signal.SIGTERM)
                assert client.read()[0] == CLOSE
                assert disconnect_of(seen)["code"] == 1001
                assert front.ended() == 0
