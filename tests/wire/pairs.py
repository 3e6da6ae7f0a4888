"""Two links over one socket pair, and ways to wait for what the other end does."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rayserve.wire import sockets
from rayserve.wire.codec import Frame
from rayserve.wire.link import Link, LinkLost

WAIT_S = 10.0

Pair = tuple[socket.socket, socket.socket]


def unix_pair() -> Pair:
    return socket.socketpair()


def tcp_pair() -> Pair:
    with sockets.listen_tcp("127.0.0.1") as listener:
        near = sockets.connect_tcp(*listener.getsockname())
        assert select.select([listener], [], [], WAIT_S)[0]
        far = sockets.accept(listener)
        assert far is not None
        return near, far


@contextmanager
def linked(pair: Pair, sndbuf: int = 0) -> Iterator[tuple[Link, Link]]:
    for sock in pair:
        if sndbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
    near, far = Link(pair[0]), Link(pair[1])
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def comes(sock: socket.socket) -> None:
    """Wait until a read would not block: bytes, an end or an error."""
    assert select.select([sock], [], [], WAIT_S)[0]


def take(link: Link, count: int = 1) -> list[Frame]:
    """Read until `count` frames are there."""
    frames: list[Frame] = []
    while len(frames) < count:
        comes(link.sock)
        frames += link.receive()
    return frames


def ended(link: Link) -> LinkLost:
    """Read to the end; whatever came before is dropped."""
    with pytest.raises(LinkLost) as lost:
        while True:
            comes(link.sock)
            link.receive()
    return lost.value


both = pytest.mark.parametrize("pair", [unix_pair, tcp_pair], ids=["unix", "tcp"])
