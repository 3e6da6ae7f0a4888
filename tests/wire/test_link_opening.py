"""How links open: the handshake runs inside the link, and nothing else is read before it is done."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.wire.pairs import Pair, comes, ended, take, tcp_pair, unix_pair

from rayserve.wire.codec import END, GOAWAY, HEAD, HELLO, OPEN, WELCOME, Frame, Violation, frame
from rayserve.wire.handshake import HANDSHAKE_BYTES, ClientHandshake, Refused, ServerHandshake
from rayserve.wire.link import Link

SECRET = b"a secret of the instance, 32 B.."


@contextmanager
def shaking(pair: Pair, calls: ClientHandshake | None, answers: ServerHandshake | None) -> Iterator[tuple[Link, Link]]:
    near, far = Link(pair[0], handshake=calls), Link(pair[1], handshake=answers)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def test_calls_may_follow_hello_on_a_unix_socket() -> None:
    calls, answers = ClientHandshake("handle", "shop", "r#1"), ServerHandshake("shop", "r#1")
    with shaking(unix_pair(), calls, answers) as (near, far):
        assert calls.eager and not near.opened and not far.opened
        near.send(frame(OPEN, 1, END, b"small"))
        near.send(frame(OPEN, 3, END, b"large", bytes(100_000)))
        near.send_now(frame(OPEN, 5, END, b"last"))
        assert [head for *_, head, _ in take(far, 3)] == [b"small", b"large", b"last"]
        assert far.opened and answers.role == "handle"
        far.send_now(frame(HEAD, 1, END, b"answer", bytes(100_000)))
        assert [head for *_, head, _ in take(near)] == [b"answer"]
        assert near.opened


def test_a_tcp_link_opens_when_both_have_proved_who_they_are() -> None:
    calls, answers = ClientHandshake("ingress", "shop", "r#1", SECRET), ServerHandshake("shop", "r#1", SECRET)
    with shaking(tcp_pair(), calls, answers) as (near, far):
        near.flush()
        for link in (far, near, far):
            comes(link.sock)
            assert link.receive() == []
        assert far.opened and not near.opened and answers.role == "ingress"
        far.send_now(frame(GOAWAY, 0))  # right behind WELCOME
        assert [kind for kind, *_ in take(near)] == [GOAWAY]
        assert near.opened
        near.send_now(frame(OPEN, 1, END, b"", bytes(100_000)))
        assert len(take(far)[0][5]) == 100_000


def test_frames_that_follow_hello_over_tcp_close_the_link() -> None:
    calls, answers = ClientHandshake("ingress", "shop", "r#1", SECRET), ServerHandshake("shop", "r#1", SECRET)
    with shaking(tcp_pair(), calls, answers) as (near, far):
        near.send_now(frame(OPEN, 1, END))
        comes(far.sock)
        with pytest.raises(Violation, match=f"no handshake: kind {OPEN}"):
            far.receive()
        assert not far.opened


def test_a_stranger_gets_nothing_parsed() -> None:
    with shaking(tcp_pair(), None, ServerHandshake("shop", "r#1", SECRET)) as (near, far):
        near.send_now(frame(OPEN, 1, END, b"head", bytes(200_000)))
        comes(far.sock)
        with pytest.raises(Violation):
            far.receive()
        left = 0
        while left < 16 + 4 + 200_000 - HANDSHAKE_BYTES:  # all but 4 KiB is still in the kernel
            comes(far.sock)
            left += len(far.sock.recv(1 << 20))
        assert left == 16 + 4 + 200_000 - HANDSHAKE_BYTES


class Endless(ServerHandshake):
    def feed(self, received: Frame) -> None:
        return None


def test_no_handshake_reads_more_than_its_budget() -> None:
    with shaking(unix_pair(), None, Endless("shop", "r#1")) as (near, far):
        near.send_now(frame(HELLO, 0, 0, bytes(1008)) * 5)
        comes(far.sock)
        with pytest.raises(Violation, match="peer sent 4096 bytes and has not passed the handshake"):
            far.receive()


def test_a_stale_table_is_told_by_the_replica_it_meets() -> None:
    calls, answers = ClientHandshake("ingress", "shop", "r#1"), ServerHandshake("shop", "r#2")
    with shaking(unix_pair(), calls, answers) as (near, far):
        near.send_now(frame(OPEN, 1, END))
        comes(far.sock)
        with pytest.raises(Refused, match="replica does not match"):
            far.receive()
        far.close()
        assert ended(near).clean
        assert not near.opened


def test_a_handshake_arrives_in_any_pieces() -> None:
    hello = ClientHandshake("ingress", "shop", "r#1").start()
    with shaking(unix_pair(), None, ServerHandshake("shop", "r#1")) as (near, far):
        behind = frame(OPEN, 1, END, b"head", b"body")
        got: list[Frame] = []
        for byte in hello + behind:
            near.send_now(bytes([byte]))
            comes(far.sock)
            got += far.receive()
        assert got == [(OPEN, END, 1, 0, b"head", b"body")]
        assert take(near)[0][0] == WELCOME
        near.send_now(frame(OPEN, 3, END, b"", bytes(100_000)))
        comes(far.sock)
        assert len(far.receive()) == 1  # an open link reads all it can at once
