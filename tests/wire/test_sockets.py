"""Sockets: options, who may connect, and failures that say what to do."""

import asyncio
import errno
import os
import select
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayserve.wire import sockets

WAIT_S = 10.0
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT and TCP_INFO are Linux's")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder: a unix socket's path ends at 107 bytes."""
    with tempfile.TemporaryDirectory(dir=os.environ["RAYSERVE_DIR"]) as name:
        yield Path(name)


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], WAIT_S)[0])


def accepted(listener: socket.socket) -> socket.socket:
    assert readable(listener)
    sock = sockets.accept(listener)
    assert sock is not None
    return sock


def tcp_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    with sockets.listen_tcp(host) as listener:
        near = sockets.connect_tcp(host, listener.getsockname()[1])
        return near, accepted(listener)


def test_unix_sockets_connect_and_are_ours_alone(folder: Path) -> None:
    path = str(folder / "r.sock")
    with sockets.listen_unix(path) as listener:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with sockets.connect_unix(path) as near, accepted(listener) as far:
            assert not near.getblocking() and not far.getblocking() and not listener.getblocking()
            assert sockets.peer_uid(near) == sockets.peer_uid(far) == os.geteuid()
            assert sockets.check_peer(near) and sockets.check_peer(far)
            near.send(b"hello")
            assert readable(far) and far.recv(10) == b"hello"


def test_another_users_connection_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(folder / "r.sock")
    me = os.geteuid()
    with sockets.listen_unix(path) as listener, sockets.connect_unix(path) as near:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        assert readable(listener)
        assert sockets.accept(listener) is None
        assert f"it comes from user {me}, we are {me + 1}" in caplog.text
        assert readable(near) and near.recv(10) == b""


def test_another_users_listener_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(folder / "r.sock")
    me = os.geteuid()
    with sockets.listen_unix(path):
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(PermissionError, match=f"user {me} listens there, we are {me + 1}"):
            sockets.connect_unix(path)


def test_a_path_too_long_says_what_to_do(folder: Path) -> None:
    path = str(folder / ("x" * 120))
    with pytest.raises(OSError, match=f"{len(path)} bytes; set RAYSERVE_DIR to a shorter directory") as failed:
        sockets.listen_unix(path)
    assert failed.value.filename == path
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        sockets.connect_unix(path)


def test_a_taken_path_is_not_taken_over(folder: Path) -> None:
    path = str(folder / "r.sock")
    with sockets.listen_unix(path) as listener:
        with pytest.raises(OSError, match="cannot listen on a unix socket") as failed:
            sockets.listen_unix(path)
        assert failed.value.errno == errno.EADDRINUSE
        with sockets.connect_unix(path), accepted(listener):
            pass


def test_nobody_there_is_told_at_once(folder: Path) -> None:
    path = str(folder / "r.sock")
    with pytest.raises(FileNotFoundError):
        sockets.connect_unix(path)
    sockets.listen_unix(path).close()
    with pytest.raises(ConnectionRefusedError):
        sockets.connect_unix(path)


def test_accept_returns_none_when_nobody_waits(folder: Path) -> None:
    with sockets.listen_unix(str(folder / "r.sock")) as unix, sockets.listen_tcp("127.0.0.1") as tcp:
        assert sockets.accept(unix) is None
        assert sockets.accept(tcp) is None


def test_a_caller_who_left_before_he_was_accepted_reads_as_eof(folder: Path) -> None:
    path = str(folder / "r.sock")
    with sockets.listen_unix(path) as listener:
        sockets.connect_unix(path).close()
        with accepted(listener) as far:
            assert far.recv(10) == b""


def test_both_ends_of_a_tcp_link_have_its_options() -> None:
    near, far = tcp_pair()
    with near, far:
        for sock in (near, far):
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if sys.platform == "linux":
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == sockets.DEAD_PATH_MS == 1000


def test_ipv6_works_where_there_is_any() -> None:
    try:
        near, far = tcp_pair("::1")
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    with near, far:
        near.send(b"hello")
        assert readable(far) and far.recv(10) == b"hello"


def free_port() -> int:
    with sockets.listen_tcp("127.0.0.1") as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_refused_tcp_connection_reads_as_an_error() -> None:
    with sockets.connect_tcp("127.0.0.1", free_port()) as near:
        assert readable(near)
        with pytest.raises(ConnectionRefusedError):
            near.recv(1)


def test_open_tcp_waits_until_it_is_connected() -> None:
    async def both() -> bytes:
        loop = asyncio.get_running_loop()
        with sockets.listen_tcp("127.0.0.1") as listener:
            async with asyncio.timeout(WAIT_S):
                with await sockets.open_tcp(loop, *listener.getsockname()) as near, accepted(listener) as far:
                    far.send(b"hello")
                    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    return await loop.sock_recv(near, 10)

    async def nobody() -> None:
        await sockets.open_tcp(asyncio.get_running_loop(), "127.0.0.1", free_port())

    assert asyncio.run(both()) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(nobody())


@pytest.mark.parametrize("host", ["localhost", "example.com", "300.1.1.1"])
def test_names_are_not_resolved(host: str) -> None:
    with pytest.raises(OSError, match=f"not an IP address: '{host}'"):
        sockets.connect_tcp(host, 1)
    with pytest.raises(OSError, match=f"not an IP address: '{host}'"):
        sockets.listen_tcp(host)


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(OSError) as failed:
        sockets.listen_tcp("192.0.2.1")
    assert failed.value.errno == errno.EADDRNOTAVAIL


@linux_only
def test_a_peer_that_reads_nothing_is_not_a_dead_path() -> None:
    """Linux would end the connection after TCP_USER_TIMEOUT of a closed window; seen on 6.18."""

    def patience_ms() -> int:
        return near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    near, far = tcp_pair()
    with near, far:
        assert not sockets.spare_full_peer(near)
        sent = 0
        try:
            while True:
                sent += near.send(bytes(65536))
        except BlockingIOError:
            pass
        give_up = time.monotonic() + WAIT_S
        while not sockets.spare_full_peer(near):  # once the peer's kernel has acknowledged all it has room for
            assert time.monotonic() < give_up
            assert not select.select([near], [], [], 0.01)[0]
        assert patience_ms() == sockets.FULL_PEER_MS
        while sent:
            assert readable(far)
            sent -= len(far.recv(1 << 20))
        assert not sockets.spare_full_peer(near)
        assert patience_ms() == sockets.DEAD_PATH_MS


@linux_only
def test_what_is_no_open_connection_is_left_alone() -> None:
    near, far = tcp_pair()
    with near:
        near.send(b"unread")
        far.close()
        assert readable(near)
        assert not sockets.spare_full_peer(near)
    with socket.socket() as never:
        assert not sockets.spare_full_peer(never)
        assert never.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
