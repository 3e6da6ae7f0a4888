"""Why heads are refused: each request line and field line with its rule, and the limits at and one over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.raw_heads import LIMITS, parsed, raw_head, refusal_of

from rayserve.ingress.head import Limits, Refusal, check_partial

# Request line -> status and a word of the detail. RFC 9112 section 3 unless said.
LINES = {
    # section 3: method SP request-target SP HTTP-version
    b"GET / HTTP/1.1 ": (400, "one space between"),
    b" GET / HTTP/1.1": (400, "one space between"),
    b"GET  / HTTP/1.1": (400, "one space between"),
    b"GET /  HTTP/1.1": (400, "one space between"),
    b"GET\t/ HTTP/1.1": (400, "one space between"),
    b"GET /a b HTTP/1.1": (400, "one space between"),
    b"GET /": (400, "one space between"),  # HTTP/0.9
    b"GET": (400, "one space between"),
    b"": (400, "one space between"),
    b"GET  HTTP/1.1": (400, "one space between"),
    b"G\xc3T / HTTP/1.1": (400, "one space between"),
    b"G(T / HTTP/1.1": (400, "one space between"),  # section 3.1: a method is a token
    # section 2.3: HTTP-version is case-sensitive, one digit, dot, one digit
    b"GET / http/1.1": (400, "must end in HTTP/1.1"),
    b"GET / HTTP/1.10": (400, "must end in HTTP/1.1"),
    b"GET / HTTP/11.1": (400, "must end in HTTP/1.1"),
    b"GET / HTTP/1,1": (400, "must end in HTTP/1.1"),
    b"GET / HTTP/1.": (400, "must end in HTTP/1.1"),
    b"GET / HTTP /1.1": (400, "one space between"),
    b"GET / ICE/1.0": (400, "must end in HTTP/1.1"),
    b"GET / RTSP/1.0": (400, "must end in HTTP/1.1"),
    # RFC 9110 section 15.6.6
    b"GET / HTTP/0.9": (505, "HTTP/0.9 is not served"),
    b"GET / HTTP/1.2": (505, "HTTP/1.2 is not served"),
    b"GET / HTTP/2.0": (505, "HTTP/2.0 is not served"),
    b"PRI * HTTP/2.0": (505, "HTTP/2.0 is not served"),  # RFC 9113 section 3.4
    # RFC 9110 section 9.1: 501 for a method that is unrecognised or not implemented
    b"CONNECT a:80 HTTP/1.1": (501, "'CONNECT' is not implemented"),
    b"CONNECT / HTTP/1.1": (501, "'CONNECT' is not implemented"),
    b"TRACE / HTTP/1.1": (501, "'TRACE' is not implemented"),
    b"get / HTTP/1.1": (501, "'get' is not implemented"),  # section 9.1: case-sensitive
    b"BREW / HTTP/1.1": (501, "'BREW' is not implemented"),
    b"PRI / HTTP/1.1": (501, "'PRI' is not implemented"),
    b"DESCRIBE / HTTP/1.1": (501, "'DESCRIBE' is not implemented"),
    b"M" * 200 + b" / HTTP/1.1": (501, "is not implemented"),
    # section 3.2: request-target
    b"GET a HTTP/1.1": (400, "must start with /"),
    b"GET ?q HTTP/1.1": (400, "must start with /"),
    b"GET a:80 HTTP/1.1": (400, "must start with /"),  # authority-form is CONNECT's
    b"GET * HTTP/1.1": (400, "goes with OPTIONS only"),  # section 3.2.4
    b"OPTIONS *a HTTP/1.1": (400, "must start with /"),
    b"OPTIONS ** HTTP/1.1": (400, "must start with /"),
    b"GET /a#b HTTP/1.1": (400, "fragment"),
    b"GET /?a#b HTTP/1.1": (400, "fragment"),
    b"GET http://a/#b HTTP/1.1": (400, "fragment"),
    b"GET /\x01 HTTP/1.1": (400, "not visible ascii"),
    b"GET /\x00 HTTP/1.1": (400, "not visible ascii"),
    b"GET /\x7f HTTP/1.1": (400, "not visible ascii"),
    b"GET /?\x1b HTTP/1.1": (400, "not visible ascii"),
    b"GET /\xc3\xa9 HTTP/1.1": (400, "not visible ascii"),
    b"GET /?\xff HTTP/1.1": (400, "not visible ascii"),
    # RFC 3986 section 2.1
    b"GET /%zz HTTP/1.1": (400, "two hex digits"),
    b"GET /%4 HTTP/1.1": (400, "two hex digits"),
    b"GET /a% HTTP/1.1": (400, "two hex digits"),
    b"GET /%4?q HTTP/1.1": (400, "two hex digits"),
    b"GET /%%41 HTTP/1.1": (400, "two hex digits"),
    b"GET /%00 HTTP/1.1": (400, "%00"),
    b"GET /a%00b HTTP/1.1": (400, "%00"),
    b"GET http://a/%0 HTTP/1.1": (400, "two hex digits"),
    # RFC 3986 section 3.3: not pchar
    b'GET /" HTTP/1.1': (400, "percent-encode"),
    b"GET /<a> HTTP/1.1": (400, "percent-encode"),
    b"GET /a\\b HTTP/1.1": (400, "percent-encode"),
    b"GET /{id} HTTP/1.1": (400, "percent-encode"),
    b"GET /a^b`c HTTP/1.1": (400, "percent-encode"),
    # section 3.2.2: absolute-form; RFC 9110 sections 4.2.1 and 4.2.4
    b"GET ftp://a/ HTTP/1.1": (400, "scheme"),
    b"GET ws://a/ HTTP/1.1": (400, "scheme"),
    b"GET http:/a HTTP/1.1": (400, "must start with /"),
    b"GET http:///a HTTP/1.1": (400, "not one host name"),
    b"GET http://:80/ HTTP/1.1": (400, "not one host name"),
    b"GET http://u@a/ HTTP/1.1": (400, "not one host name"),
    b"GET http://u:p@a/ HTTP/1.1": (400, "not one host name"),
    b"GET http://a:b/ HTTP/1.1": (400, "not one host name"),
    b"GET http://a:70000/ HTTP/1.1": (400, "not one host name"),
    b"GET http://[::1/ HTTP/1.1": (400, "not one host name"),
    b"GET http://" + b"a" * 300 + b"/ HTTP/1.1": (400, "not one host name"),
    b'GET http://a"/ HTTP/1.1': (400, "percent-encode"),
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: ascii(line[:40])[2:-1])
def test_request_lines_refused(line: bytes) -> None:
    status, words = LINES[line]
    refusal = refusal_of(raw_head(line=line))
    assert refusal.status == status, refusal.detail
    assert words in refusal.detail
    assert refusal.reason == ("bad_request" if status == 400 else "not_implemented")


# Field lines behind "Host: a" -> status and words of the detail. RFC 9112 section 5 unless said.
FIELDS = {
    b"A : b": (400, "space before its colon"),  # section 5.1
    b"A\t: b": (400, "space before its colon"),
    b"Content-Length : 5": (400, "space before its colon"),
    b"A: b\r\n c": (400, "folded"),  # section 5.2
    b"A: b\r\n\tc": (400, "folded"),
    b" A: b": (400, "folded"),
    b": b": (400, "empty name"),
    b"A": (400, "has no colon"),
    b"A b": (400, "has no colon"),
    b"A\x00: b": (400, "names may not have"),
    b"A(: b": (400, "names may not have"),
    b"A B: c": (400, "names may not have"),
    b"\xc3: b": (400, "names may not have"),
    b'"A": b': (400, "names may not have"),
    b"A\x7f: b": (400, "names may not have"),
    b"A: \x00": (400, "control byte"),  # RFC 9110 section 5.5
    b"A: b\x00c": (400, "control byte"),
    b"A: b\x0bc": (400, "control byte"),
    b"A: b\x1bc": (400, "control byte"),
    b"A: b\x7f": (400, "control byte"),
    b"A: b\x08": (400, "control byte"),
    b"A: b\nC: d": (400, "bare CR or LF"),  # section 2.2
    b"A: b\rC: d": (400, "bare CR or LF"),
    b"A: b\r\r": (400, "bare CR or LF"),
    b"A: b\n": (400, "bare CR or LF"),
    b"A: b\r\n\r\nC: d": (400, "one empty line"),
    # section 3.2 and RFC 9110 section 7.2
    b"Host: a": (400, "not one host name"),
    b"host: b": (400, "not one host name"),
    b"Host:": (400, "not one host name"),
    # RFC 9110 section 8.6, RFC 9112 section 6.3
    b"Content-Length: 5\r\nContent-Length: 5": (400, "content-length '5, 5'"),
    b"Content-Length: 5\r\ncontent-length: 6": (400, "content-length '5, 6'"),
    b"Content-Length: 1,1": (400, "content-length '1,1'"),
    b"Content-Length: 1, 1": (400, "content-length"),
    b"Content-Length: +5": (400, "content-length '+5'"),
    b"Content-Length: -5": (400, "content-length '-5'"),
    b"Content-Length: 5 5": (400, "content-length '5 5'"),
    b"Content-Length: 0x5": (400, "content-length '0x5'"),
    b"Content-Length: 5_0": (400, "content-length '5_0'"),
    b"Content-Length: 5.0": (400, "content-length '5.0'"),
    b"Content-Length: five": (400, "content-length 'five'"),
    b"Content-Length:": (400, "content-length ''"),
    b"Content-Length:  \t ": (400, "content-length ''"),
    b"Content-Length: \xb2": (400, "content-length '\\xb2'"),
    b"Content-Length: 1234567890123456789": (400, "at most 18 digits"),
    b"Content-Length: 18446744073709551616": (400, "at most 18 digits"),
    b"Content-Length: " + b"9" * 5000: (400, "at most 18 digits"),
    # section 6.1 and 6.3: length and coding together
    b"Content-Length: 5\r\nTransfer-Encoding: chunked": (400, "both set"),
    b"Transfer-Encoding: chunked\r\nContent-Length: 5": (400, "both set"),
    b"Content-Length: 5\r\nTransfer-Encoding: gzip, chunked": (400, "both set"),
    b"Content-Length: 5\r\nTransfer-Encoding:": (400, "both set"),
    # section 6.3: chunked is not last, or not once
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: chunked, chunked": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: chunked, gzip": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: gzip": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: identity": (400, "does not tell where the body ends"),
    b"Transfer-Encoding:": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: , chunked": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: chunked,": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: xchunked": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: chunked;q=1": (400, "does not tell where the body ends"),
    b'Transfer-Encoding: "chunked"': (400, "does not tell where the body ends"),
    b"Transfer-Encoding: chunked x": (400, "does not tell where the body ends"),
    b"Transfer-Encoding: \xffchunked": (400, "does not tell where the body ends"),
    # section 6.1: a coding this server does not know
    b"Transfer-Encoding: gzip, chunked": (501, "only chunked is"),
    b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked": (501, "only chunked is"),
    b"Transfer-Encoding: identity, chunked": (501, "only chunked is"),
    # RFC 9110 section 10.1.1
    b"Expect: 200-ok": (417, "only 100-continue"),
    b"Expect: 100-continue, x": (417, "only 100-continue"),
    b"Expect:": (417, "only 100-continue"),
}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: ascii(field[:60])[2:-1])
def test_fields_refused(field: bytes) -> None:
    status, words = FIELDS[field]
    refusal = refusal_of(raw_head(field, line=b"POST / HTTP/1.1"))
    assert refusal.status == status, refusal.detail
    assert words in refusal.detail
    assert refusal.reason == ("not_implemented" if status == 501 else "bad_request")


@pytest.mark.parametrize("coding", [b"chunked", b"gzip, chunked", b"gzip"])
def test_no_transfer_encoding_in_1_0(coding: bytes) -> None:  # RFC 9112 section 6.1
    refusal = refusal_of(raw_head(b"Transfer-Encoding: " + coding, line=b"POST / HTTP/1.0"))
    assert refusal.status == 400
    assert "does not exist in HTTP/1.0" in refusal.detail


def test_details_are_short_printable_ascii() -> None:
    for raw in (raw_head(line=b"\x1b[31m" * 500 + b" / HTTP/1.1"), raw_head(b"\xff" * 5000 + b": \x00")):
        detail = refusal_of(raw).detail
        assert detail.isascii()
        assert detail.isprintable()
        assert len(detail) < 400


def line_of(size: int) -> bytes:
    return b"GET /" + b"a" * (size - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"


def test_request_line_at_its_limit_and_one_over() -> None:  # RFC 9110 section 15.5.15
    assert len(parsed(line=line_of(8192)).target) == 8192 - 13
    refusal = refusal_of(raw_head(line=line_of(8193)))
    assert (refusal.status, refusal.reason) == (414, "too_large")
    assert "8192 bytes" in refusal.detail


def test_header_bytes_at_their_limit_and_one_over() -> None:  # RFC 6585 section 5
    room = 65536 - len(b"Host: a\r\nX: \r\n\r\n")
    assert len(parsed(b"X: " + b"v" * room).headers[1][1]) == room
    refusal = refusal_of(raw_head(b"X: " + b"v" * (room + 1)))
    assert (refusal.status, refusal.reason) == (431, "too_large")
    assert "65536 bytes" in refusal.detail
    assert refusal_of(raw_head(b"X: yyyyyyyyyy"), Limits(max_header_bytes=20)).status == 431


def test_number_of_headers_at_its_limit_and_one_over() -> None:
    assert len(parsed(*[b"X: y"] * 99).headers) == 100
    refusal = refusal_of(raw_head(*[b"X: y"] * 100))
    assert (refusal.status, refusal.reason) == (431, "too_large")
    assert "100 header fields" in refusal.detail


def test_partial_heads_are_refused_at_the_byte_that_makes_them_hopeless() -> None:
    limits = Limits(max_request_line=50, max_header_bytes=60, max_headers=3)
    check_partial(b"G" * 50 + b"\r", limits)
    for hopeless, status in (
        (b"G" * 52, 414),
        (b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 58, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4, 431),
        (b"GET / HTTP/1.1\nHost", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", 400),
        (b"\n", 400),
        (b"\x16\x03\x01", 400),  # TLS
        (b" GET", 400),
    ):
        with pytest.raises(Refusal) as caught:
            check_partial(hopeless, limits)
        assert caught.value.status == status
        check_partial(hopeless[:-1] if status != 400 else b"GET / HTTP/1.1\r", limits)
        with pytest.raises(Refusal):
            check_partial(bytearray(hopeless), limits)


@given(st.integers(0, 200))
def test_no_part_of_a_good_head_is_hopeless(cut: int) -> None:
    raw = raw_head(b"X-A: b", b"Content-Length: 5", line=b"POST /a?b HTTP/1.1")
    check_partial(raw[: min(cut, len(raw) - 1)], LIMITS)
