"""Hub and subscribers on one loop, over a real unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from tests.conditions import eventually_on_loop
from tests.tables import encode_table

from rayserve.feed.hub import Hub
from rayserve.feed.messages import HELLO, REPORT, TABLE, WELCOME, Cutter, Hello, Welcome, message
from rayserve.feed.subscriber import Subscriber
from rayserve.model.facts import Facts, Report
from rayserve.model.packed import pack_endpoint, pack_table
from rayserve.model.table import Endpoint, RoutingTable, Traffic

Run = Callable[[Coroutine[Any, Any, None]], None]

WELCOME_SENT = Welcome("default", "node-1", b"secret")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on a fresh loop of either kind."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as one:
            one.run(main)

    return runner


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "feed.sock"


def table(version: int, *, padding: int = 0) -> bytes:
    filler = (Endpoint("x" * padding, None, ("GET",)),) if padding else ()
    return encode_table(RoutingTable("default", 1, version, filler))


class Listener:
    """A subscriber that writes down what it gets; `gate` holds `on_table` up if it is closed."""

    def __init__(self, path: Path, process: str = "ingress-0:1", kind: str = "ingress", replica: str = "") -> None:
        self.welcomes: list[Welcome] = []
        self.versions: list[int] = []
        self.tables: list[RoutingTable] = []
        self.lost = 0
        self.facts = Facts(process, kind)
        self.subscriber = Subscriber(
            path,
            process=process,
            kind=kind,
            replica=replica,
            on_welcome=self.welcomes.append,
            on_table=self.on_table,
            facts=lambda: self.facts,
            on_lost=self.on_lost,
        )

    def on_table(self, table: RoutingTable) -> None:
        self.versions.append(table.version)
        self.tables.append(table)

    def on_lost(self) -> None:
        self.lost += 1


@asynccontextmanager
async def hub_at(path: Path, **callbacks: Any) -> AsyncIterator[Hub]:
    hub = Hub(path, WELCOME_SENT, **callbacks)
    await hub.start()
    try:
        yield hub
    finally:
        hub.close()


@asynccontextmanager
async def listening(listener: Listener, to: Hub | None = None) -> AsyncIterator[Listener]:
    listener.subscriber.start()
    try:
        if to is not None:
            process = listener.subscriber.hello.process
            await eventually_on_loop(lambda: process in {one.process for one in to.subscribers()}, "it says hello")
        yield listener
    finally:
        listener.subscriber.close()


def test_a_late_comer_gets_welcome_and_the_present_table(run: Run, path: Path) -> None:
    async def main() -> None:
        async with hub_at(path) as hub:
            hub.publish(table(1))
            hub.publish(table(2))
            async with listening(Listener(path), hub) as one:
                await eventually_on_loop(lambda: one.versions, "it gets a table")
                assert one.welcomes == [WELCOME_SENT]
                assert one.versions == [2]
                assert one.subscriber.connected

    run(main())


def test_a_table_settles_when_all_have_acknowledged_it(run: Run, path: Path) -> None:
    async def main() -> None:
        async with (
            hub_at(path) as hub,
            listening(Listener(path, "a"), hub) as a,
            listening(Listener(path, "b"), hub) as b,
        ):
            stamp = hub.publish(table(7))
            assert await hub.settled(stamp, 5.0) == []
            assert a.versions == b.versions == [7]

    run(main())


def test_an_older_table_changes_nothing(run: Run, path: Path) -> None:
    async def main() -> None:
        async with hub_at(path) as hub, listening(Listener(path), hub) as one:
            assert hub.publish(table(7)) == (1, 7)
            assert hub.publish(table(6)) == (1, 7)
            assert hub.publish(table(7)) == (1, 7)
            assert await hub.settled((1, 7), 5.0) == []
            stamp = hub.publish(table(8))
            assert await hub.settled(stamp, 5.0) == []
            assert one.versions == [7, 8]

    run(main())


def test_who_leaves_is_not_waited_for(run: Run, path: Path) -> None:
    async def main() -> None:
        gone: list[Hello] = []
        async with hub_at(path, on_gone=gone.append) as hub:
            mute = await introduce(path, hub, "mute")
            settling = asyncio.ensure_future(hub.settled(hub.publish(table(1)), 60.0))
            mute.close()
            assert await asyncio.wait_for(settling, 5.0) == []
            assert [one.process for one in gone] == ["mute"]

    run(main())


def test_a_frozen_subscriber_is_late_and_holds_nobody_up(run: Run, path: Path) -> None:
    async def main() -> None:
        async with hub_at(path) as hub, listening(Listener(path, "quick"), hub) as quick:
            frozen = await introduce(path, hub, "frozen")
            for version in range(1, 31):  # 30 MB would pile up if each table were queued
                hub.publish(table(version, padding=10**6))
                await eventually_on_loop(lambda v=version: v in quick.versions, f"table {version} passes by")  # type: ignore[misc]
            late = await hub.settled((1, 30), 0.05)
            assert [str(one) for one in late] == ["frozen"]
            for one in late:
                one.drop("test")
            assert await hub.settled((1, 30), 5.0) == []
            assert [one.process for one in hub.subscribers()] == ["quick"]
            frozen.close()

    run(main())


def test_a_slow_subscriber_skips_to_the_newest_table(run: Run, path: Path) -> None:
    async def main() -> None:
        async with hub_at(path) as hub:
            slow = await introduce(path, hub, "slow")
            for version in range(1, 31):
                hub.publish(table(version, padding=10**6))
            received = await read_tables(slow, until=30)
            assert received[-1] == 30
            assert len(received) < 10
            slow.close()

    run(main())


def test_a_dropped_subscriber_comes_back_and_catches_up(run: Run, path: Path) -> None:
    async def main() -> None:
        async with hub_at(path) as hub, listening(Listener(path), hub) as one:
            await hub.settled(hub.publish(table(1)), 5.0)
            for connection in list(hub.connections):
                connection.drop("test")
            hub.publish(table(2))
            await eventually_on_loop(lambda: one.versions == [1, 2], "it fetches the table it missed")
            assert one.lost == 1

    run(main())


def test_a_subscriber_outlives_its_hub(run: Run, path: Path) -> None:
    async def main() -> None:
        listener = Listener(path, kind="replica", replica="r1")
        listener.subscriber.report(Report("r1", 1))
        async with listening(listener):
            reports: list[Report] = []
            async with hub_at(path, on_report=reports.append) as hub:
                hub.publish(table(1))
                await eventually_on_loop(lambda: reports and listener.versions, "the report of before the hub goes up")
            await eventually_on_loop(lambda: not listener.subscriber.connected, "the loss is noticed")
            listener.subscriber.report(Report("r1", 2, "boom"))
            async with hub_at(path, on_report=reports.append) as hub:
                hub.publish(table(2))
                await eventually_on_loop(lambda: listener.versions == [1, 2], "it finds the next hub")
                await eventually_on_loop(
                    lambda: reports[-1] == Report("r1", 2, "boom"), "the report of meanwhile goes up"
                )

    run(main())


def test_facts_go_up_when_they_changed(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayserve.feed.subscriber._FACTS_EVERY_S", 0.01)

    async def main() -> None:
        got: list[Facts] = []
        async with hub_at(path, on_facts=got.append) as hub, listening(Listener(path), hub) as one:
            await eventually_on_loop(lambda: len(got) == 1, "the first facts")
            looks = 0

            def look() -> Facts:
                nonlocal looks
                looks += 1
                return Facts("ingress-0:1", "ingress")

            one.subscriber.facts = look
            await eventually_on_loop(lambda: looks >= 5, "it looks five times more")
            assert len(got) == 1
            one.subscriber.facts = lambda: Facts("ingress-0:1", "ingress", connections=5)
            await eventually_on_loop(lambda: len(got) == 2, "the changed facts")
            assert got[1].connections == 5

    run(main())


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
        pytest.param(b"\xff\xff\xff\xff\x01", id="lying length"),
        pytest.param(message(REPORT, Report("r", 1)), id="report before hello"),
        pytest.param(message(HELLO, b"\xc1"), id="broken hello"),
        pytest.param(message(HELLO, Hello("x", "handle", 1)) * 2, id="two hellos"),
        pytest.param(message(HELLO, Hello("x", "handle", 1)) + message(REPORT, b"\x01"), id="broken report"),
        pytest.param(message(HELLO, Hello("x", "handle", 1)) + message(TABLE, table(1)), id="wrong direction"),
    ],
)
def test_garbage_ends_the_connection_and_only_that(run: Run, path: Path, noise: bytes) -> None:
    async def main() -> None:
        async with hub_at(path) as hub, listening(Listener(path, "good"), hub) as good:
            bad = await connect(path)
            await asyncio.get_running_loop().sock_sendall(bad, noise)
            await eventually_on_loop(lambda: [one.process for one in hub.subscribers()] == ["good"], "it is cut off")
            assert await read_to_end(bad)
            assert await hub.settled(hub.publish(table(1)), 5.0) == []
            assert good.versions == [1]

    run(main())


def test_who_never_says_hello_is_cut_off(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayserve.feed.connection._HELLO_WITHIN_S", 0.02)

    async def main() -> None:
        async with hub_at(path) as hub:
            silent = await connect(path)
            assert await asyncio.get_running_loop().sock_recv(silent, 1) == b""
            assert not hub.connections
            silent.close()

    run(main())


def test_another_users_process_is_cut_off(run: Run, path: Path) -> None:
    async def main() -> None:
        async with hub_at(path, uid=os.getuid() + 1) as hub:
            stranger = await connect(path)
            assert await read_to_end(stranger)
            assert not hub.connections

    run(main())


def test_a_table_that_cannot_be_put_in_force_is_not_acknowledged(run: Run, path: Path) -> None:
    async def main() -> None:
        async with hub_at(path) as hub:
            one = Listener(path)
            refuse = True

            def on_table(table: RoutingTable) -> None:
                if refuse:
                    raise RuntimeError("not now")
                one.versions.append(table.version)

            one.subscriber.on_table = on_table
            async with listening(one, hub):
                hub.publish(table(1))
                await eventually_on_loop(lambda: one.lost, "it gives the connection up")
                assert not one.subscriber.connected
                refuse = False
                await eventually_on_loop(lambda: one.versions == [1], "it tries again")

    run(main())


async def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, str(path))
    return sock


async def introduce(path: Path, hub: Hub, process: str) -> socket.socket:
    """Connect by hand and say hello; the socket is then read by the test alone, or never."""
    sock = await connect(path)
    await asyncio.get_running_loop().sock_sendall(sock, message(HELLO, Hello(process, "handle", os.getpid())))
    await eventually_on_loop(lambda: process in {one.process for one in hub.subscribers()}, f"{process} is known")
    return sock


async def read_tables(sock: socket.socket, until: int) -> list[int]:
    cutter = Cutter(2**28)
    versions: list[int] = []
    while not versions or versions[-1] < until:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 2**16), 5.0)
        assert data, "the hub hung up"
        for kind, payload in cutter.feed(data):
            assert kind in (WELCOME, TABLE)
            if kind == TABLE:
                versions.append(msgspec.msgpack.decode(payload, type=RoutingTable).version)
    return versions


async def read_to_end(sock: socket.socket) -> bool:
    """Read until the other side hung up, by end of file or reset."""
    loop = asyncio.get_running_loop()
    try:
        while await asyncio.wait_for(loop.sock_recv(sock, 2**16), 5.0):
            pass
    except ConnectionError:
        pass
    sock.close()
    return True


def test_changes_reach_those_who_have_the_table_before_and_a_whole_one_the_others(run: Run, path: Path) -> None:
    def row(name: str, weight: str) -> Endpoint:
        return Endpoint(name, f"/{name}", ("GET",), Traffic({weight: 1.0}))

    async def main() -> None:
        async with hub_at(path) as hub, listening(Listener(path, "early"), hub) as early:
            first = RoutingTable("default", 1, 1, (row("a", "x"), row("b", "x")))
            second = RoutingTable("default", 1, 2, (row("a", "y"), row("b", "x")))
            assert await hub.settled(hub.publish(encode_table(first)), 5.0) == []
            assert hub.publish(pack_table(second, [pack_endpoint(row("a", "y"))], (1, 1))) == (1, 2)
            async with listening(Listener(path, "late"), hub) as late:
                assert await hub.settled((1, 2), 5.0) == []
                assert early.tables == [first, second]
                assert late.tables == [second]
            assert hub.publish(pack_table(second, [], (7, 7))) == (1, 2)  # not ours to apply

    run(main())
