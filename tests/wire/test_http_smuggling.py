"""Requests that two readers could understand differently: one answer, then the end, and nothing of them forwarded."""

from collections.abc import Iterator

import pytest
from tests.wire.http_client import Client, request
from tests.wire.mini import Mini

SMUGGLED = b"GET /x?smuggled=1 HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: test\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

seen: list[str] = []


@pytest.fixture(scope="module")
def mini() -> Iterator[Mini]:
    def handler(request: object) -> str:
        seen.append(getattr(request, "full_path"))  # noqa: B009
        return "served"

    with Mini(head_timeout_s=1) as running:
        yield running.backend("b", handler).endpoint("e", "/x", {"b": 1.0}).publish()


AMBIGUOUS = {
    "cl and te": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te and cl": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody", 400),
    "one length twice": (POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody", 400),
    "length list": (POST + b"Content-Length: 4, 4\r\n\r\nbody", 400),
    "length plus": (POST + b"Content-Length: +4\r\n\r\nbody", 400),
    "length minus": (POST + b"Content-Length: -4\r\n\r\nbody", 400),
    "length hex": (POST + b"Content-Length: 0x4\r\n\r\nbody", 400),
    "length empty": (POST + b"Content-Length:\r\n\r\nbody", 400),
    "length underscore": (POST + b"Content-Length: 1_0\r\n\r\nbody", 400),
    "length huge": (POST + b"Content-Length: 99999999999999999999\r\n\r\nbody", 400),
    "length space colon": (POST + b"Content-Length : 4\r\n\r\nbody", 400),
    "te twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te list twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "te gzip": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "te identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "te odd": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "te quoted": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "te vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "te folded": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "te in 1.0": (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te space colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "bare lf": (b"POST /x HTTP/1.1\nHost: test\nContent-Length: 4\n\nbody", 400),
    "bare lf in a field": (POST + b"X-A: b\nContent-Length: 4\r\n\r\nbody", 400),
    "bare cr in a field": (POST + b"X-A: b\rContent-Length: 4\r\n\r\nbody", 400),
    "nul in a field": (POST + b"X-A: b\x00\r\n\r\n", 400),
    "obs-fold": (POST + b"X-A: b\r\n c\r\n\r\n", 400),
    "no colon": (POST + b"X-A\r\n\r\n", 400),
    "empty name": (POST + b": b\r\n\r\n", 400),
    "two hosts": (b"GET /x HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n", 400),
    "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "bad host": (b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http/1.2": (b"GET /x HTTP/1.2\r\nHost: test\r\n\r\n", 505),
    "no version": (b"GET /x\r\n\r\n", 400),
    "two spaces": (b"GET  /x HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "fragment": (b"GET /x#y HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "nul in the path": (b"GET /x%00 HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "bad escape": (b"GET /x%2 HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "relative": (b"GET x HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "star": (b"GET * HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "connect": (b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n", 501),
    "trace": (b"TRACE /x HTTP/1.1\r\nHost: test\r\n\r\n", 501),
    "chunk size bare lf": (CHUNKED + b"1\nx\r\n0\r\n\r\n", 400),
    "chunk size plus": (CHUNKED + b"+1\r\nx\r\n0\r\n\r\n", 400),
    "chunk size 0x": (CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n", 400),
    "chunk size space": (CHUNKED + b"1 \r\nx\r\n0\r\n\r\n", 400),
    "chunk size empty": (CHUNKED + b"\r\nx\r\n0\r\n\r\n", 400),
    "chunk size huge": (CHUNKED + b"11111111111111111\r\nx\r\n0\r\n\r\n", 400),
    "chunk too short": (CHUNKED + b"1\r\nxyz\r\n0\r\n\r\n", 400),
    "chunk extension lf": (CHUNKED + b"1;a\nb\r\nx\r\n0\r\n\r\n", 400),
    "trailer bare lf": (CHUNKED + b"0\r\nX-T: y\n\r\n", 400),
    "trailer folded": (CHUNKED + b"0\r\nX-T: y\r\n z\r\n\r\n", 400),
}


@pytest.mark.parametrize(("data", "status"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_request_gets_one_answer_and_is_not_forwarded(mini: Mini, data: bytes, status: int) -> None:
    seen.clear()
    with Client(mini.port) as client:
        client.send(request("GET", "/x?first=1") + data + SMUGGLED)
        first, second = client.answer(), client.answer()
        assert client.half_close().is_closed()

    assert first.body == b"served"
    assert (second.status, second.closes) == (status, True)
    assert second.reason in ("bad_request", "not_implemented")
    assert seen == ["/x?first=1"]
    assert mini.is_idle()


EXACT = {
    "body that looks like a request": request("POST", "/x?1", body=SMUGGLED),
    "chunks that look like a request": CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "chunk size with zeros": CHUNKED + b"0001\r\nx\r\n000\r\n\r\n",
    "chunk size in capitals": CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n",
    "chunk extension": CHUNKED + b'1;a=b;c="d\\"e" ;f\r\nx\r\n0;g\r\n\r\n',
    "te in capitals": POST + b"TRANSFER-ENCODING: Chunked\r\n\r\n0\r\n\r\n",
    "length with zeros": POST + b"Content-Length: 0004\r\n\r\nbody",
    "length 0": POST + b"Content-Length: 0\r\n\r\n",
    "get with a body": b"GET /x HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody",
    "refused with a body": request("POST", "/nowhere", body=SMUGGLED),
    "upgrade": b"GET /x HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "upgrade to h2c": (
        b"GET /x HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
    ),
    "upgrade with a body": (
        POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    ),
    "upgrade without connection": POST + b"Upgrade: websocket\r\nContent-Length: 4\r\n\r\nbody",
    "connection names content-length": POST + b"Connection: content-length\r\nContent-Length: 4\r\n\r\nbody",
    "absolute": b"GET http://test/x HTTP/1.1\r\nHost: test\r\n\r\n",
    "empty lines": b"\r\n\r\n" + request("GET", "/x"),
}


@pytest.mark.parametrize("data", EXACT.values(), ids=EXACT.keys())
def test_an_exact_request_gets_one_answer_and_leaves_nothing_behind(mini: Mini, data: bytes) -> None:
    seen.clear()
    with Client(mini.port) as client:
        client.send(data + request("GET", "/x?last=1", "X-Request-Id: last"))
        assert client.answer()["x-request-id"] != "last"
        last = client.answer()

    assert (last.status, last["x-request-id"]) == (200, "last")
    assert not any("smuggled" in each for each in seen)
    assert seen[-1] == "/x?last=1"


@pytest.mark.parametrize(
    "data", [b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nbody", CHUNKED + b"5\r\nab"]
)
def test_a_request_that_is_not_whole_is_not_forwarded(mini: Mini, data: bytes) -> None:
    seen.clear()
    with Client(mini.port) as client:
        client.send(data).half_close()
        assert client.answer().status == 400
    assert seen == []
