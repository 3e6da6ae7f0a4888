"""Who may read on the admin port, and what everybody else is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.admin.gate import Refused, admit, parse

TOKEN = "t" * 43
PORT = 9999


def head(line: str = "GET /status HTTP/1.1", *rows: str, host: str | None = "127.0.0.1:9999") -> bytes:
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([line, *hosts, *rows, "", ""]).encode("latin-1")


def judged(raw: bytes) -> str:
    return admit(parse(raw), PORT, TOKEN)


def refused(raw: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        judged(raw)
    assert TOKEN not in str(caught.value)
    return caught.value


AUTHORIZED = f"Authorization: Bearer {TOKEN}"


@pytest.mark.parametrize("path", ["/", "/metrics", "/status", "/status?pretty=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_with_the_token_everything_can_be_read(method: str, path: str) -> None:
    assert judged(head(f"{method} {path} HTTP/1.1", AUTHORIZED)) == path.partition("?")[0]


@pytest.mark.parametrize("host", ["127.0.0.1:9999", "localhost:9999", "LOCALHOST:9999", "[::1]:9999"])
def test_loopback_names_with_the_right_port_are_ours(host: str) -> None:
    assert judged(head("GET / HTTP/1.1", AUTHORIZED, host=host)) == "/"


@pytest.mark.parametrize(
    "host",
    ["evil.example:9999", "127.0.0.1", "localhost:80", "127.0.0.1:99990", "localhost.evil.example:9999", "",
     "127.0.0.1:9999,evil.example", "127.0.0.2:9999", "127.0.0.1:9999@evil.example"],
)  # fmt: skip
def test_any_other_host_is_421_even_with_the_token(host: str) -> None:
    assert refused(head("GET / HTTP/1.1", AUTHORIZED, host=host)).status == 421


def test_without_a_port_a_host_is_right_on_port_80_only() -> None:
    assert admit(parse(head("GET / HTTP/1.1", AUTHORIZED, host="localhost")), 80, TOKEN) == "/"


@pytest.mark.parametrize("raw", [head(host=None), head("GET / HTTP/1.1", "Host: 127.0.0.1:9999")])
def test_a_host_missing_or_twice_is_400(raw: bytes) -> None:
    assert refused(raw).status == 400


@pytest.mark.parametrize(
    "row",
    ["Origin: http://127.0.0.1:9999", "Origin: null", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site",
     "Sec-Fetch-Site: same-site", "Sec-Fetch-Site: none"],
)  # fmt: skip
def test_what_a_web_page_sends_is_403_even_with_the_token(row: str) -> None:
    assert refused(head("GET /status HTTP/1.1", AUTHORIZED, row)).status == 403


def test_a_page_of_our_own_may_read() -> None:
    assert judged(head("GET /status HTTP/1.1", AUTHORIZED, "Sec-Fetch-Site: same-origin")) == "/status"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get"])
def test_other_methods_are_405_and_told_what_there_is(method: str) -> None:
    refusal = refused(head(f"{method} /status HTTP/1.1", AUTHORIZED))
    assert (refusal.status, refusal.headers) == (405, {"Allow": "GET, HEAD"})


@pytest.mark.parametrize(
    "row",
    ["X-Nothing: 1", "Authorization: Bearer", "Authorization: Bearer wrong", f"Authorization: Basic {TOKEN}",
     f"Authorization: {TOKEN}", f"Authorization: Bearer {TOKEN}x", f"Authorization: Bearer {TOKEN[:-1]}",
     f"Authorization: Bearer {TOKEN} {TOKEN}", "Authorization: Bearer \xe9\xff", f"Cookie: token={TOKEN}"],
)  # fmt: skip
def test_without_the_token_all_paths_are_401(row: str) -> None:
    for path in ("/", "/metrics", "/status", "/nowhere"):
        refusal = refused(head(f"GET {path} HTTP/1.1", row))
        assert (refusal.status, refusal.headers) == (401, {"WWW-Authenticate": 'Bearer realm="rayserve"'})
        assert "admin.token" in str(refusal)


def test_the_token_twice_is_400() -> None:
    assert refused(head("GET / HTTP/1.1", AUTHORIZED, AUTHORIZED)).status == 400


def test_the_scheme_is_read_in_any_case() -> None:
    assert judged(head("GET / HTTP/1.1", f"authorization: bEaReR {TOKEN}")) == "/"


def test_an_unknown_path_is_404_and_told_the_known_ones() -> None:
    refusal = refused(head("GET /nowhere HTTP/1.1", AUTHORIZED))
    assert refusal.status == 404
    assert "/metrics" in str(refusal)


@pytest.mark.parametrize(
    "raw",
    [head("GET /  HTTP/1.1"), head("GET / HTTP/2.0"), head("GET /"), head("GET / HTTP/1.1", "No colon"),
     head("GET / HTTP/1.1", "Space : 1"), head("GET / HTTP/1.1", " folded: 1"), head("GET / HTTP/1.1", "A: b\nC: d"),
     head("GET / HTTP/1.1", "A: \x00"), head("GET /\x01 HTTP/1.1"), b"\r\n\r\n"],
)  # fmt: skip
def test_what_is_not_http_by_the_letter_is_400(raw: bytes) -> None:
    assert refused(raw).status == 400


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_and_never_let_in(noise: bytes) -> None:
    with pytest.raises(Refused):
        judged(noise + b"\r\n\r\n")
    with pytest.raises(Refused):
        judged(head("GET /status HTTP/1.1")[:-2] + noise + b"\r\n\r\n")
