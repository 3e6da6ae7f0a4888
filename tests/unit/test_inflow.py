"""A body that user code reads while it arrives: pieces in, bytes and credit out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.replica.inflow import Broken, Inflow, Stream


def inflow(*pieces: bytes, end: bool = True, grant: Callable[[int], None] = lambda size: None) -> Inflow:
    made = Inflow(grant)
    for number, piece in enumerate(pieces, 1):
        made.feed(piece, end and number == len(pieces))
    return made


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1), st.lists(st.integers(1, 60)))
def test_reads_of_any_size_give_the_body_in_order(pieces: list[bytes], sizes: list[int]) -> None:
    stream = inflow(*pieces)
    taken = b"".join(stream.read(size) or b"" for size in sizes)

    assert taken + stream.readall() == b"".join(pieces)
    assert stream.read(1) == b""


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1))
def test_a_stream_reads_as_any_file_does(pieces: list[bytes]) -> None:
    assert Stream(inflow(*pieces)).readlines() == BytesIO(b"".join(pieces)).readlines()


def test_async_iteration_gives_the_pieces_as_they_came() -> None:
    async def read() -> list[bytes]:
        return [piece async for piece in Stream(inflow(b"one", b"two"))]

    assert asyncio.run(read()) == [b"one", b"two"]


def test_credit_is_granted_in_steps_for_what_was_taken() -> None:
    granted: list[int] = []
    stream = inflow(bytes(40_000), bytes(40_000), grant=granted.append)

    assert len(stream.read(40_000) or b"") == 40_000
    assert granted == []
    stream.readall()
    assert granted == [80_000]


def test_a_body_that_breaks_off_is_an_error_behind_its_last_byte() -> None:
    stream = inflow(b"first", end=False)
    stream.cut("it broke off")

    assert stream.read(100) == b"first"
    for _ in range(2):
        with pytest.raises(Broken, match="it broke off"):
            stream.read(1)


def test_a_whole_body_cannot_break_off() -> None:
    stream = inflow(b"first")
    stream.cut("the client is gone")

    assert (stream.readall(), stream.whole) == (b"first", True)


def test_a_reader_is_held_until_there_is_something() -> None:
    held: list[Inflow] = []

    def hold(stream: Inflow) -> None:
        held.append(stream)
        stream.feed(b"came", True)

    stream = Inflow(lambda size: None, hold)

    assert stream.readall() == b"came"
    assert held == [stream]


class Late(Inflow):
    """Something comes from another thread just after the reader has looked for the nth time."""

    def __init__(self, after: int) -> None:
        super().__init__(lambda size: None)
        self.looks_left = after

    @property
    def ready(self) -> bool:
        ready = super().ready
        self.looks_left -= 1
        if not self.looks_left:
            feeder = threading.Thread(target=self.feed, args=(b"late", True))
            feeder.start()
            feeder.join()
        return ready


def read_in_a_thread(late: Inflow) -> bytes:
    return late.readall()


def read_on_a_loop(late: Inflow) -> bytes:
    return asyncio.run(late.next_piece())


@pytest.mark.parametrize(
    ("read", "after"),
    [*((read_in_a_thread, after) for after in (1, 2)), *((read_on_a_loop, after) for after in (1, 2, 3))],
)
def test_what_comes_while_the_reader_goes_to_wait_is_not_missed(read: Callable[[Inflow], bytes], after: int) -> None:
    late = Late(after)

    assert read(late) == b"late"
    assert late.looks_left < 0, "it was looked for often enough"


@pytest.mark.parametrize("on_the_loop", [True, False])
def test_a_cut_ends_the_wait(on_the_loop: bool) -> None:
    stream = Inflow(lambda size: None)

    async def read() -> None:
        loop = asyncio.get_running_loop()
        if on_the_loop:
            loop.call_soon(stream.cut, "it broke off")
        else:
            loop.call_soon(threading.Thread(target=stream.cut, args=("it broke off",)).start)
        with pytest.raises(Broken, match="it broke off"):
            await stream.next_piece()

    asyncio.run(read())


def test_a_reader_that_was_cancelled_costs_no_piece() -> None:
    async def read() -> list[bytes]:
        stream = Inflow(lambda size: None)
        first = asyncio.ensure_future(stream.next_piece())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        stream.feed(b"one", False)
        pieces = [await stream.next_piece()]
        asyncio.get_running_loop().call_soon(stream.feed, b"two", True)
        return [*pieces, await stream.next_piece(), await stream.next_piece()]

    assert asyncio.run(read()) == [b"one", b"two", b""]
