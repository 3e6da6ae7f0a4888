"""The ingress as a process: it drains, it dies with its doorkeeper, and it outlives a lack of file descriptors."""

import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.front import Front
from tests.wire.http_client import Client, request
from tests.wire.mini import Mini

MIB = 2**20


class Gate:
    """A handler that the test holds up."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, request: Any) -> bytes:
        self.entered.release()
        self.open.wait(30)
        return b"finished"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def mini(gate: Gate) -> Iterator[Mini]:
    def handler(request: Any) -> Any:
        return gate(request)

    with Mini() as running:
        running.backend("slow", handler).endpoint("slow", "/slow", {"slow": 1.0})
        running.backend("b", lambda request: b"x" * int(request.args.get("size", len(request.data))))
        running.endpoint("e", "/x", {"b": 1.0}, max_body_bytes=10**9)
        yield running.publish()
        gate.open.set()


def test_case_14_sigterm_drains_what_is_under_way(mini: Mini, gate: Gate) -> None:
    with Front(mini) as front, Client(front.port) as busy, Client(front.port) as idle, Client(front.port) as uploads:
        front.ready()
        assert idle.get("/-/healthz").answer().status == 200
        busy.send(request("GET", "/slow") * 2)
        assert gate.entered.acquire(timeout=10)
        uploads.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbo")
        assert idle.get("/x").answer().status == 200

        front.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in front.log.read_text(), "it drains")
        health = idle.get("/-/healthz").answer()
        uploads.send(b"dy")
        uploaded = uploads.answer()
        gate.open.set()
        first, second = busy.answer(), busy.answer()

        assert (health.status, health.reason, health.closes) == (503, "draining", True)
        assert idle.is_closed()
        assert (uploaded.status, uploaded.body, uploaded.closes) == (200, b"xxxx", True)
        assert (first.body, first.closes) == (b"finished", False)
        assert (second.body, second.closes) == (b"finished", True)
        assert front.ended() == 0


def test_sigterm_closes_idle_connections_and_exits(mini: Mini) -> None:
    with Front(mini) as front, Client(front.port) as client:
        client.get("/x").answer()
        front.process.send_signal(signal.SIGTERM)
        assert client.is_closed()
        assert front.ended() == 0


def test_sigterm_before_the_first_table_exits_too() -> None:
    with Mini() as mini, Front(mini) as front:
        eventually(lambda: _has_handler(front.process.pid), "it listens to signals")
        front.process.send_signal(signal.SIGTERM)
        assert front.ended() == 0


def _has_handler(pid: int) -> bool:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_it_dies_at_once_when_its_doorkeeper_is_gone(mini: Mini) -> None:
    with Front(mini) as front, Client(front.port) as busy:
        front.ready()
        busy.get("/slow")
        assert front.process.stdin is not None
        front.process.stdin.close()
        assert front.ended() == 0


def test_without_file_descriptors_it_neither_spins_nor_stops(mini: Mini) -> None:
    with Front(mini, files=64) as front, Client(front.port) as client:
        front.ready()
        assert client.get("/x").answer().status == 200
        others = [Client(front.port) for _ in range(80)]
        before = _cpu_s(front.process.pid)
        statuses = [client.get("/x?size=3").answer().status for _ in range(20)]
        for other in others:
            other.sock.close()
        eventually(lambda: _is_served(front.port), "it accepts again")

        assert statuses == [200] * 20
        assert _cpu_s(front.process.pid) - before < 0.5
    assert "taking 32 connections" in front.log.read_text()


def _is_served(port: int) -> bool:
    with Client(port) as client:
        try:
            return client.get("/x").answer().status == 200
        except (AssertionError, ConnectionError):
            return False


def _cpu_s(pid: int) -> float:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _peak_mib(pid: int) -> float:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def test_large_bodies_take_no_more_memory_than_they_must(mini: Mini) -> None:
    with Front(mini) as front, Client(front.port) as client:
        client.get("/x").answer()
        before = _peak_mib(front.process.pid)
        assert len(client.get(f"/x?size={64 * MIB}").answer().body) == 64 * MIB
        down = _peak_mib(front.process.pid)
        assert len(client.post("/x?size=1", b"y" * (48 * MIB)).answer().body) == 1
        assert len(client.post("/x?size=1", b"y" * (48 * MIB)).answer().body) == 1
        up = _peak_mib(front.process.pid)

    assert down - before < 8  # it streams
    assert up - before < 48 + 24  # it is gathered once, and given back before the next


def test_the_access_log_has_a_line_for_each_answer(mini: Mini) -> None:
    with Front(mini, access_log=True, trusted_proxies=["127.0.0.0/8"]) as front, Client(front.port) as client:
        client.get("/x?size=1&secret=s3cret", "X-Request-Id: mine").answer()
        client.get("/nowhere", "X-Request-Id: other", "X-Forwarded-For: 192.0.2.7").answer()
        client.send(b"nonsense\r\n\r\n").answer()
        eventually(lambda: front.log.read_text().count(" id=") == 3, "three lines are written")
        lines = [line.partition(" INFO ")[2] for line in front.log.read_text().splitlines() if " id=" in line]

    peer = r"127\.0\.0\.1:\d+"
    patterns = [
        rf'rayserve\.access {peer} "GET /x" 200 \d+\.\dms endpoint=e backend=b id=mine',
        r'rayserve\.access 192\.0\.2\.7:0 "GET /nowhere" 404 0\.0ms endpoint=- backend=- id=other',
        rf'rayserve\.access {peer} "- -" 400 0\.0ms endpoint=- backend=- id=\S+',
    ]
    for line, pattern in zip(lines, patterns, strict=True):  # no query among them: it may hold secrets
        assert re.fullmatch(pattern, line), line
