"""Listening sockets that outlive the processes which accept on them.

    open_listeners("127.0.0.1", 8000, 2) ──► two sockets on one address; the kernel spreads connections over them

Each ingress gets one socket of its own (SO_REUSEPORT); the doorkeeper keeps them open, so connections
made while an ingress is dead wait for its successor. SO_REUSEPORT alone would silently share a port with another
program of this user, so one bind *without* it comes first.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from rayserve.errors import ClusterError, InvalidValueError, PortInUseError

__all__ = ["Listeners", "open_listeners"]

BACKLOG = 4096
_PORT_0_TRIES = 5


@dataclass(frozen=True)
class Listeners:
    """Sockets on one address, listening.

    Attributes:
        sockets: one per ingress, in order.
        url_host: what a client on this machine puts into a URL; a wildcard became loopback, IPv6 has brackets.
        port: the port, also if 0 was asked for.
    """

    sockets: tuple[socket.socket, ...]
    url_host: str
    port: int

    def close(self) -> None:
        """Close them; connections that nobody accepted yet are reset."""
        for one in self.sockets:
            one.close()


def open_listeners(host: str, port: int, count: int) -> Listeners:
    """Return `count` listening sockets on one address.

    Args:
        host: name or address, IPv4 or IPv6; `0.0.0.0` and `::` for all interfaces.
        port: 0 picks a free one, the same for all sockets.
        count: how many, at least one.

    Raises:
        PortInUseError: something listens there already.
        InvalidValueError: no such host or port on this machine.
        ClusterError: this user may not listen there.
    """
    family, address = _resolve(host, port)
    for attempt in range(1 if port else _PORT_0_TRIES):
        try:
            return _open(family, address, host, port, count)
        except PortInUseError:
            if port or attempt == _PORT_0_TRIES - 1:
                raise  # a picked port was taken between the proof and the bind: pick again
    raise AssertionError("unreachable")


def _open(family: socket.AddressFamily, address: str, host: str, port: int, count: int) -> Listeners:
    opened: list[socket.socket] = []
    try:
        port = _prove_free(family, address, host, port)
        for _ in range(count):
            one = _new_socket(family, address)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind((address, port))
            one.listen(BACKLOG)
    except BaseException as error:
        for one in opened:
            one.close()
        if isinstance(error, OSError):
            raise _in_words(error, host, port) from error
        raise
    return Listeners(tuple(opened), _for_url(family, address), port)


def _prove_free(family: socket.AddressFamily, address: str, host: str, port: int) -> int:
    """Bind once without SO_REUSEPORT, close again, and return the port: the one picked if `port` is 0."""
    with _new_socket(family, address) as proof:
        proof.bind((address, port))
        return int(proof.getsockname()[1])


def _new_socket(family: socket.AddressFamily, address: str) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    # Or connections that ended within the last minute would block a restart; Linux still refuses a living listener.
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
    one.setblocking(False)
    return one


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """Return family and numeric address of `host`; IPv4 wins where a name has both."""
    if not 0 <= port <= 65535:
        raise InvalidValueError(f"http_port={port} is not between 0 and 65535")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidValueError(f'http_host="{host}" is no address of this machine: {error}') from error
    family, _, _, _, address = min(found, key=lambda row: row[0] != socket.AF_INET)
    return family, str(address[0])


def _in_words(error: OSError, host: str, port: int) -> Exception:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"{where} is taken by another process; stop that one, or choose another port (http_port=0 picks a free one)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidValueError(
            f'http_host="{host}" is no address of this machine; "0.0.0.0" listens on all of its own'
        )
    if isinstance(error, PermissionError):
        return ClusterError(f"this user may not listen on {where}; choose a port from 1024 up")
    return ClusterError(f"cannot listen on {where}: {error}")


def _for_url(family: socket.AddressFamily, address: str) -> str:
    if family == socket.AF_INET6:
        return "[::1]" if address == "::" else f"[{address}]"
    return "127.0.0.1" if address == "0.0.0.0" else address
