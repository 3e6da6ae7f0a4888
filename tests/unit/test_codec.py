"""The codec: every list of frames survives every way of cutting it; nothing else comes through or costs memory."""

import struct
import time
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.wire import codec
from rayserve.wire.codec import (
    DATA,
    END,
    HELLO,
    MAX_DATA,
    MAX_FRAME,
    MAX_HANDSHAKE,
    OPEN,
    PONG,
    WELCOME,
    Decoder,
    Frame,
    Violation,
    data_header,
    frame,
)

HEADER = struct.Struct("<IIBBHI")
SMALL = [kind for kind in range(1, PONG + 1) if kind != DATA]

words = st.integers(0, 2**32 - 1)
flags = st.integers(0, 255)
loads = st.integers(0, 2**16 - 1)
short = st.binary(max_size=300)
payloads = st.one_of(short, st.integers(0, MAX_DATA).map(lambda size: b"\xa5" * size))
small_frames = st.tuples(st.sampled_from(SMALL), flags, words, loads, short, short)
data_frames = st.tuples(st.just(DATA), flags, words, loads, st.just(b""), payloads)
frame_lists = st.lists(st.one_of(small_frames, data_frames), max_size=8)
cuts = st.lists(st.integers(1, 70_000), min_size=1, max_size=12)


def encoded(frames: Iterable[Frame]) -> bytes:
    return b"".join(
        frame(kind, stream, marks, head, bytes(body), load) for kind, marks, stream, load, head, body in frames
    )


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        yield data[position : position + size]
        position += size
        turn += 1


def decoded(pieces: Iterable[bytes]) -> list[Frame]:
    decoder = Decoder()
    return [found for piece in pieces for found in decoder.feed(piece)]


def joined(frames: Iterable[Frame]) -> list[Frame]:
    """Pieces of a byte stream put together again: DATA goes on while its stream is the same and END has not come."""
    result: list[Frame] = []
    for kind, marks, stream, load, head, body in frames:
        last = result[-1] if result else None
        if last and kind == DATA == last[0] and not last[1] & END and last[1:4] == (marks & ~END, stream, load):
            result[-1] = (DATA, marks, stream, load, b"", bytes(last[5]) + bytes(body))
        else:
            result.append((kind, marks, stream, load, head, bytes(body)))
    return result


@given(frame_lists, cuts)
def test_any_frames_survive_any_cut(frames: list[Frame], sizes: list[int]) -> None:
    assert joined(decoded(cut(encoded(frames), sizes))) == joined(frames)


@given(frame_lists)
def test_frames_survive_byte_by_byte(frames: list[Frame]) -> None:
    brief = [(*found[:5], bytes(found[5])[:40]) for found in frames]
    assert joined(decoded(cut(encoded(brief), [1]))) == joined(brief)


@given(st.binary(min_size=1, max_size=2000), cuts)
def test_end_stands_on_the_last_piece_only(payload: bytes, sizes: list[int]) -> None:
    pieces = decoded(cut(frame(DATA, 9, END | 128, b"", payload, 5), [min(size, 500) for size in sizes]))
    assert [piece[1] for piece in pieces] == [128] * (len(pieces) - 1) + [END | 128]
    assert {(piece[0], piece[2], piece[3], piece[4]) for piece in pieces} == {(DATA, 9, 5, b"")}
    assert b"".join(bytes(piece[5]) for piece in pieces) == payload


@given(st.binary(max_size=400), cuts)
def test_random_bytes_are_frames_or_a_violation(data: bytes, sizes: list[int]) -> None:
    verdicts = []
    for pieces in ([data], list(cut(data, sizes)), list(cut(data, [1]))):
        try:
            verdicts.append(joined(decoded(pieces)))
        except Violation:
            verdicts.append([])
    assert verdicts[0] == verdicts[1] == verdicts[2]  # the cut never changes the verdict


@given(frame_lists.filter(bool), st.data())
def test_a_flipped_byte_is_a_frame_or_a_violation(frames: list[Frame], data: st.DataObject) -> None:
    wire = bytearray(encoded([(*found[:5], bytes(found[5])[:200]) for found in frames]))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decoded([bytes(wire)])
    except Violation:
        return
    assert sum(16 + len(head) + len(body) for *_, head, body in found) <= len(wire)


@given(small_frames, st.data())
def test_a_truncated_frame_waits_for_its_rest(one: Frame, data: st.DataObject) -> None:
    wire = encoded([one])
    at = data.draw(st.integers(0, len(wire) - 1))
    decoder = Decoder()
    assert decoder.feed(wire[:at]) == []
    assert decoder.feed(wire[at:]) == [one]


def test_a_lying_length_costs_nothing() -> None:
    for kind in range(256):
        for length in (MAX_FRAME, MAX_FRAME + 1, 2**31, 2**32 - 1):
            decoder = Decoder()
            tracemalloc.start()
            try:
                assert decoder.feed(HEADER.pack(length, 1, kind, 0, 0, length)) == []
                accepted = True
            except Violation:
                accepted = False
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 8192
            assert accepted == (WELCOME < kind <= PONG and kind != DATA and length <= MAX_FRAME)


def limit_of(kind: int) -> int:
    return MAX_DATA if kind == DATA else MAX_HANDSHAKE if kind <= WELCOME else MAX_FRAME


@pytest.mark.parametrize("step", [1 << 20, 100_000, 1000])
@pytest.mark.parametrize("kind", range(1, PONG + 1))
def test_each_kind_has_its_limit_however_it_is_cut(kind: int, step: int) -> None:
    most = limit_of(kind)
    fits = HEADER.pack(most, 1, kind, END, 0, 0) + bytes(most)
    assert joined(decoded(cut(fits, [step]))) == [(kind, END, 1, 0, b"", bytes(most))]
    with pytest.raises(Violation, match=f"kind {kind}, length {most + 1}"):
        decoded(cut(HEADER.pack(most + 1, 1, kind, END, 0, 0) + bytes(most + 1), [step]))


@pytest.mark.parametrize("kind", [0, PONG + 1, 255])
def test_an_unknown_kind_is_a_violation(kind: int) -> None:
    with pytest.raises(Violation, match=f"impossible frame: kind {kind}"):
        Decoder().feed(HEADER.pack(0, 1, kind, 0, 0, 0))


@pytest.mark.parametrize(("kind", "length", "head"), [(OPEN, 5, 6), (OPEN, 0, 1), (DATA, 5, 1), (HELLO, 3, 4)])
def test_a_head_that_cannot_be_is_a_violation(kind: int, length: int, head: int) -> None:
    with pytest.raises(Violation, match=f"head {head}"):
        Decoder().feed(HEADER.pack(length, 1, kind, 0, 0, head) + bytes(length))


def test_the_layout_is_the_documented_one() -> None:
    wire = frame(codec.HEAD, 0x01020304, END | codec.CALL, b"head", b"body!", 0x0506)
    assert wire == bytes.fromhex("09000000 04030201 08 05 0605 04000000") + b"headbody!"
    assert data_header(7, END, 3, 2) + b"abc" == frame(DATA, 7, END, b"", b"abc", 2)


def test_a_frame_no_peer_would_take_is_refused_where_it_is_made() -> None:
    assert len(frame(OPEN, 1, 0, bytes(MAX_FRAME - 1), b"x")) == 16 + MAX_FRAME
    with pytest.raises(ValueError, match=f"at most {MAX_FRAME}, send it as DATA"):
        frame(OPEN, 1, 0, bytes(MAX_FRAME), b"x")


def test_short_data_is_copied_and_long_data_is_not() -> None:
    wire = frame(DATA, 1, 0, b"", b"x" * 50) + frame(DATA, 1, 0, b"", b"y" * 60_000)
    first, second = Decoder().feed(wire)
    assert isinstance(first[5], bytes)
    assert isinstance(second[5], memoryview) and second[5].obj is wire
    assert isinstance(Decoder().feed(frame(DATA, 1, 0, b"", b"x" * 50))[0][5], bytes)


def test_a_piece_kept_never_pins_many_times_its_size() -> None:
    wire = frame(DATA, 1, 0, b"", b"x" * 5000) + frame(OPEN, 3, 0, b"", bytes(200_000))
    assert isinstance(Decoder().feed(wire)[0][5], bytes)


def test_a_large_frame_in_small_pieces_is_joined_once() -> None:
    pieces = list(cut(frame(OPEN, 1, END, b"", bytes(MAX_FRAME)), [16]))
    decoder = Decoder()
    before = time.process_time()
    found = [one for piece in pieces for one in decoder.feed(piece)]
    assert time.process_time() - before < 0.5  # about 0.03; joined with each piece it takes seconds
    assert len(found) == 1 and len(found[0][5]) == MAX_FRAME


def test_a_long_stream_leaves_nothing_behind() -> None:
    decoder = Decoder()
    wire = frame(DATA, 1, 0, b"", bytes(MAX_DATA)) * 4 + frame(OPEN, 3, 0, b"h", bytes(1000))
    total = 0
    tracemalloc.start()
    for _ in range(100):
        for piece in cut(wire, [40_000]):
            total += sum(len(body) for *_, body in decoder.feed(piece))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 100 * (4 * MAX_DATA + 1000)
    assert peak < 1 << 20


@given(st.binary(max_size=200), frame_lists, cuts)
def test_the_handshake_takes_one_frame_and_leaves_the_rest(head: bytes, behind: list[Frame], sizes: list[int]) -> None:
    decoder = Decoder()
    wire = frame(HELLO, 0, 0, head) + encoded(behind)
    found: list[Frame] = []
    hello = None
    for piece in cut(wire, sizes):
        if hello is None:
            hello = decoder.feed_handshake(piece)
            found += decoder.feed(b"") if hello else []
        else:
            found += decoder.feed(piece)
    assert hello == (HELLO, 0, 0, 0, head, b"")
    assert joined(found) == joined(behind)


@given(st.binary(max_size=200), cuts)
def test_random_bytes_are_a_handshake_frame_or_a_violation(data: bytes, sizes: list[int]) -> None:
    decoder = Decoder()
    for piece in cut(data, sizes):
        try:
            found = decoder.feed_handshake(piece)
        except Violation:
            return
        assert found is None or HELLO <= found[0] <= WELCOME


def test_before_the_handshake_is_done_no_other_frame_is_taken() -> None:
    for kind in range(256):
        for length in (0, MAX_HANDSHAKE, MAX_HANDSHAKE + 1, 2**32 - 1):
            wire = HEADER.pack(length, 0, kind, 0, 0, 0)
            if HELLO <= kind <= WELCOME and length <= MAX_HANDSHAKE:
                found = Decoder().feed_handshake(wire)
                assert found == (None if length else (kind, 0, 0, 0, b"", b""))
                continue
            with pytest.raises(Violation, match=f"kind {kind}, length {length}"):
                Decoder().feed_handshake(wire)


def test_what_came_behind_the_handshake_is_judged_like_all_else() -> None:
    decoder = Decoder()
    assert decoder.feed_handshake(frame(HELLO, 0) + HEADER.pack(2**32 - 1, 1, OPEN, 0, 0, 0)) is not None
    with pytest.raises(Violation, match="length 4294967295"):
        decoder.feed(b"")
