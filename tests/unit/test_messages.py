"""WebSocket messages inside a stream: every cut of the bytes gives the same messages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve.wire.codec import Violation
from rayserve.wire.messages import (
    BINARY,
    CLOSE,
    TEXT,
    MessageDecoder,
    encode_close,
    encode_message,
    is_sendable,
    read_close,
    shortened,
)

MESSAGES = st.lists(st.tuples(st.sampled_from((TEXT, BINARY)), st.binary(max_size=300)), max_size=8)


def decode(decoder: MessageDecoder, parts: list[bytes]) -> list[tuple[int, bytes]]:
    """Whole messages, pieces joined; asserts that first and last frame each of them."""
    whole: list[tuple[int, bytes]] = []
    open_ = False
    for part in parts:
        for kind, payload, first, last in decoder.feed(part):
            assert first is not open_
            if first:
                whole.append((kind, payload))
            else:
                assert whole[-1][0] == kind
                whole[-1] = (kind, whole[-1][1] + payload)
            open_ = not last
    assert not open_
    return whole


@given(MESSAGES, st.lists(st.integers(0, 2500), max_size=12))
def test_messages_survive_any_cut(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode_message(kind, payload) for kind, payload in messages)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[start:stop] for start, stop in pairwise(edges)]

    assert decode(MessageDecoder(), parts) == messages


@settings(max_examples=15)
@given(st.integers(60_000, 200_000), st.integers(4_000, 70_000))
def test_a_long_message_comes_in_pieces_and_whole_in_sum(size: int, step: int) -> None:
    payload = bytes(range(256)) * (size // 256)
    data = encode_message(BINARY, payload) + encode_close(1000)
    parts = [data[start : start + step] for start in range(0, len(data), step)]

    (kind, received), (last, closing) = decode(MessageDecoder(), parts)

    assert (kind, last) == (BINARY, CLOSE)
    assert received == payload
    assert read_close(closing) == (1000, "")


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_violation(data: bytes) -> None:
    decoder = MessageDecoder(most=100)
    try:
        assert all(len(payload) <= 100 for _, payload, _, _ in decoder.feed(data))
    except Violation as violation:
        assert "impossible message" in str(violation)


@pytest.mark.parametrize("data", [b"\x00\x00\x00\x00\x00", b"\x04\x00\x00\x00\x00", b"\x01\x65\x00\x00\x00"])
def test_an_impossible_message_is_a_violation(data: bytes) -> None:
    with pytest.raises(Violation, match="impossible message"):
        MessageDecoder(most=100).feed(data)


@given(st.text(max_size=200), st.integers(0, 65535))
def test_a_close_keeps_its_code_and_what_fits_of_its_reason(reason: str, code: int) -> None:
    reason = reason.encode("utf-8", "replace").decode()
    ((_, payload, _, _),) = MessageDecoder().feed(encode_close(code, reason))

    assert read_close(payload) == (code, shortened(reason))
    assert reason.startswith(shortened(reason))
    assert len(shortened(reason).encode()) <= 123


def test_a_close_without_a_code_is_a_violation() -> None:
    with pytest.raises(Violation, match="CLOSE of 1 bytes"):
        read_close(b"\x00")


def test_codes_that_only_mean_an_absence_are_never_sent() -> None:
    codes = (999, 1000, 1004, 1005, 1006, 1011, 1015, 2999, 3000, 4999, 5000)
    assert [code for code in codes if is_sendable(code)] == [1000, 1011, 3000, 4999]
