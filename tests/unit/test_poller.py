"""Both pollers keep the same promises; which one runs is the system's choice."""

import select
import socket
from collections.abc import Iterator

import pytest

from rayserve.replica.poller import READ, WRITE, EpollPoller, Poller, SelectorPoller, new_poller

KINDS = [SelectorPoller] + ([EpollPoller] if hasattr(select, "epoll") else [])

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=KINDS)
def poller(request: pytest.FixtureRequest) -> Iterator[Poller]:
    made: Poller = request.param()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_nothing_is_heard_until_something_can_be_read(poller: Poller, pair: Pair) -> None:
    heard: list[int] = []
    poller.watch(pair[0].fileno(), heard.append)
    poller.wait(0)
    assert heard == []
    pair[1].send(b"x")
    poller.wait(None)
    assert heard == [READ]


def test_writability_is_heard_only_while_it_is_asked_for(poller: Poller, pair: Pair) -> None:
    heard: list[int] = []
    poller.watch(pair[0].fileno(), heard.append)
    poller.change(pair[0].fileno(), READ | WRITE)
    poller.wait(None)
    pair[1].send(b"x")
    poller.wait(None)
    poller.change(pair[0].fileno(), READ)
    poller.wait(None)
    assert heard == [WRITE, READ | WRITE, READ]


def test_a_peer_that_left_is_heard_by_whoever_reads(poller: Poller, pair: Pair) -> None:
    heard: list[int] = []
    poller.watch(pair[0].fileno(), heard.append)
    pair[1].close()
    poller.wait(None)
    assert len(heard) == 1
    assert heard[0] & READ


def test_what_was_forgotten_meanwhile_is_not_heard(poller: Poller, pair: Pair) -> None:
    ends = [end.fileno() for end in pair]
    heard: list[int] = []

    def forget_the_other(fd: int) -> None:
        heard.append(fd)
        poller.forget(ends[1 - ends.index(fd)])

    for fd in ends:
        poller.watch(fd, lambda _events, fd=fd: forget_the_other(fd))  # type: ignore[misc]
    pair[0].send(b"x")
    pair[1].send(b"x")
    poller.wait(None)
    assert len(heard) == 1


def test_a_forgotten_descriptor_cannot_be_changed(poller: Poller, pair: Pair) -> None:
    poller.watch(pair[0].fileno(), lambda _events: None)
    poller.forget(pair[0].fileno())
    poller.forget(pair[0].fileno())
    for fd in (pair[0].fileno(), -1):
        with pytest.raises(OSError, match="not watched"):
            poller.change(fd, READ | WRITE)


def test_its_own_descriptor_tells_that_waiting_would_not_wait(poller: Poller, pair: Pair) -> None:
    poller.watch(pair[0].fileno(), lambda _events: None)
    assert select.select([poller], [], [], 0)[0] == []
    pair[1].send(b"x")
    assert select.select([poller], [], [], 0)[0] == [poller]


def test_linux_gets_epoll() -> None:
    made = new_poller()
    assert isinstance(made, EpollPoller if hasattr(select, "epoll") else SelectorPoller)
    made.close()
