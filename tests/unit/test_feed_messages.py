"""The feed's framing: whole messages out of any pieces, and no trust in lengths."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tables import encode_table

from rayserve.feed.messages import ACK, TABLE, Ack, Cutter, FeedViolation, message
from rayserve.model.table import Endpoint, RoutingTable

_MESSAGES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8)


@given(_MESSAGES, st.data())
def test_messages_survive_any_cutting(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(message(kind, payload) for kind, payload in sent)
    cutter, got, at = Cutter(300), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        got += cutter.feed(stream[at : at + step])
        at += step
    assert got == sent


@given(st.binary(max_size=2000))
def test_random_bytes_give_messages_or_a_violation(noise: bytes) -> None:
    cutter = Cutter(1000)
    try:
        got = cutter.feed(noise)
    except FeedViolation:
        return
    assert all(len(payload) <= 1000 for _, payload in got)


def test_a_lying_length_is_refused_before_anything_is_gathered() -> None:
    with pytest.raises(FeedViolation, match="at most 10 are allowed"):
        Cutter(10).feed(b"\xff\xff\xff\xff\x01")


def test_a_struct_travels_as_msgpack() -> None:
    ((kind, payload),) = Cutter(100).feed(message(ACK, Ack(3, 7)))
    assert kind == ACK
    assert msgspec.msgpack.decode(payload, type=Ack) == Ack(3, 7)


def test_a_table_is_sent_as_it_came() -> None:
    table = encode_table(RoutingTable("default", 2, 5, (Endpoint("a", "/a", ("GET",)),)))
    assert Cutter(1000).feed(message(TABLE, table)) == [(TABLE, table)]
