"""Request bodies: pieces out as they went in however they are cut up, and every refusal of broken framing."""

import time
import tracemalloc
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.raw_heads import parsed

from rayserve.ingress.body import Chunked, Length, Piece, body_of
from rayserve.ingress.head import Limits, Refusal

LIMITS = Limits()


def decoded(*parts: bytes, max_bytes: int = 1 << 20, limits: Limits = LIMITS) -> tuple[bytes, bytes, bool]:
    """Feed a fresh decoder part by part; return body, bytes behind it in the part that ended it, and done."""
    decoder = Chunked(max_bytes, limits)
    pieces: list[Piece] = []
    rest = b""
    for part in parts:
        more, end = decoder.feed(part)  # takes nothing once it is done
        assert all(len(piece) for piece in more)
        pieces += more
        rest += part[end:]
        assert not rest or decoder.done
    return b"".join(pieces), rest, decoder.done


def one_by_one(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


# Bytes -> body. RFC 9112 section 7.1.
GOOD = {
    b"0\r\n\r\n": b"",
    b"000\r\n\r\n": b"",
    b"3\r\nabc\r\n0\r\n\r\n": b"abc",
    b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n": b"abcde",
    b"0000000000000003\r\nabc\r\n0\r\n\r\n": b"abc",
    b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n": b"0123456789" * 2,
    b"2\r\n\r\n\r\n0\r\n\r\n": b"\r\n",
    # section 7.1.1: extensions are ignored
    b"3;a\r\nabc\r\n0;b=c\r\n\r\n": b"abc",
    b'3;a="b;\\"\r c";d=e\r\nabc\r\n0\r\n\r\n'.replace(b"\r c", b"\t c"): b"abc",
    b'3; a = "b" ;\tc\r\nabc\r\n0\r\n\r\n': b"abc",
    # section 7.1.2: trailers are dropped, framing fields among them (RFC 9110 section 6.5.1)
    b"3\r\nabc\r\n0\r\nX: y\r\nZ:\r\n\r\n": b"abc",
    b"3\r\nabc\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\nHost: b\r\n\r\n": b"abc",
}


@pytest.mark.parametrize("data", GOOD, ids=lambda data: ascii(data[:40])[2:-1])
def test_case_16_chunked_bodies_work(data: bytes) -> None:
    assert decoded(data + b"GET /") == (GOOD[data], b"GET /", True)
    assert decoded(*one_by_one(data), b"GET /") == (GOOD[data], b"GET /", True)
    for cut in range(len(data)):
        assert decoded(data[:cut], data[cut:]) == (GOOD[data], b"", True)


# Bytes -> status and words of the detail.
BAD = {
    b"3\nabc\r\n0\r\n\r\n": (400, "chunk size line"),  # RFC 9112 section 2.2: bare LF
    b"3\r\nabc\n0\r\n\r\n": (400, "not followed by CRLF"),
    b"3\rabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3\r\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3\r\nabc\r\n0\n\n": (400, "chunk size line"),
    b"3\r\nabc\r\n0\r\nX: y\n\r\n": (400, "trailer line"),
    b"3\r\nabc\r\n0\r\nX: y\n\n": (400, "trailer line ends in a bare LF"),
    # section 7.1: chunk-size = 1*HEXDIG
    b"\r\nabc": (400, "chunk size line"),
    b"+3\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"-3\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b" 3\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3 \r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3 ;a\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"0x3\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3_0\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3.\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"g\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"\xb3\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"00000000000000003\r\nabc\r\n0\r\n\r\n": (400, "at most 16 digits"),
    # the size and the data disagree
    b"2\r\nabc\r\n0\r\n\r\n": (400, "not followed by CRLF"),
    b"4\r\nabc\r\n0\r\n\r\n": (400, "not followed by CRLF"),
    b"3\r\nabc0\r\n\r\n": (400, "not followed by CRLF"),
    b"3\r\nabc\r\r\n0\r\n\r\n": (400, "not followed by CRLF"),
    # section 7.1.1
    b"3;\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3;a=\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b'3;a="b\r\nabc\r\n0\r\n\r\n': (400, "chunk size line"),
    b"3;a b\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3;a \r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3;a\x00\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3;a\rb\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    b"3;a\nb\r\nabc\r\n0\r\n\r\n": (400, "chunk size line"),
    # section 7.1.2
    b"0\r\nX\r\n\r\n": (400, "trailer line 'X'"),
    b"0\r\nX : y\r\n\r\n": (400, "trailer line"),
    b"0\r\n X: y\r\n\r\n": (400, "trailer line"),
    b"0\r\n: y\r\n\r\n": (400, "trailer line"),
    b"0\r\nX: \x00\r\n\r\n": (400, "trailer line"),
    b"0\r\n\n": (400, "bare LF"),
    # RFC 9110 section 15.5.14
    b"100001\r\n": (413, "larger than 1048576 bytes"),
    b"ffffffffffffffff\r\n": (413, "larger than 1048576 bytes"),
    b"FFFFF\r\n" + b"a" * 0xFFFFF + b"\r\n2\r\n": (413, "larger than 1048576 bytes"),
}


@pytest.mark.parametrize("data", BAD, ids=lambda data: ascii(data[:40])[2:-1])
def test_chunked_refusals(data: bytes) -> None:
    status, words = BAD[data]
    ways = [[data], one_by_one(data)] if len(data) < 100 else [[data]]
    for way in ways:
        with pytest.raises(Refusal) as caught:
            decoded(*way)
        assert caught.value.status == status, caught.value.detail
        assert words in caught.value.detail
        assert caught.value.reason == ("bad_request" if status == 400 else "too_large")
        assert caught.value.detail.isascii()
        assert caught.value.detail.isprintable()


@pytest.mark.parametrize(
    "begun", [b"3\n", b"x", b"3\r\nabc\n", b"3\r\nabcd", b"3;a\n", b"0\r\nX\n", b"11111111111111111"]
)
def test_what_cannot_become_right_is_refused_before_its_line_ends(begun: bytes) -> None:
    """Else a client with broken framing would wait for an answer until the body times out."""
    with pytest.raises(Refusal) as caught:
        decoded(begun)
    assert caught.value.status == 400


def test_largest_body_at_its_limit() -> None:
    assert decoded(b"5\r\nabcde\r\n0\r\n\r\n", max_bytes=5) == (b"abcde", b"", True)
    for over in (b"6\r\n", b"5\r\nabcde\r\n1\r\n", b"4\r\nabcd\r\n2\r\n"):
        with pytest.raises(Refusal) as caught:
            decoded(over, max_bytes=5)
        assert (caught.value.status, caught.value.reason) == (413, "too_large")


@pytest.mark.parametrize("feeds", ["whole", "one by one"])
def test_chunk_extensions_are_bounded_in_all(feeds: str) -> None:
    extension = b";" + b"x" * 511  # 512 bytes
    good = (b"1" + extension + b"\r\na\r\n") * 2 + b"0\r\n\r\n"
    assert decoded(*(one_by_one(good) if feeds == "one by one" else [good]))[0] == b"aa"
    for bad in (
        (b"1" + extension + b"\r\na\r\n") * 2 + b"0;x\r\n\r\n",
        b"1;" + b"x" * 1024 + b"\r\na\r\n0\r\n\r\n",
        b"1;" + b"x" * 1_100,  # before its end is there
        b"1;a\r\na\r\n" * 600,
    ):
        with pytest.raises(Refusal) as caught:
            decoded(*(one_by_one(bad) if feeds == "one by one" else [bad]))
        assert caught.value.status == 400
        assert "longer than 1024 bytes in all" in caught.value.detail


@pytest.mark.parametrize("feeds", ["whole", "one by one"])
def test_trailers_are_bounded(feeds: str) -> None:
    limits = Limits(max_headers=3, max_trailer_bytes=40)

    def trailers(data: bytes) -> tuple[bytes, bytes, bool]:
        data = b"0\r\n" + data
        return decoded(*(one_by_one(data) if feeds == "one by one" else [data]), limits=limits)

    assert trailers(b"X: y\r\n" * 3 + b"\r\n") == (b"", b"", True)
    assert trailers(b"X: " + b"y" * 35 + b"\r\n\r\n") == (b"", b"", True)
    for bad in (b"X: y\r\n" * 4, b"X: " + b"y" * 36 + b"\r\n", b"X" * 60, b"X: yyyyyyyyyyyyyyyy\r\n" * 2):
        with pytest.raises(Refusal) as caught:
            trailers(bad)
        assert (caught.value.status, caught.value.reason) == (431, "too_large")


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body and its encoding."""
    chunks = draw(st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.just(b"z" * 20_000)), max_size=6))
    extensions = st.sampled_from([b"", b"", b";a", b';a="b c"', b"; a=b"])
    sizes = st.sampled_from([b"%x", b"%X", b"%04x"])
    encoded = [(draw(sizes) % len(chunk)) + draw(extensions) + b"\r\n" + chunk + b"\r\n" for chunk in chunks]
    trailers = draw(st.sampled_from([b"", b"X: y\r\n", b"Content-Length: 5\r\nX:\r\n"]))
    return b"".join(chunks), b"".join(encoded) + b"0" + draw(extensions) + b"\r\n" + trailers + b"\r\n"


@given(chunked_bodies(), st.lists(st.integers(0, 100_000)), st.sampled_from([b"", b"G", b"GET / HTTP/1.1\r\n\r\n"]))
def test_split_delivery_equals_whole_delivery(pair: tuple[bytes, bytes], cuts: list[int], behind: bytes) -> None:
    body, encoded = pair
    assert decoded(encoded + behind) == (body, behind, True)
    places = sorted({0, len(encoded), *(cut % (len(encoded) + 1) for cut in cuts)})
    parts = [encoded[start:end] for start, end in pairwise(places)]
    assert decoded(*parts, behind) == (body, behind, True)


@given(chunked_bodies(), st.integers(0, 30))
def test_a_body_is_found_behind_its_head(pair: tuple[bytes, bytes], start: int) -> None:
    body, encoded = pair
    decoder = Chunked(1 << 20, LIMITS)
    pieces, end = decoder.feed(b"h" * start + encoded + b"rest", start)
    assert (b"".join(pieces), end, decoder.done) == (body, start + len(encoded), True)


@settings(max_examples=500)
@given(
    st.one_of(st.binary(max_size=80), st.text('012abf;=" \t\r\n:X', max_size=40).map(str.encode)),
    st.lists(st.integers(0, 80), max_size=3),
)
def test_any_bytes_are_body_or_refused_wherever_they_are_cut(data: bytes, cuts: list[int]) -> None:
    def outcome(*parts: bytes) -> object:
        try:
            return decoded(*parts)
        except Refusal as refusal:
            return refusal.status

    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    assert outcome(data) == outcome(*[data[a:b] for a, b in pairwise(places)])


@given(chunked_bodies())
def test_h11_reads_the_same_body(pair: tuple[bytes, bytes]) -> None:
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + pair[1])
    assert isinstance(peer.next_event(), h11.Request)
    body = b""
    while isinstance(event := peer.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert decoded(pair[1])[0] == body


def test_a_flood_of_tiny_chunks_costs_a_constant_per_chunk() -> None:
    """A million one-byte chunks once ended a server (CVE-2025-23310); here 100,000 take about 0.06 s and no memory."""
    count = 100_000
    part = b"1\r\nx\r\n" * 10_000
    decoder = Chunked(1 << 30, LIMITS)
    tracemalloc.start()
    try:
        began = time.process_time()
        for _ in range(count // 10_000):
            pieces, end = decoder.feed(part)
            assert end == len(part)
            assert len(pieces) == 1  # joined: 10,000 objects would weigh far more than their bytes
        spent = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spent < 3.0
    assert peak < 2_000_000


def test_one_byte_deliveries_are_not_quadratic() -> None:
    data = one_by_one(
        b"1;" + b"x" * 1000 + b"\r\na\r\n" + b"1\r\nx\r\n" * 5000 + b"0\r\nX: " + b"y" * 8000 + b"\r\n\r\n"
    )
    began = time.process_time()
    assert decoded(*data)[2]
    assert time.process_time() - began < 2.0


# -- length -------------------------------------------------------------------------------------------


def test_length_takes_its_bytes_and_no_more() -> None:  # RFC 9112 section 6.2
    body = Length(5)
    assert not body.done
    data = b"abcdeGET /"
    assert body.feed(data) == ([b"abcde"], 5)
    assert body.done
    assert body.feed(data, 5) == ([], 5)


def test_length_zero_is_done() -> None:
    assert Length(0).done
    assert Length(0).feed(b"GET /") == ([], 0)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)), st.binary(max_size=5), st.integers(0, 9))
def test_length_in_parts(data: bytes, cuts: list[int], behind: bytes, start: int) -> None:
    body = Length(len(data))
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    taken = b""
    for first, last in pairwise(places):
        part = b"h" * start + data[first:last] + (behind if last == len(data) else b"")
        pieces, end = body.feed(part, start)
        assert end == start + last - first
        assert body.left == len(data) - last
        taken += b"".join(pieces)
    assert (taken, body.done) == (data, True)


def test_large_pieces_are_not_copied() -> None:
    data = bytes(100_000)
    whole, _ = Length(100_000).feed(data)
    assert whole[0] is data
    (part,), _ = Length(200_000).feed(data, 10)
    assert isinstance(part, memoryview)
    assert part.obj is data
    encoded = b"%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n"
    (chunk,), _ = Chunked(1 << 20, LIMITS).feed(encoded)
    assert isinstance(chunk, memoryview)
    assert chunk.obj is encoded


def test_length_reads_views() -> None:
    pieces, end = Length(3).feed(memoryview(b"abcde"), 1)
    assert (b"".join(pieces), end) == (b"bcd", 4)


# -- which decoder ------------------------------------------------------------------------------------


def test_body_of_a_head() -> None:  # RFC 9112 section 6.3
    assert body_of(parsed(), 5, LIMITS).done
    assert isinstance(body_of(parsed(b"Transfer-Encoding: chunked"), 5, LIMITS), Chunked)
    five = body_of(parsed(b"Content-Length: 5"), 5, LIMITS)
    assert isinstance(five, Length)
    assert five.left == 5
    with pytest.raises(Refusal) as caught:
        body_of(parsed(b"Content-Length: 6"), 5, LIMITS)
    assert (caught.value.status, caught.value.reason) == (413, "too_large")
