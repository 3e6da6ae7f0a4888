"""The clients that people use, against the real ingress code: httpx, requests, aiohttp and curl."""

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import flask
import pytest
from tests.conditions import eventually
from tests.wire.clients import CLIENTS, Http, open_client
from tests.wire.curl import Curl, TookTooLong
from tests.wire.mini import Mini

from rayserve.context import context
from rayserve.errors import HTTPError

MIB = 2**20
LARGE = 24 * MIB


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "nothing of any client is kept")


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, mini: Mini) -> Iterator[Http]:
    with open_client(request.param, mini.url) as opened:
        yield opened


def serve(mini: Mini, code: Any, methods: tuple[str, ...] = ("GET", "POST"), **config: Any) -> None:
    mini.backend("b", code).endpoint("e", "/x", {"b": 1.0}, methods, **config).publish()


# -- plain ---------------------------------------------------------------------------------------------


def test_get_and_post_json(mini: Mini, client: Http) -> None:
    serve(mini, lambda request: {"query": dict(request.args), "json": request.get_json(silent=True)})

    got = client.ask("GET", "/x?a=1&b=%C3%BC")
    assert (got.status, got["content-type"]) == (200, "application/json")
    assert json.loads(got.body) == {"query": {"a": "1", "b": "ü"}, "json": None}
    sent = {"nested": [1, 2.5, None, "ü"]}
    got = client.ask("POST", "/x", json.dumps(sent).encode(), [("content-type", "application/json")])
    assert json.loads(got.body) == {"query": {}, "json": sent}


def test_methods_without_and_with_a_body(mini: Mini, client: Http) -> None:
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
    serve(mini, lambda request: f"{request.method} {len(request.data)}", methods)

    for method in methods[1:]:
        assert client.ask(method, "/x", b"four").body.decode() == f"{method} 4"
    assert client.ask("DELETE", "/x").body == b"DELETE 0"
    got = client.ask("OPTIONS", "/x")
    assert (got.status, got["allow"], got.body) == (204, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", b"")


def test_head_has_the_head_of_get_and_the_connection_serves_on(mini: Mini, client: Http) -> None:
    serve(mini, lambda: "four")

    for _ in range(3):
        got = client.ask("HEAD", "/x")
        assert (got.status, got["content-length"], got.body) == (200, "4", b"")
        assert client.ask("GET", "/x").body == b"four"


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, LARGE])
def test_bodies_of_all_sizes_both_ways(mini: Mini, client: Http, size: int) -> None:
    serve(mini, lambda request: request.data + hashlib.sha256(request.data).digest())
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    got = client.ask("POST", "/x", body, [("content-type", "application/octet-stream")])
    assert got["content-length"] == str(size + 32)
    assert got.body == body + hashlib.sha256(body).digest()


def test_one_connection_serves_many_requests(mini: Mini, client: Http) -> None:
    serve(mini, lambda request: request.environ["REMOTE_PORT"])

    answers = client.several(["/x", "/x?2", "/none", "/x?3"])
    assert [got.status for got in answers] == [200, 200, 404, 200]
    assert len({got.body for got in answers if got.status == 200}) == 1


# -- headers -------------------------------------------------------------------------------------------


def test_repeated_fields_survive_both_ways(mini: Mini, client: Http) -> None:
    def echo(request: flask.Request) -> flask.Response:
        response = flask.Response(json.dumps([request.headers.getlist("x-many"), request.headers["user-agent"]]))
        response.headers.add("X-Many", "one")
        response.headers.add("X-Many", "two, three")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2; x")
        return response

    serve(mini, echo)
    got = client.ask("GET", "/x", None, [("X-Many", "one"), ("X-Many", "two")])

    assert json.loads(got.body)[0] == ["one", "two"]
    assert got.all("x-many") == ["one", "two, three"]
    assert [each.partition("=")[0] for each in got.all("set-cookie")] == ["a", "b"]


def test_redirects_are_followed_with_their_cookies(mini: Mini, client: Http) -> None:
    def enter(request: flask.Request) -> flask.Response:
        response = flask.redirect(f"/home?{len(request.data)}", 303)
        response.set_cookie("user", "ada")
        response.set_cookie("theme", "dark")
        assert isinstance(response, flask.Response)
        return response

    def home(request: flask.Request) -> list[Any]:
        return [request.method, request.query_string.decode(), dict(request.cookies)]

    mini.backend("in", enter).backend("home", home)
    mini.endpoint("in", "/in", {"in": 1.0}).endpoint("home", "/home", {"home": 1.0}).publish()

    got = client.follow("POST", "/in", b"four")
    assert json.loads(got.body) == ["GET", "4", {"user": "ada", "theme": "dark"}]


# -- streams -------------------------------------------------------------------------------------------


def test_each_piece_of_a_stream_arrives_before_the_next_one_is_made(mini: Mini, client: Http) -> None:
    gates = [threading.Event() for _ in range(4)]

    def count() -> Iterator[str]:
        for number, gate in enumerate(gates):
            yield f"piece {number};"
            assert gate.wait(20)

    serve(mini, count)
    with client.stream("/x") as pieces:
        for number, gate in enumerate(gates):
            assert next(pieces) == b"piece %d;" % number
            gate.set()
        assert next(pieces, b"") == b""


def test_a_large_stream_arrives_whole(mini: Mini, client: Http) -> None:
    def blocks() -> Iterator[bytes]:
        for number in range(300):
            yield bytes([number % 256]) * (64 * 1024 + number)

    serve(mini, blocks)
    with client.stream("/x") as pieces:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(b"".join(blocks())).digest()


def test_a_chunked_upload_arrives_whole(mini: Mini, client: Http) -> None:
    def look(request: flask.Request) -> list[Any]:
        return [request.headers.get("content-length"), hashlib.sha256(request.data).hexdigest()]

    serve(mini, look)
    pieces = [b"", b"a", bytes(100_000), b"b" * 3_000_000, "ü".encode()]
    got = client.upload("/x", (piece for piece in pieces if piece))

    assert json.loads(got.body) == [None, hashlib.sha256(b"".join(pieces)).hexdigest()]


def test_a_client_that_closes_in_the_middle_stops_the_stream(mini: Mini, client: Http) -> None:
    stopped = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            stopped.set()

    serve(mini, endless)
    with client.stream("/x") as pieces:
        assert next(pieces)
    assert stopped.wait(10)
    eventually(mini.is_idle, "its slot is free")
    mini.endpoint("e2", "/y", {"b": 1.0})  # and the replica serves on
    with client.stream("/x") as pieces:
        assert next(pieces)


# -- codings -------------------------------------------------------------------------------------------


def test_a_compressed_body_reaches_the_handler_as_it_was_sent(mini: Mini, client: Http) -> None:
    def unpack(request: flask.Request) -> list[Any]:
        return [request.headers["content-encoding"], gzip.decompress(request.data).decode()]

    serve(mini, unpack)
    got = client.ask("POST", "/x", gzip.compress(b"packed" * 1000), [("content-encoding", "gzip")])

    assert json.loads(got.body) == ["gzip", "packed" * 1000]


def test_a_compressed_answer_is_unpacked_by_the_client(mini: Mini, client: Http) -> None:
    serve(mini, lambda: flask.Response(gzip.compress(b"packed" * 1000), headers={"content-encoding": "gzip"}))

    got = client.ask("GET", "/x", None, [("accept-encoding", "gzip")])
    assert (got["content-encoding"], got.body) == ("gzip", b"packed" * 1000)


# -- errors --------------------------------------------------------------------------------------------


def test_errors_have_their_markers(mini: Mini, client: Http) -> None:
    def fails(request: flask.Request) -> str:
        raise HTTPError(418, "short and stout") if request.args else ValueError("bad")

    serve(mini, fails, ("POST",), max_body_bytes=1000, timeout_s=20)
    mini.endpoint("late", "/late", timeout_s=0.05).publish()
    asked = [
        ("GET", "/none", None, 404, "not_found", "false"),
        ("GET", "/x", None, 405, "method_not_allowed", "false"),
        ("POST", "/x", b"1" * 1001, 413, "too_large", "false"),
        ("POST", "/x", b"1", 500, "user_exception", "unknown"),
        ("GET", "/late", None, 503, "no_traffic", "true"),
    ]
    for method, path, body, status, reason, retriable in asked:
        got = client.ask(method, path, body, [("x-request-id", f"mine-{status}")])
        assert (got.status, got["x-serve-reason"]) == (status, reason)
        assert got["x-serve-retriable"] == retriable, reason
        assert got["x-request-id"] == f"mine-{status}"
        assert json.loads(got.body)["request_id"] == f"mine-{status}"
    assert client.ask("POST", "/x?teapot", b"1").status == 418


def test_the_deadline_of_the_client_is_kept(mini: Mini, client: Http) -> None:
    def wait() -> None:
        while not context.cancelled:
            threading.Event().wait(0.005)

    serve(mini, wait)
    got = client.ask("GET", "/x", None, [("x-request-timeout-ms", "50")])
    assert (got.status, got["x-serve-reason"], got["x-serve-retriable"]) == (504, "deadline", "unknown")


def test_a_client_that_loses_patience_is_heard_of(mini: Mini, client: Http) -> None:
    heard = threading.Event()

    def wait(request: flask.Request) -> str:
        if not request.args:
            return "served"
        while not context.cancelled:
            threading.Event().wait(0.005)
        heard.set()
        return "too late"

    serve(mini, wait)
    with pytest.raises(TookTooLong):
        client.ask("GET", "/x?wait=1", within_s=0.3)
    assert heard.wait(10)
    assert client.ask("GET", "/x").body == b"served"


# -- Expect: 100-continue ------------------------------------------------------------------------------


@pytest.fixture
def curl(mini: Mini) -> Iterator[Curl]:
    with open_client("curl", mini.url) as opened:
        assert isinstance(opened, Curl)
        yield opened


def test_curl_asks_before_it_sends_a_large_body(mini: Mini, curl: Curl) -> None:
    serve(mini, lambda request: str(len(request.data)))

    assert curl.expects("/x", bytes(3 * MIB)) == ([100, 200], 3 * MIB)


def test_curl_does_not_send_a_body_that_is_refused(mini: Mini, curl: Curl) -> None:
    serve(mini, lambda request: str(len(request.data)), max_body_bytes=MIB)

    assert curl.expects("/x", bytes(3 * MIB)) == ([413], 0)
    assert curl.expects("/none", bytes(3 * MIB)) == ([404], 0)


def test_aiohttp_asks_before_it_sends(mini: Mini) -> None:
    serve(mini, lambda request: str(len(request.data)))
    with open_client("aiohttp", mini.url) as client:
        assert client.ask("POST", "/x", bytes(MIB), [("Expect", "100-continue")]).body == b"%d" % MIB
