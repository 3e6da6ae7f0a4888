"""How links to a replica begin and end: handshakes over TCP, time limits, too many of them, and STARTED frames."""

import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import SECRET, Mini
from tests.wire.processes import start
from tests.wire.raw_router import RawRouter

from rayserve.errors import ReplicaLostError
from rayserve.router import connector
from rayserve.wire import codec
from rayserve.wire.handshake import HANDSHAKE_BYTES, HANDSHAKE_S, Refused


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def only(mini: Mini) -> Any:
    (replica,) = mini.replicas.values()
    return replica


def is_cut(sock: socket.socket) -> bool:
    """Wait for the other end to close, politely or (as it left bytes unread) not."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def by_tcp(replica: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", replica.port), timeout=10)


def test_calls_cross_nodes_over_tcp(mini: Mini) -> None:
    mini.backend("b", lambda x: x if isinstance(x, bytes) else x.data, far=True)
    mini.endpoint("e", "/e", {"b": 1.0}).publish()
    body = bytes(range(256)) * 4096

    assert mini.post("/e", b"small").body == b"small"
    assert mini.post("/e", body).body == body
    assert mini.handle("e").remote(body).result(10) == body


def test_over_tcp_started_is_said_and_the_retry_table_holds(mini: Mini) -> None:
    began, gate = threading.Event(), threading.Event()

    def hold(x: Any) -> str:
        began.set()
        gate.wait(10)
        return "done"

    mini.backend("b", hold, far=True).endpoint("e", None, {"b": 1.0}).publish()
    started = mini.handle("e").remote(1)
    assert began.wait(10)
    queued = mini.handle("e").remote(2)
    eventually(lambda: only(mini)._intake.admitted == 2, "both are there")
    for peer in list(only(mini)._server._peers.values()):
        peer.link.sock.shutdown(socket.SHUT_RDWR)

    with pytest.raises(ReplicaLostError):
        started.result(10)
    gate.set()
    assert queued.result(10) == "done", "not started: sent again over a new link"


def test_a_silent_replica_is_suspected_and_trusted_again(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "_SUSPECT_S", 0.3)
    monkeypatch.setattr(connector, "_PING_S", 0.05)
    mini.backend("b", lambda: "x", far=True).endpoint("e", "/e", {"b": 1.0}).publish()
    assert mini.get("/e").status == 200
    (channel,) = [channel for pool in mini.router._pools.values() for channel in pool.candidates]
    lock = only(mini)._server.lock
    only(mini)._executor.run_between(lambda: None)
    with lock:  # nobody reads
        eventually(lambda: channel.suspect, "no PONG for a while")
    eventually(lambda: not channel.suspect, "it speaks again")
    assert mini.get("/e").status == 200


def test_a_handshake_that_never_completes_is_ended_after_a_second(mini: Mini) -> None:
    mini.backend("b", lambda: "x", far=True).endpoint("e", "/e", {"b": 1.0}).publish()
    with by_tcp(only(mini)) as silent, by_tcp(only(mini)) as slow:
        slow.sendall(b"\1\0")
        assert silent.recv(1) == b"" and slow.recv(1) == b""
    assert mini.get("/e").status == 200
    assert HANDSHAKE_S <= 1.0


def test_a_handshake_is_bounded_in_bytes_and_needs_the_secret(mini: Mini) -> None:
    mini.backend("b", lambda: "x", far=True).endpoint("e", "/e", {"b": 1.0}).publish()
    replica = only(mini)
    with by_tcp(replica) as flood:
        flood.sendall(codec.frame(codec.OPEN, 1, codec.END, bytes(HANDSHAKE_BYTES)))
        assert is_cut(flood)
    with RawRouter(replica, sock=by_tcp(replica), key=b"wrong" * 8) as router, pytest.raises(Refused, match="secret"):
        router.is_cut()
    with RawRouter(replica, sock=by_tcp(replica)) as router:
        assert router.is_cut(), "a HELLO without a nonce is none over TCP"
    with RawRouter(replica, sock=by_tcp(replica), key=SECRET).open() as router:
        router.call(1)
        assert router.value(1) == "x"


def test_a_unix_link_that_means_another_replica_is_refused(mini: Mini) -> None:
    mini.backend("a", lambda: "a").backend("b", lambda: "b").publish()
    one, two = mini.replicas.values()

    class Confused:
        unix = two.unix
        _spec = one._spec

    with RawRouter(Confused) as router:
        assert router.is_cut()


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be set on Linux only")
def test_out_of_descriptors_links_are_turned_away_without_a_spin(mini: Mini) -> None:
    (process,) = start(mini, "b", "tests.wire.subjects:Gated", 1)
    try:
        mini.endpoint("e", None, {"b": 1.0}).publish()
        pid = mini.handle("e").options("pid")
        assert pid.remote().result(10) == process.pid
        used = max(int(name) for name in os.listdir(f"/proc/{process.pid}/fd")) + 1
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + 5, used + 5))
        path = mini._backends["b"].replicas[0].unix
        socks = []
        for _ in range(40):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(path)
            sock.settimeout(10)
            socks.append(sock)
        turned_away = sum(sock.recv(1) == b"" for sock in socks[-20:])
        before = cpu_s(process.pid)
        assert pid.remote().result(10) == process.pid, "links that live are not affected"
        threading.Event().wait(0.5)
        assert cpu_s(process.pid) - before < 0.2
        assert turned_away == 20
        for sock in socks:
            sock.close()
    finally:
        process.end()
