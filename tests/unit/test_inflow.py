"""A body that user code reads while it arrives: pieces in, bytes and credit out."""

from __future__ import annotations

import asyncio
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
