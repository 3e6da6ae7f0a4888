"""Stream sockets for links: made, bound, connected, accepted, all non-blocking and with the options a link needs.

    replica   listen_unix(path) / listen_tcp(host) ─► accept(listener) ─► Link
    router    connect_unix(path) / connect_tcp(host, port) / await open_tcp(loop, host, port) ─► Link

On a unix socket `accept` compares the peer's user id with our own; over TCP the handshake finds out who called.
Nothing here blocks, resolves names, or keeps state.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
import sys
from typing import Final

__all__ = [
    "DEAD_PATH_MS", "FULL_PEER_MS", "accept", "check_peer", "connect_tcp", "connect_unix", "listen_tcp", "listen_unix",
    "open_tcp", "peer_uid", "spare_full_peer",
]  # fmt: skip

DEAD_PATH_MS: Final = 1000  # data that the peer's kernel has not acknowledged for this long: the path is dead
FULL_PEER_MS: Final = 30_000  # a peer whose kernel answers but whose process reads nothing gets this long

_BACKLOG: Final = 4096  # the kernel takes less if somaxconn says so
_IDLE_S: Final = 5  # keepalive finds dead links that carry nothing, should our own PINGs stop
_PROBE_S: Final = 1
_PROBES: Final = 3
_ESTABLISHED: Final = 1  # tcpi_state

_log = logging.getLogger(__name__)


def listen_unix(path: str) -> socket.socket:
    """Return a listening unix socket that only our user can connect to.

    Args:
        path: at most 107 bytes (103 on macOS), in a directory of mode 0700; nothing may be there yet.

    Raises:
        OSError: the path is too long, taken, or cannot be written.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind(path)
        except OSError as error:
            # Python's own "AF_UNIX path too long" carries no errno and no path.
            why = error.strerror or f"{error}, {len(os.fsencode(path))} bytes; set RAYSERVE_DIR to a shorter directory"
            raise OSError(error.errno or errno.ENAMETOOLONG, f"cannot listen on a unix socket: {why}", path) from None
        os.chmod(path, 0o600)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_unix(path: str) -> socket.socket:
    """Return a unix socket connected to `path`.

    Raises:
        FileNotFoundError, ConnectionRefusedError: nobody listens there.
        BlockingIOError: the listener's backlog is full; try again later.
        PermissionError: another user listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        if not check_peer(sock):
            raise PermissionError(errno.EPERM, f"user {peer_uid(sock)} listens there, we are {os.geteuid()}", path)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_tcp(host: str, port: int = 0) -> socket.socket:
    """Return a listening TCP socket; `getsockname()[1]` tells its port.

    Args:
        host: a literal IPv4 or IPv6 address of this machine.
        port: 0 lets the kernel choose.

    Raises:
        OSError: no such address here, or the port is taken.
    """
    family, address = _numeric(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # A replica that starts on a port just left by another meets connections in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_tcp(host: str, port: int) -> socket.socket:
    """Return a TCP socket on its way to `host`; it turns writable when it is connected, readable if that failed.

    Args:
        host: a literal IPv4 or IPv6 address; names are not resolved, that would block.
        port: where the replica listens.

    Raises:
        OSError: `host` is no address, or the kernel knows at once that nobody is there.
    """
    sock, address = _outgoing(host, port)
    failed = sock.connect_ex(address)
    if failed not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(failed, f"cannot connect to {host} port {port}: {os.strerror(failed)}")
    return sock


async def open_tcp(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Return a TCP socket connected to `host`, for callers that can wait.

    Args:
        loop: the running loop.
        host: a literal IPv4 or IPv6 address.
        port: where the replica listens.

    Raises:
        OSError: `host` is no address, or nobody answers there (a silent host: after `DEAD_PATH_MS` on Linux).
    """
    sock, address = _outgoing(host, port)
    try:
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> socket.socket | None:
    """Return the next connection, or None: nobody waits, the one who did has gone, or is of another user.

    Raises:
        OSError: the process is out of file descriptors, or the listener is closed.
    """
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
    try:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            _tune(sock)
        elif not check_peer(sock):
            _log.warning("connection refused: it comes from user %d, we are %d", peer_uid(sock), os.geteuid())
            sock.close()
            return None
    except OSError as error:  # ENOTCONN, EINVAL: gone already
        _log.info("connection ended while it was accepted: %s", error)
        sock.close()
        return None
    return sock


def check_peer(sock: socket.socket) -> bool:
    """Return whether the process at the other end of a unix socket is of our own user.

    Raises:
        OSError: `sock` is not connected, or the platform cannot tell.
    """
    return peer_uid(sock) == os.geteuid()


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process that connected (or listens) at the other end of a unix socket.

    Raises:
        OSError: `sock` is not connected, or the platform cannot tell.
    """
    if sys.platform == "linux":
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)  # pid, uid, gid
    elif sys.platform == "darwin":
        # SOL_LOCAL is 0, LOCAL_PEERCRED is 1; struct xucred: version, uid, group count, 16 groups.
        credentials = sock.getsockopt(0, 1, struct.calcsize("2Ih16I"))
        _, uid = struct.unpack_from("2I", credentials)
    else:
        raise OSError(errno.ENOTSUP, f"cannot tell the peer's user on {sys.platform}")
    return int(uid)


def spare_full_peer(sock: socket.socket) -> bool:
    """Keep Linux from taking a busy peer for a dead path; return whether the peer's receive window is closed.

    Linux ends a connection whose peer keeps its window closed for TCP_USER_TIMEOUT, although the peer's kernel answers
    every probe: user code that holds the GIL for a second while calls come in would cost the link. Call this with
    every PING on a TCP link (250 ms): while the window is closed the peer gets `FULL_PEER_MS`, else `DEAD_PATH_MS`.
    """
    if sys.platform != "linux":
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    if len(info) < 232 or info[0] != _ESTABLISHED:  # a kernel before 5.4 does not tell the window
        return False
    (segment,) = struct.unpack_from("=I", info, 16)  # tcpi_snd_mss
    (window,) = struct.unpack_from("=I", info, 228)  # tcpi_snd_wnd
    full = bool(window < segment)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, FULL_PEER_MS if full else DEAD_PATH_MS)
    return full


def _numeric(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        raise OSError(errno.EADDRNOTAVAIL, f"not an IP address: {host!r}; links take literal addresses only") from None
    return found[0][0], found[0][4]


def _outgoing(host: str, port: int) -> tuple[socket.socket, tuple[object, ...]]:
    family, address = _numeric(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _tune(sock)
    except BaseException:
        sock.close()
        raise
    return sock, address


def _tune(sock: socket.socket) -> None:
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, DEAD_PATH_MS)
        sock.setsockopt(tcp, socket.TCP_KEEPIDLE, _IDLE_S)
    elif sys.platform == "darwin":
        sock.setsockopt(tcp, 0x10, _IDLE_S)  # TCP_KEEPALIVE, named in `socket` on macOS only
    if hasattr(socket, "TCP_KEEPINTVL"):
        sock.setsockopt(tcp, socket.TCP_KEEPINTVL, _PROBE_S)
        sock.setsockopt(tcp, socket.TCP_KEEPCNT, _PROBES)
