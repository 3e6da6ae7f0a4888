"""Bodies on their way out: whatever is pushed and granted, the bytes leave in order, in frames, under credit."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from rayserve.replica.outflow import Outflow
from rayserve.wire.codec import CREDIT, DATA, END, Decoder

STREAM = 7
PIECES = st.sampled_from([0, 1, 50, 4096, 4097, 70_000, 200_000])


class Sent:
    """Stands for the link; decodes what is sent."""

    def __init__(self) -> None:
        self.data = b""
        self.frames = self.ends = 0
        self._decoder = Decoder()

    def send(self, data: bytes) -> None:
        assert not self.ends, "nothing follows END"
        for kind, flags, stream, load, _, body in self._decoder.feed(data):
            assert (kind, stream, load) == (DATA, STREAM, 3)
            self.data += body
            self.frames += 1
            self.ends += flags & END

    def send_all(self, parts: list[bytes | memoryview]) -> None:
        self.send(b"".join(parts))


def outflow_to(sent: Sent) -> Outflow:
    return Outflow(cast("Any", sent), STREAM, lambda: 3, lambda: True)


@given(st.lists(st.one_of(PIECES, st.tuples(st.integers(1, 300_000))), max_size=12), st.booleans())
def test_bytes_leave_in_order_and_never_beyond_the_credit(steps: list[Any], views: bool) -> None:
    sent, pushed, credit = Sent(), b"", CREDIT
    outflow = outflow_to(sent)
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            credit += step[0]
            outflow.grant(step[0])
        else:
            piece = bytes((number,)) * step
            pushed += piece
            assert outflow.push([memoryview(piece) if views else piece]) is outflow.clear
        assert sent.data == pushed[:credit]
        assert outflow.clear is (len(pushed) <= credit)
    outflow.push([b"last"], end=True)
    outflow.grant(1 << 29)
    assert (sent.data, sent.ends, outflow.over) == (pushed + b"last", 1, True)


def test_small_bytes_are_one_frame_each() -> None:
    sent = Sent()
    outflow = outflow_to(sent)

    assert all(outflow.push([b"token"]) for _ in range(3))
    assert (sent.data, sent.frames) == (b"token" * 3, 3)
    outflow.drop()
    assert outflow.push([b"token"])
    assert sent.frames == 3


def test_small_bytes_wait_for_credit_too() -> None:
    sent = Sent()
    outflow = outflow_to(sent)

    assert outflow.push([bytes(CREDIT - 3)])
    assert not outflow.push([b"token"])
    assert sent.data[-4:] == b"\0tok"
    assert not outflow.push([b"s"])
    outflow.grant(3)
    assert sent.data[-6:] == b"tokens"
