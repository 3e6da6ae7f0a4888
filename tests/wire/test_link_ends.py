"""How links end: the peer's last words are read, and the loss says whether they were its last."""

import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.wire.pairs import WAIT_S, Pair, both, comes, ended, linked, take, tcp_pair, unix_pair

from rayserve.wire import sockets
from rayserve.wire.codec import END, HEAD, OPEN, PING, PONG, STARTED, frame
from rayserve.wire.handshake import ClientHandshake
from rayserve.wire.link import Link, LinkLost

SECRET = b"a secret of the instance, 32 B.."


@both
def test_what_the_peer_said_last_is_read_before_its_end(pair: Callable[[], Pair]) -> None:
    with linked(pair()) as (near, far):
        far.send_now(frame(STARTED, 1) + frame(HEAD, 1, END))
        far.close()
        assert [kind for kind, *_ in take(near, 2)] == [STARTED, HEAD]
        for _ in range(2):
            lost = ended(near)
            assert lost.clean and str(lost) == "peer closed the link"


@both
def test_a_frame_cut_by_the_peers_death_is_dropped(pair: Callable[[], Pair]) -> None:
    with linked(pair()) as (near, far):
        far.send_now(frame(HEAD, 1, END, b"", b"whole") + frame(HEAD, 3, END, b"", b"cut off")[:-3])
        far.close()
        assert [body for *_, body in take(near)] == [b"whole"]
        assert ended(near).clean


@both
def test_writing_to_a_closed_peer_leaves_its_last_words(pair: Callable[[], Pair]) -> None:
    with linked(pair()) as (near, far):
        far.send_now(frame(STARTED, 1))
        far.close()
        comes(near.sock)
        give_up = time.monotonic() + WAIT_S
        while not near.broken:  # TCP tells with the second write, once the peer's kernel has answered the first
            assert time.monotonic() < give_up
            assert near.send_now(frame(OPEN, 3, END))
            select.select([], [], [near.sock], 0.01)
        assert not near.closed
        assert near.send_now(bytes(1 << 20)) and near.unsent == 0
        assert take(near) == [(STARTED, 0, 1, 0, b"", b"")]
        assert ended(near).clean


def test_a_unix_peer_that_left_bytes_unread_has_still_said_all() -> None:
    with linked(unix_pair()) as (near, far):
        near.send_now(frame(OPEN, 1, END))
        far.send_now(frame(STARTED, 1))
        far.close()  # the kernel tells a reset, since the OPEN was never read
        assert take(near) == [(STARTED, 0, 1, 0, b"", b"")]
        lost = ended(near)
        assert lost.clean and "reset" in str(lost)


def test_a_tcp_reset_is_no_clean_end() -> None:
    """A kernel that resets drops what it had not sent: a STARTED may have been among it."""
    with linked(tcp_pair()) as (near, far):
        near.send_now(frame(OPEN, 1, END))
        comes(far.sock)
        far.send_now(frame(STARTED, 1))
        far.close()
        assert take(near) == [(STARTED, 0, 1, 0, b"", b"")]
        lost = ended(near)
        assert not lost.clean and "reset" in str(lost)


def test_a_reset_that_the_writer_met_is_still_none_to_the_reader() -> None:
    """The kernel reports a reset once; after a write has met it, a read sees a plain end of file."""
    with linked(tcp_pair()) as (near, far):
        near.send_now(frame(OPEN, 1, END))
        comes(far.sock)
        far.close()
        comes(near.sock)
        assert near.send_now(frame(OPEN, 3, END))
        assert near.broken
        lost = ended(near)
        assert not lost.clean and "reset" in str(lost)


class Failing(socket.socket):
    """A socket whose next write, or read, fails as the kernel lets it fail when a path dies."""

    write_error: int = 0
    read_error: int = 0

    def send(self, data: object, flags: int = 0) -> int:
        if self.write_error:
            raise OSError(self.write_error, "as told")
        return super().send(data, flags)  # type: ignore[arg-type]

    def recv_into(self, buffer: object, nbytes: int = 0, flags: int = 0) -> int:
        if self.read_error:
            raise OSError(self.read_error, "as told")
        return super().recv_into(buffer, nbytes, flags)  # type: ignore[arg-type]


@contextmanager
def failing(pair: Pair) -> Iterator[tuple[Link, Failing, Link]]:
    sock = Failing(fileno=pair[0].detach())
    with linked((sock, pair[1])) as (near, far):
        yield near, sock, far


@pytest.mark.parametrize("error", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET])
def test_a_dead_path_is_no_clean_end(error: int) -> None:
    with failing(tcp_pair()) as (near, sock, _):
        sock.read_error = error
        assert not ended_by_error(near).clean
    with failing(tcp_pair()) as (near, sock, far):
        sock.write_error = error
        assert near.send_now(frame(PING, 0)) and near.broken
        far.close()
        assert not ended(near).clean


def ended_by_error(link: Link) -> LinkLost:
    with pytest.raises(LinkLost) as lost:
        link.receive()
    return lost.value


def test_a_connection_that_never_opened_took_no_call_with_it() -> None:
    with sockets.listen_tcp("127.0.0.1") as listener:
        address = listener.getsockname()
    link = Link(sockets.connect_tcp(*address), handshake=ClientHandshake("ingress", "shop", "r#1", SECRET))
    lost = ended(link)
    link.close()
    assert lost.clean and "refused" in str(lost)


@both
def test_a_link_that_cannot_write_ends_at_both_sides(pair: Callable[[], Pair]) -> None:
    """Else a peer that lives would wait for ever for the frames that were dropped here."""
    with failing(pair()) as (near, sock, far):
        far.send_now(frame(PONG, 0))
        sock.write_error = errno.ENOBUFS
        assert near.send_now(frame(PING, 0))
        assert near.broken and not near.closed
        assert ended(far).clean
        far.close()
        assert take(near)[0][0] == PONG
        ended(near)


def test_a_closed_link_swallows_what_is_still_sent() -> None:
    with linked(unix_pair()) as (near, far):
        near.send(frame(OPEN, 1, END))
        near.close()
        assert near.unsent == 0
        near.send(frame(OPEN, 3, END))
        assert near.flush() and near.unsent == 0
        assert near.send_now(frame(OPEN, 5, END))
        near.send_all([b"x", b"y"])
        assert near.flush() and near.unsent == 0
        assert ended(far).clean
