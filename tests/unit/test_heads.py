"""Heads: what goes in comes out, the field order stays, and garbage ends in an error that callers catch."""

import tracemalloc
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.wire import heads
from rayserve.wire.heads import Answer, Failure, Invoke, Open, Value

# msgspec tells malformed msgpack, but text that is not UTF-8 and nesting without end come as these two.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

DECODERS: list[Callable[[bytes], object]] = [
    heads.decode_open,
    heads.decode_invoke,
    heads.decode_answer,
    heads.decode_value,
    heads.decode_failure,
]
EXAMPLES: list[tuple[Callable[[bytes], object], object]] = [
    (heads.decode_open, Open("e", "r", 5, headers=[("host", "h"), ("x", "1"), ("x", "2")], params={"id": "7"})),
    (heads.decode_invoke, Invoke("e", "r", 5, "method", depth=2, sizes=[10, 2**40])),
    (heads.decode_answer, Answer(200, b"content-type: text/plain\r\n", 3)),
    (heads.decode_value, Value([1, 2, 3], stream=True)),
    (heads.decode_failure, Failure("user_exception", "it broke", 503, b"retry-after: 1\r\n", "Traceback", b"{}")),
]

OPEN = heads.encode(Open("e", "r", 1))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
naturals = st.integers(0, 2**63 - 1)
opens = st.builds(
    Open, texts, texts, naturals, headers=st.lists(st.tuples(texts, texts), max_size=6),
    query=st.binary(max_size=30), params=st.dictionaries(texts, texts, max_size=4), body_size=st.integers(-1, 2**40),
)  # fmt: skip


@given(opens)
def test_any_open_comes_through(asked: Open) -> None:
    assert heads.decode_open(heads.encode(asked)) == asked


@pytest.mark.parametrize(("decode", "head"), EXAMPLES)
def test_every_head_comes_through(decode: Callable[[bytes], object], head: object) -> None:
    assert decode(heads.encode(head)) == head


def test_case_16_repeated_headers_survive_in_order() -> None:
    headers = [("cookie", "a=1"), ("x", "ÿ"), ("cookie", "b=2"), ("x", "")]
    assert heads.decode_open(heads.encode(Open("e", "r", 1, headers=headers))).headers == headers


@pytest.mark.parametrize(
    ("head", "order"),
    [
        (
            Open,
            "endpoint request_id time_left_ms call_method listed depth traceparent method target query headers client "
            "scheme http_version params root body_size",
        ),
        (Invoke, "endpoint request_id time_left_ms call_method listed depth traceparent sizes"),
        (Answer, "status headers body_size"),
        (Value, "sizes stream"),
        (Failure, "reason detail status headers traceback body"),
    ],
)
def test_new_fields_go_to_the_end(head: type[msgspec.Struct], order: str) -> None:
    assert " ".join(head.__struct_fields__).startswith(order)


def test_an_older_and_a_newer_peer_are_understood() -> None:
    assert heads.decode_answer(msgspec.msgpack.encode([204])) == Answer(204)
    assert heads.decode_answer(msgspec.msgpack.encode([204, b"", 0, "a field of tomorrow"])) == Answer(204, b"", 0)


def test_defaults_are_not_shared() -> None:
    first = Open("e", "r", 1)
    first.headers.append(("a", "b"))
    first.params["a"] = "b"
    assert Open("e", "r", 1).headers == [] and Open("e", "r", 1).params == {}
    assert heads.decode_open(msgspec.msgpack.encode(["e", "r", 1])).headers == []


@given(st.binary(max_size=300), st.sampled_from(DECODERS))
def test_garbage_is_a_head_or_unreadable(data: bytes, decode: Callable[[bytes], object]) -> None:
    try:
        decode(data)
    except UNREADABLE:
        return


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_head_is_a_head_or_unreadable(
    example: tuple[Callable[[bytes], object], object], data: st.DataObject
) -> None:
    decode, head = example
    wire = bytearray(heads.encode(head))
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(wire)))
    try:
        decode(bytes(wire[:end]))
    except UNREADABLE:
        return


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\x90",
        b"\x91\xc0",
        b"\x91\xa2\xff\xfe",
        b"\xc1",
        b"\x94\x01\x01\x01" + b"\x91" * 100_000,
    ],
    ids=["empty", "nil", "map", "no fields", "nil field", "not utf-8", "reserved", "too deep"],
)
def test_what_is_no_head_is_unreadable(decode: Callable[[bytes], object], data: bytes) -> None:
    if decode is heads.decode_value and data == b"\x90":
        assert decode(data) == Value()  # all its fields have defaults
        return
    with pytest.raises(UNREADABLE):
        decode(data)


@pytest.mark.parametrize("size", [2**16, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize(
    ("decode", "front"),
    [
        (heads.decode_value, b"\x91\xdd"),  # an array of that many sizes
        (heads.decode_open, OPEN.split(b"\x90")[0] + b"\xdd"),  # … headers
        (heads.decode_open, OPEN.split(b"\x80")[0] + b"\xdf"),  # … params
        (heads.decode_answer, b"\x92\xcc\xc8\xc6"),  # … bytes
        (heads.decode_failure, b"\x91\xdb"),  # … letters
        (heads.decode_failure, b"\xdd"),  # … fields
    ],
)
def test_a_lying_length_costs_nothing(decode: Callable[[bytes], object], front: bytes, size: int) -> None:
    tracemalloc.start()
    with pytest.raises(UNREADABLE, match="truncated"):
        decode(front + size.to_bytes(4, "big"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024
