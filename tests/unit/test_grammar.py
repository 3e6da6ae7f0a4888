"""The patterns and tables: what hosts, queries, methods and names may be, and what hostile bytes cost."""

import time
from collections.abc import Iterable

import pytest
from tests.unit.raw_heads import LIMITS, parsed, raw_head, refusal_of

from rayserve.ingress.grammar import METHODS, NAMES
from rayserve.ingress.head import Refusal, parse_head

# RFC 9110 section 7.2, RFC 3986 section 3.2.2.
HOSTS = {
    b"a": True,
    b"localhost:8000": True,
    b"127.0.0.1": True,
    b"127.0.0.1:": True,  # port = *DIGIT
    b"a.example:65535": True,
    b"[::1]": True,
    b"[::1]:8000": True,
    b"[::ffff:1.2.3.4]:80": True,
    b"xn--bcher-kva.example": True,
    b"a_b.c~d!$&'()*+,;=": True,  # reg-name takes sub-delims
    b"%41b": True,
    b"": False,  # RFC 9110 section 4.2.1: an http URI with an empty host is invalid
    b":80": False,
    b"a:65536": False,
    b"a:8 0": False,
    b"a:-1": False,
    b"a:80:80": False,
    b"a b": False,
    b"a/b": False,
    b"a?b": False,
    b"a#b": False,
    b"u@a": False,
    b"http://a": False,
    b"a, b": False,
    b"\xc3\xa9": False,
    b"a\tb": False,
    b"%4": False,
    b"a%zz": False,
    b"[": False,
    b"[]": False,
    b"[::1": False,
    b"::1": False,
    b"[::1]a": False,
    b"[1.2.3.4]": False,
    b"[:::1]": False,
    b"[::1%25eth0]": False,
    b"[fe80::1%eth0]": False,
    b"[v1.a]": False,
    b"a" * 262: False,
    b"a\\b": False,
    b"<a>": False,
}


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: ascii(host[:30])[2:-1] or "empty")
def test_host_values(host: bytes) -> None:
    raw = raw_head(host=b"Host: " + host)
    if HOSTS[host]:
        assert parse_head(raw, LIMITS).host == host.decode()
    else:
        refusal = refusal_of(raw)
        assert refusal.status == 400
        assert "is not one host name with an optional port" in refusal.detail


def test_query_takes_any_visible_ascii() -> None:
    head = parsed(line=b'GET /?{"a":[1|2]}&p=100%&\\^`<> HTTP/1.1')
    assert head.query == b'{"a":[1|2]}&p=100%&\\^`<>'
    assert parsed(line=b"GET /? HTTP/1.1").query == b""
    assert parsed(line=b"GET /?a?b HTTP/1.1").query == b"a?b"


def test_values_lose_outer_whitespace_only() -> None:  # RFC 9110 section 5.5
    head = parsed(b"A: \t b \t c\t ", b"B:", b"C: \t", b"D: \xe9\xa0", b"E:\xa0x")
    assert head.headers[1:] == [("a", "b \t c"), ("b", ""), ("c", ""), ("d", "é\xa0"), ("e", "\xa0x")]


@pytest.mark.parametrize("method", sorted(METHODS.values()))
def test_each_method_we_list_is_one_llhttp_takes(method: str) -> None:
    assert parsed(line=method.encode() + b" / HTTP/1.1").method == method


def test_hostile_heads_cost_little() -> None:
    """Each is at the size limit and made to send a backtracking pattern astray; 64 KiB take about a millisecond."""
    room = 65_000
    heads: Iterable[bytes] = (
        raw_head(b"A: " + b" " * room + b"\x00"),
        raw_head(b"A" * room),
        raw_head(b"A:" + b"\t" * room),
        raw_head(b"Transfer-Encoding: " + b"," * room),
        raw_head(b"Connection: " + b"a," * (room // 2)),
        raw_head(line=b"GET /" + b"%41" * 2700 + b"%4 HTTP/1.1"),
        raw_head(line=b"OPTIONS http://" + b"%41" * 2700 + b"\x00 HTTP/1.1"),
        raw_head(host=b"Host: " + b"%41" * 20_000 + b"/"),
        raw_head(*[b"a:\r\n" * 90 + b"a"]),
    )
    began = time.process_time()
    for raw in heads:
        try:
            parse_head(raw, LIMITS)
        except Refusal as refusal:
            assert refusal.status == 400
    assert time.process_time() - began < 1.0


def test_learned_names_stay_bounded() -> None:
    for number in range(3000):
        parsed(b"X-Made-Up-%d: y" % number)
    assert len(NAMES) <= 2048
    assert parsed(b"X-" + b"long" * 100 + b": y").headers[1][0] == "x-" + "long" * 100
    assert b"X-" + b"long" * 100 not in NAMES
