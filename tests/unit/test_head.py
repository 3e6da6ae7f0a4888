"""What a served head means, and that it takes two parsers to accept one."""

import httptools
import pytest
from tests.unit.raw_heads import LIMITS, parsed, raw_head, refusal_of

from rayserve.ingress.head import (
    Refusal,
    check_partial,
    skip_empty_lines,
    timeout_ms,
    valid_request_id,
)


def test_head_of_a_plain_request() -> None:
    head = parsed(
        b"User-Agent: wrk",
        b"Content-Type:application/json",
        b"Content-Length: 8",
        line=b"POST /predict%20me?x=1&y=%zz HTTP/1.1",
        host=b"hOST: 127.0.0.1:8000",
    )
    assert head.method == "POST"
    assert head.target == "/predict%20me"
    assert head.query == b"x=1&y=%zz"
    assert head.headers == [
        ("host", "127.0.0.1:8000"),
        ("user-agent", "wrk"),
        ("content-type", "application/json"),
        ("content-length", "8"),
    ]
    assert head.fields == {"host": "127.0.0.1:8000", "content-length": "8"}
    assert (head.host, head.version, head.keep_alive) == ("127.0.0.1:8000", (1, 1), True)
    assert (head.content_length, head.chunked, head.expect_continue, head.upgrade) == (8, False, False, "")


def test_case_16_repeated_headers_survive() -> None:
    head = parsed(b"X-A: 1", b"x-a: 2", b"X-A: 1", b"Cookie: a=b", b"Cookie: c=d")
    assert head.headers[1:] == [("x-a", "1"), ("x-a", "2"), ("x-a", "1"), ("cookie", "a=b"), ("cookie", "c=d")]


def test_case_16_get_with_a_body_and_chunked_bodies() -> None:
    assert parsed(b"Content-Length: 3").content_length == 3
    for spelling in (b"chunked", b"Chunked", b"CHUNKED", b" \tchunked "):
        head = parsed(b"Transfer-Encoding:" + spelling)
        assert head.chunked
        assert head.content_length is None
        assert all(name != "transfer-encoding" for name, _ in head.headers)


def test_case_16_percent_encoded_and_non_latin_paths_stay_raw() -> None:
    line = b"GET /caf%C3%A9/%E6%97%A5%2F%20;v=1/[a]|b HTTP/1.1"
    assert parsed(line=line).target == "/caf%C3%A9/%E6%97%A5%2F%20;v=1/[a]|b"


def test_host_is_wanted_in_1_1_only() -> None:  # RFC 9112 section 3.2
    refusal = refusal_of(raw_head(host=None))
    assert (refusal.status, refusal.reason) == (400, "bad_request")
    assert "host field is missing" in refusal.detail
    assert parsed(line=b"GET / HTTP/1.0", host=None).host == ""
    assert parsed(line=b"GET / HTTP/1.0").host == "a"
    assert refusal_of(raw_head(b"Host: a", line=b"GET / HTTP/1.0")).status == 400


def test_lengths() -> None:  # RFC 9110 section 8.6
    assert parsed().content_length is None
    assert parsed(b"Content-Length: 0").content_length == 0
    assert parsed(b"Content-Length: 007").content_length == 7
    assert parsed(b"Content-Length: 999999999999999999").content_length == 999999999999999999


# Target -> path, query, host (RFC 9112 section 3.2.2: the target's authority beats the Host field).
ABSOLUTE = {
    b"http://b/c?d": ("/c", b"d", "b"),
    b"HTTP://b:81/c": ("/c", b"", "b:81"),
    b"https://[::1]:8/": ("/", b"", "[::1]:8"),
    b"http://b": ("/", b"", "b"),
    b"http://b?d": ("/", b"d", "b"),
    b"http://b//c": ("//c", b"", "b"),
}


@pytest.mark.parametrize("target", ABSOLUTE, ids=bytes.decode)
def test_absolute_form_is_rewritten(target: bytes) -> None:
    path, query, host = ABSOLUTE[target]
    head = parsed(b"X: y", line=b"GET " + target + b" HTTP/1.1")
    assert (head.target, head.query, head.host) == (path, query, host)
    assert head.headers == [("host", host), ("x", "y")]
    assert parsed(line=b"GET " + target + b" HTTP/1.0", host=None).headers == [("host", host)]


def test_absolute_form_still_wants_one_valid_host() -> None:  # RFC 9112 section 3.2
    assert refusal_of(raw_head(line=b"GET http://b/ HTTP/1.1", host=None)).status == 400
    assert refusal_of(raw_head(line=b"GET http://b/ HTTP/1.1", host=b"Host: /")).status == 400


def test_asterisk_form() -> None:  # RFC 9112 section 3.2.4
    assert parsed(line=b"OPTIONS * HTTP/1.1").target == "*"
    assert parsed(line=b"OPTIONS http://b HTTP/1.1").target == "*"
    assert parsed(line=b"OPTIONS http://b/ HTTP/1.1").target == "/"
    assert parsed(line=b"OPTIONS /a HTTP/1.1").target == "/a"


# Version, Connection lines -> keep alive (RFC 9112 section 9.3).
KEEPING = [
    (b"1", [], True),
    (b"1", [b"close"], False),
    (b"1", [b"Close"], False),
    (b"1", [b"keep-alive"], True),
    (b"1", [b"keep-alive, close"], False),
    (b"1", [b"x", b" close "], False),
    (b"1", [b"closed"], True),
    (b"1", [b""], True),
    (b"0", [], False),
    (b"0", [b"keep-alive"], True),
    (b"0", [b"Keep-Alive"], True),
    (b"0", [b"x , keep-alive"], True),
    (b"0", [b"keep-alive", b"close"], False),
    (b"0", [b"close"], False),
]


@pytest.mark.parametrize(("minor", "lines", "kept"), KEEPING)
def test_keep_alive(minor: bytes, lines: list[bytes], kept: bool) -> None:
    head = parsed(*(b"Connection: " + line for line in lines), line=b"GET / HTTP/1." + minor)
    assert head.keep_alive is kept
    assert head.headers == [("host", "a")]


def test_hop_by_hop_fields_go() -> None:  # RFC 9110 section 7.6.1
    head = parsed(
        b"Connection: X-Hop, close, TE",
        b"X-Hop: 1",
        b"x-hop: 2",
        b"TE: trailers",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"X-End: 3",
    )
    assert head.headers == [("host", "a"), ("x-end", "3")]


def test_connection_cannot_take_out_what_frames_or_routes() -> None:
    head = parsed(b"Connection: host, content-length, expect, x-request-id", b"Content-Length: 3", b"X-Request-Id: a")
    assert head.headers == [("host", "a"), ("content-length", "3")]
    assert (head.host, head.content_length) == ("a", 3)
    assert "x-request-id" not in head.fields


def test_names_with_underscores_are_dropped() -> None:
    head = parsed(b"X_User: root", b"Content_Length: 5", b"X-User: me", b"_: a")
    assert head.headers == [("host", "a"), ("x-user", "me")]
    assert head.content_length is None


@pytest.mark.parametrize("name", [b"Reason", b"Retriable", b"Backend", b"Replica", b"Id"])
def test_our_own_marks_are_stripped_inbound(name: bytes) -> None:
    spellings = (b"X-Serve-" + name, b"x-serve-" + name.lower(), b"X-SERVE-" + name.upper())
    head = parsed(*(spelling + b": forged" for spelling in spellings), b"X-Serve-Shard-Key: k")
    assert head.headers == [("host", "a"), ("x-serve-shard-key", "k")]
    assert head.fields == {"host": "a", "x-serve-shard-key": "k"}


def test_noted_fields_join_repeats() -> None:  # RFC 9110 section 5.3
    head = parsed(b"X-Request-Id: a", b"X-REQUEST-ID: b", b"X-Request-Timeout-Ms: 5", b"Idempotency-Key: k")
    assert head.fields["x-request-id"] == "a, b"
    assert not valid_request_id(head.fields["x-request-id"])
    assert (head.fields["x-request-timeout-ms"], head.fields["idempotency-key"]) == ("5", "k")


def test_expect_continue() -> None:  # RFC 9110 section 10.1.1
    assert parsed(b"Expect: 100-continue", b"Content-Length: 5").expect_continue
    assert parsed(b"Expect: 100-Continue", b"Transfer-Encoding: chunked").expect_continue
    assert not parsed(b"Expect: 100-continue").expect_continue  # no body to wait with
    assert not parsed(b"Expect: 100-continue", b"Content-Length: 0").expect_continue
    assert not parsed(b"Expect: 100-continue", b"Content-Length: 5", line=b"POST / HTTP/1.0").expect_continue


def test_upgrade_is_reported_beside_its_body() -> None:  # RFC 9110 section 7.8
    both = (b"Connection: Upgrade", b"Upgrade: websocket")
    assert parsed(*both).upgrade == "websocket"
    head = parsed(*both, b"Content-Length: 5", b"X: y")
    assert (head.upgrade, head.content_length) == ("websocket", 5)
    assert head.headers == [("host", "a"), ("content-length", "5"), ("x", "y")]
    assert parsed(*both, b"Transfer-Encoding: chunked").chunked
    assert parsed(b"Upgrade: h2c").upgrade == ""
    assert parsed(b"Connection: upgrade").upgrade == ""
    assert parsed(*both, line=b"GET / HTTP/1.0").upgrade == ""


def test_a_field_that_only_one_parser_sees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        def __init__(self, protocol: object) -> None: ...

        def feed_data(self, data: bytes) -> None: ...

    monkeypatch.setattr("rayserve.ingress.head.HttpRequestParser", Blind)
    refusal = refusal_of(raw_head())
    assert refusal.status == 400
    assert "two parsers read differently" in refusal.detail


def test_an_objection_of_llhttp_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stricter:
        def __init__(self, protocol: object) -> None: ...

        def feed_data(self, data: bytes) -> None:
            raise httptools.HttpParserError("Moon is full")

    monkeypatch.setattr("rayserve.ingress.head.HttpRequestParser", Stricter)
    refusal = refusal_of(raw_head())
    assert (refusal.status, refusal.detail) == (400, "the head does not parse: moon is full")


def test_a_tab_behind_chunked_is_refused_although_it_is_legal() -> None:
    """RFC 9112 section 5 allows it; llhttp does not, since peers disagree on it, and both parsers must accept."""
    refusal = refusal_of(raw_head(b"Transfer-Encoding: chunked\t"))
    assert (refusal.status, refusal.detail) == (400, "the head does not parse: request has invalid `transfer-encoding`")


def test_empty_lines_before_a_request() -> None:  # RFC 9112 section 2.2
    assert skip_empty_lines(b"GET /") == 0
    assert skip_empty_lines(b"\r\nGET /") == 2
    assert skip_empty_lines(b"body\r\n\r\nGET /", 4) == 8
    assert skip_empty_lines(b"\r\n" * 20) == 16
    assert skip_empty_lines(b"\r") == 0
    check_partial(b"\r", LIMITS)
    assert refusal_of(b"\r\n\r\n").status == 400


@pytest.mark.parametrize(
    ("value", "valid"),
    [("a", True), ("!~" * 64, True), ("", False), ("a" * 129, False), ("a b", False), ("é", False), ("a\n", False)],
)
def test_request_ids(value: str, valid: bool) -> None:
    assert valid_request_id(value) is valid


@pytest.mark.parametrize(
    "value", ["", "0", "-1", "+5", "1.5", "1e3", "ten", "5, 6", "²", "٣", "1_0", "9999999999", " 5"]
)
def test_garbage_timeouts(value: str) -> None:
    with pytest.raises(Refusal) as caught:
        timeout_ms(value)
    assert (caught.value.status, caught.value.reason) == (400, "bad_request")
    assert "x-request-timeout-ms" in caught.value.detail


def test_timeouts() -> None:
    assert timeout_ms("1") == 1
    assert timeout_ms("060000") == 60_000
    assert timeout_ms("999999999") == 999_999_999
