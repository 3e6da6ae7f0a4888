"""Request heads as bytes, for the tests of the HTTP room."""

import pytest

from rayserve.ingress.head import Head, Limits, Refusal, parse_head

LIMITS = Limits()


def raw_head(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    """Return the bytes of a head with the given field lines behind Host."""
    return b"\r\n".join((line, *(() if host is None else (host,)), *fields)) + b"\r\n\r\n"


def parsed(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a") -> Head:
    return parse_head(raw_head(*fields, line=line, host=host), LIMITS)


def refusal_of(raw: bytes, limits: Limits = LIMITS) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse_head(raw, limits)
    return caught.value


GOOD_LINES = (
    b"GET / HTTP/1.1",
    b"POST /a?b HTTP/1.0",
    b"POST /%41 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"GET http://b/c HTTP/1.1",
)
GOOD_FIELDS = (
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: keep-alive, x",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Keep-Alive: 3",
    b"Cookie: a",
    b"X_Y: z",
    b"A: b",
)
