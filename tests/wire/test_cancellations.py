"""After 10,000 calls that were given up at random points every counter is back to zero.

The handlers never end by themselves: what is not cancelled stays, and would be seen.
"""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import INSTANCE, Mini

from rayserve import handle as handles
from rayserve.batching import accept_batch
from rayserve.call_result import HandleOptions
from rayserve.context import context

CALLS = 10_000
TOGETHER = 50
_RESET = struct.pack("ii", 1, 0)  # linger 0: close sends a RST


def until_cancelled() -> None:
    while not context.cancelled:
        time.sleep(0.001)


def sync(_: Any = None) -> None:
    until_cancelled()


async def on_loop(_: Any = None) -> None:
    await asyncio.Event().wait()


@accept_batch
def sync_batch(items: list[Any]) -> list[Any]:
    until_cancelled()
    return items


@accept_batch
async def batch(_: list[Any]) -> list[Any]:
    await asyncio.Event().wait()
    return []


async def stream(_: Any = None) -> AsyncIterator[str]:
    while True:
        yield "x" * 60_000


@accept_batch
async def batch_stream(items: list[Any]) -> AsyncIterator[list[str]]:
    while True:
        yield ["x" * 60_000 for _ in items]


@accept_batch
def sync_batch_stream(items: list[Any]) -> Iterator[list[str]]:
    while True:
        yield ["x" * 60_000 for _ in items]


async def nested(_: Any = None) -> None:
    calls = [handles.ServeHandle(INSTANCE, HandleOptions(name)).remote(1) for name in ("on_loop", "batch", "sync")]
    await asyncio.gather(handles.ServeHandle(INSTANCE, HandleOptions("nested_stream")).request(), *calls)


async def nested_stream(_: Any = None) -> AsyncIterator[str]:
    async for item in handles.ServeHandle(INSTANCE, HandleOptions("stream")).remote(1):
        yield item


BATCHES = {"max_batch_size": 8, "max_concurrent_queries": 200}
MANY = {"max_concurrent_queries": 200}
BACKENDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "sync": (sync, {}),
    "threads": (sync, {"max_concurrency": 4}),
    "on_loop": (on_loop, MANY),
    "sync_batch": (sync_batch, BATCHES),
    "batch": (batch, {**BATCHES, "max_concurrent_batches": 3}),
    "stream": (stream, MANY),
    "batch_stream": (batch_stream, {**BATCHES, "batch_wait_timeout": 0.001}),
    "sync_batch_stream": (sync_batch_stream, BATCHES),
    "nested": (nested, MANY),
    "nested_stream": (nested_stream, MANY),
}
READABLE = ("stream", "nested_stream")  # calls that may be waited for: none of them stands behind another


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini(virtual_time=True) as running:
        for name, (code, config) in BACKENDS.items():
            running.backend(name, code, {**config, "max_queued": 10_000})
            running.endpoint(name, f"/{name}", {name: 1.0}, timeout_s=60)
        running.publish()
        yield running


def give_up_python(mini: Mini, name: str, draw: random.Random) -> Callable[[], None]:
    handle = mini.handle(name)
    call = handle.remote(1) if draw.random() < 0.7 else handle.request("POST", json=[1])
    if name not in READABLE or draw.random() < 0.5 or call.__class__.__name__ == "HTTPCall":
        return call.cancel
    items = iter(call)
    for _ in range(draw.randrange(3)):
        next(items)
    return items.close


def give_up_http(mini: Mini, name: str, draw: random.Random) -> Callable[[], None]:
    sock = socket.create_connection(("127.0.0.1", mini.port), timeout=10)
    sock.sendall(f"GET /{name} HTTP/1.1\r\nHost: test\r\n\r\n".encode()[: draw.choice((None, None, None, 9))])
    if draw.random() < 0.5:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return sock.close


def held(mini: Mini) -> dict[str, int]:
    """Return everything that is still counted somewhere, by where."""
    found = {"ingress": mini.held(), "bytes": mini.on_front(lambda: mini.site.held), "clients": mini.connections()}
    for io in (*mini.ios, handles.thread_of(INSTANCE)):
        found[io.process] = _on(io, io.router.held)
        found[f"{io.process} rows"] = sum(row.in_flight + row.waiting for row in _on(io, io.router.rows))
    for name, replica in mini.replicas.items():
        found[name] = replica._intake.admitted + len(replica._intake.queue)
        sessions = replica._server.sessions
        found[f"{name} links"] = sum(len(session._works) + len(session._outflows) for session in sessions)
    return {where: count for where, count in found.items() if count}


def _is_over(mini: Mini) -> bool:
    mini.later(1)
    return not mini.connections()


def _on(io: Any, ask: Callable[[], Any]) -> Any:
    answer: list[Any] = []
    io.call(lambda: answer.append(ask()))
    return answer[0]


@pytest.mark.parametrize("seed", [1])
def test_after_10000_random_cancellations_nothing_is_held(mini: Mini, seed: int) -> None:
    draw = random.Random(seed)
    names = list(BACKENDS)
    for _ in range(CALLS // TOGETHER):
        ways = [
            (give_up_http if draw.random() < 0.2 else give_up_python)(mini, draw.choice(names), draw)
            for _ in range(TOGETHER)
        ]
        draw.shuffle(ways)
        for give_up in ways:
            give_up()
        mini.later(2)  # one that only closed its half is not waited for any longer
    eventually(lambda: _is_over(mini), "every client is gone")
    eventually(lambda: not held(mini), f"every counter is zero: {held(mini)}")

    for name in READABLE:
        items = iter(mini.handle(name).remote(1))
        assert len(next(items)) == 60_000
        items.close()
    eventually(lambda: not held(mini), f"every counter is zero again: {held(mini)}")
