"""Links: frames stay whole whatever the socket does, and memory stays flat."""

import select
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from tests.wire.pairs import WAIT_S, Pair, both, comes, linked, take, unix_pair

from rayserve.wire.codec import DATA, END, HEAD, MAX_DATA, OPEN, PING, Frame, Violation, data_header, frame
from rayserve.wire.link import Link


@both
def test_frames_cross_in_both_directions(pair: Callable[[], Pair]) -> None:
    with linked(pair()) as (near, far):
        near.send(frame(OPEN, 1, END, b"head", b"body"))
        near.send(frame(PING, 0))
        assert near.unsent == 40
        assert near.flush() and near.unsent == 0
        assert take(far, 2) == [(OPEN, END, 1, 0, b"head", b"body"), (PING, 0, 0, 0, b"", b"")]
        assert far.send_now(frame(HEAD, 1, END, b"h", b"b", 7))
        assert take(near) == [(HEAD, END, 1, 7, b"h", b"b")]
        assert near.receive() == [] == far.receive()


def test_flushing_nothing_is_nothing() -> None:
    with linked(unix_pair()) as (near, far):
        assert near.flush()
        near.send(b"")
        assert near.flush() and near.unsent == 0
        assert far.receive() == []


@both
def test_partial_writes_lose_nothing(pair: Callable[[], Pair]) -> None:
    body = bytes(range(256)) * 1024
    asked: list[bool] = []
    with linked(pair(), sndbuf=4096) as (near, far):
        near.on_unsent = lambda: asked.append(True)
        for stream in range(1, 9):
            near.send(frame(OPEN, stream, END, b"h" * stream, body))
        assert not near.flush()
        assert asked and near.unsent > 0
        got: list[Frame] = []
        while len(got) < 8:
            readable, writable, _ = select.select([far.sock], [near.sock] if near.unsent else [], [], WAIT_S)
            assert readable or writable
            got += far.receive()
            near.flush()
        assert near.flush() and near.unsent == 0
        assert got == [(OPEN, END, stream, 0, b"h" * stream, body) for stream in range(1, 9)]


def test_a_full_link_never_calls_back_under_its_lock() -> None:
    with linked(unix_pair(), sndbuf=4096) as (near, _):
        near.on_unsent = lambda: near.send(frame(PING, 0))  # would wait for itself
        assert not near.send_now(frame(OPEN, 1, 0, b"", bytes(200_000)))


def test_many_buffers_leave_in_one_flush() -> None:
    with linked(unix_pair()) as (near, far):
        parts = [bytes([number % 256]) * 200 for number in range(300)]
        near.send_all([data_header(5, END, 60_000), *parts, b"", memoryview(b"")])
        assert near.flush() and near.unsent == 0
        assert b"".join(bytes(piece[5]) for piece in take(far)) == b"".join(parts)


def test_empty_buffers_do_not_stop_a_link() -> None:
    with linked(unix_pair()) as (near, far):
        near.send_all([*[b""] * 200, data_header(5, END, 60_000), bytes(60_000)])
        assert near.flush()
        assert take(far)[0][5] == bytes(60_000)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@both
@pytest.mark.usefixtures("hasty")
def test_writers_on_two_threads_keep_frames_whole(pair: Callable[[], Pair]) -> None:
    rounds = 300
    start = threading.Barrier(2)

    def write(link: Link, stream: int) -> None:
        letter = bytes([stream])
        start.wait(WAIT_S)
        for turn in range(rounds):
            size = 1 + turn * 37 % 3000
            link.send_all([data_header(stream, END, size), letter * (size // 2), letter * (size - size // 2)])
            if turn % 3:
                link.flush()
            link.send_now(frame(HEAD, stream, END, turn.to_bytes(2, "big"), letter * (turn % 50)))

    with linked(pair(), sndbuf=16_384) as (near, far):
        threads = [threading.Thread(target=write, args=(near, stream)) for stream in (1, 2)]
        for thread in threads:
            thread.start()
        got: list[Frame] = []
        give_up = time.monotonic() + WAIT_S
        while sum(kind == HEAD for kind, *_ in got) < 2 * rounds:
            assert time.monotonic() < give_up
            near.flush()
            if select.select([far.sock], [], [], 0.01)[0]:
                got += far.receive()
        for thread in threads:
            thread.join(WAIT_S)
    for stream in (1, 2):
        heads = [int.from_bytes(head, "big") for kind, _, of, _, head, _ in got if kind == HEAD and of == stream]
        assert heads == list(range(rounds))
        sizes = [0]
        for kind, flags, of, _, _, body in got:
            if of != stream:
                continue
            assert set(bytes(body)) <= {stream}
            if kind == DATA:
                sizes[-1] += len(body)
                if flags & END:
                    sizes.append(0)
        assert sizes[:-1] == [1 + turn * 37 % 3000 for turn in range(rounds)]


def test_garbage_is_a_violation() -> None:
    with linked(unix_pair()) as (near, far):
        near.sock.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(Violation):
            take(far)


def test_a_big_stream_does_not_grow_the_process() -> None:
    block = bytes(MAX_DATA)
    with linked(unix_pair()) as (near, far):
        total = 0
        tracemalloc.start()
        for turn in range(512):
            near.send_all([data_header(1, END if turn == 511 else 0, len(block)), block])
            while not near.flush():
                total += sum(len(body) for *_, body in far.receive())
        while total < 512 * MAX_DATA:
            comes(far.sock)
            total += sum(len(body) for *_, body in far.receive())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total == 512 * MAX_DATA
        assert peak < 2 << 20
