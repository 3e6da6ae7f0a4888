"""A WebSocket's two directions: what goes past websockets' parser is judged exactly as what goes through it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.wire.websocket_apps import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from rayserve.ingress.dialogue import Dialogue
from rayserve.wire import messages
from rayserve.wire.messages import MessageDecoder, encode_close, encode_message

HALF_E = "é".encode()[:1]
PAYLOADS = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=6),
    st.sampled_from([b"", b"x" * 125, b"y" * 126, "é".encode() * 62, b"x" + HALF_E, b"\x03\xe8", b"\x0f\xa0bye"]),
)
PLAIN = st.builds(frame, st.sampled_from([TEXT, BINARY]), PAYLOADS)
MESSAGES = st.lists(st.tuples(st.sampled_from([messages.TEXT, messages.BINARY]), st.text(max_size=130)), max_size=6)


def long_form(payload: bytes) -> bytes:
    """A frame whose length takes more bytes than it had to."""
    return bytes((0x82, 0xFE)) + len(payload).to_bytes(2, "big") + bytes(4) + payload


SHORT = PAYLOADS.filter(lambda payload: len(payload) < 126)
RIGHT = st.builds(frame, st.sampled_from([TEXT, BINARY, CONTINUATION, PING]), SHORT, fin=st.booleans())
WRONG = st.one_of(
    st.builds(frame, st.sampled_from([TEXT, CLOSE, 3, 11]), PAYLOADS),
    st.builds(frame, st.just(TEXT), PAYLOADS, rsv=st.integers(0, 7), masked=st.booleans()),
    st.binary(max_size=8),
)
FRAMES = st.one_of(PLAIN, PLAIN, PLAIN, RIGHT, st.builds(long_form, PAYLOADS), WRONG)


class Careful(Dialogue):
    """Sends everything through websockets' parser."""

    def _take_small(self, data: bytes, whole: list[bytes]) -> int:
        return 0


class Counting(Dialogue):
    """Counts what goes through websockets' parser."""

    careful = 0

    def _take(self, data: bytes, whole: list[bytes]) -> None:
        self.careful += 1
        super()._take(data, whole)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(each % (len(data) + 1) for each in cuts)})
    return [data[start:stop] for start, stop in pairwise(edges)]


def seen(dialogue: Dialogue) -> tuple[Any, ...]:
    """All that can be asked of it; what is to be written is taken."""
    idle = dialogue.idle
    return dialogue.open, dialogue.end, dialogue.held, idle, dialogue.writes()


@settings(max_examples=500)
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 2000), max_size=8), st.integers(0, 12), st.data())
def test_small_messages_are_judged_as_all_others(
    frames: list[bytes], cuts: list[int], close_at: int, more: st.DataObject
) -> None:
    dialogue, careful = Dialogue(), Careful()
    if more.draw(st.booleans(), "cut between the frames"):
        reads = [read for read in frames if read]
    else:
        reads = cut(b"".join(frames), cuts)
    for number, read in enumerate(reads):
        if number == close_at:
            assert dialogue.close(1001, "bye") == careful.close(1001, "bye")
        assert dialogue.feed(read) == careful.feed(read)
        assert seen(dialogue) == seen(careful)
    dialogue.hang_up()
    careful.hang_up()
    assert seen(dialogue) == seen(careful)


def test_small_messages_go_past_the_parser_between_frames_only() -> None:
    dialogue = Counting()
    hello, small = frame(TEXT, b"hello"), encode_message(messages.TEXT, b"hello")

    assert dialogue.feed(hello * 3) == small * 3
    assert dialogue.feed(frame(BINARY, b"")) == encode_message(messages.BINARY, b"")
    assert dialogue.careful == 0
    assert dialogue.feed(hello + hello[:2]) == small  # of the second one the parser has eaten all there is
    assert (dialogue.careful, dialogue.held) == (1, 0)
    assert dialogue.feed(hello[2:] + hello) == small * 2
    assert dialogue.feed(frame(PING, b"")) == b""
    assert dialogue.feed(frame(TEXT, b"", fin=False)) == b""
    assert dialogue.feed(frame(CONTINUATION, b"hello")) == small
    assert dialogue.careful == 5
    assert dialogue.feed(hello) == small
    assert dialogue.careful == 5


@pytest.mark.parametrize("before", [b"", frame(PING, b""), frame(TEXT, b"x")], ids=["", "ping", "text"])
def test_a_payload_that_looks_like_a_message_is_a_payload(before: bytes) -> None:
    dialogue, inner = Dialogue(), frame(TEXT, b"hello")
    dialogue.feed(before + bytes((0x82, 0x80 | len(inner), 0, 0, 0, 0)))

    assert dialogue.feed(inner) == encode_message(messages.BINARY, inner)
    assert dialogue.feed(inner) == encode_message(messages.TEXT, b"hello")


@pytest.mark.parametrize("bad", [frame(TEXT, b"x"), frame(BINARY, b"x")], ids=["text", "binary"])
def test_no_message_may_begin_within_another_whose_first_fragment_is_empty(bad: bytes) -> None:
    dialogue = Dialogue()
    assert dialogue.feed(frame(TEXT, b"", fin=False)) == b""

    assert dialogue.feed(bad) == b""
    assert dialogue.end == (1002, "")


@given(MESSAGES, st.lists(st.integers(0, 900), max_size=6), st.integers(0, 4))
def test_what_the_app_says_reaches_the_client_in_order(
    said: list[tuple[int, str]], cuts: list[int], ping_at: int
) -> None:
    dialogue, client = Dialogue(), Protocol(Side.CLIENT)
    data = b"".join(encode_message(kind, text.encode()) for kind, text in said) + encode_close(4000, "bye")
    pings = 0
    for number, piece in enumerate(cut(data, cuts)):
        dialogue.say(piece)
        if number == ping_at and dialogue.open:
            dialogue.ping()
            pings += 1
    out, last = dialogue.writes()
    client.receive_data(out)

    assert not last, "the client has not closed yet"
    received = [event for event in client.events_received() if isinstance(event, Frame)]
    assert sum(event.opcode is Opcode.PING for event in received) == pings
    opcodes = {messages.TEXT: Opcode.TEXT, messages.BINARY: Opcode.BINARY}
    assert [(event.opcode, bytes(event.data)) for event in received if event.opcode is not Opcode.PING] == [
        *((opcodes[kind], text.encode()) for kind, text in said),
        (Opcode.CLOSE, b"\x0f\xa0bye"),
    ]


def test_a_long_message_and_a_small_one_behind_it_leave_in_order() -> None:
    dialogue, client = Dialogue(), Protocol(Side.CLIENT)
    data = encode_message(messages.BINARY, bytes(100_000)) + encode_message(messages.TEXT, b"small")
    for start in range(0, len(data), 50_000):
        dialogue.say(data[start : start + 50_000])
    client.receive_data(dialogue.writes()[0])

    sizes = [(event.opcode, len(event.data)) for event in client.events_received() if isinstance(event, Frame)]
    assert sizes[0][0] is Opcode.BINARY
    assert {opcode for opcode, _ in sizes[1:-1]} == {Opcode.CONT}
    assert sum(size for _, size in sizes[:-1]) == 100_000
    assert sizes[-1] == (Opcode.TEXT, 5)
    assert MessageDecoder().feed(data)[-1] == (messages.TEXT, b"small", True, True)
