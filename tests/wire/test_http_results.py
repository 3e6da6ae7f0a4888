"""Case 17: what a handler returns becomes an answer that is framed in exactly one way."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flask
import msgspec
import numpy as np
import pydantic
import pytest
from tests.wire.http_client import Client, request
from tests.wire.mini import Mini

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"


@dataclasses.dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    x: int


class Struct(msgspec.Struct):
    x: int


RESULTS: dict[str, Any] = {
    "str": "hällo", "empty": "", "bytes": b"\x00\xff", "none": None, "dict": {"a": [1, None]}, "list": [1, "b"],
    "int": 3, "float": 2.5, "bool": True, "dataclass": Point(1), "pydantic": Model(x=1), "msgspec": Struct(1),
    "array": np.array([[1, 2], [3, 4]]), "scalar": np.float32(0.5), "tuple": (1, "two"), "numbers": (1, 2, 3),
    "status": ("made", 201), "headers": ({"a": 1}, 202, {"X-A": "b"}),
    "repeated": ("x", 200, [("X-A", "1"), ("X-A", "2")]),
    "no content": ("dropped", 204), "not modified": ("dropped", 304, {"ETag": '"e"'}),
}  # fmt: skip
ANSWERS = [
    ("str", 200, TEXT, "hällo".encode()), ("empty", 200, TEXT, b""), ("bytes", 200, BINARY, b"\x00\xff"),
    ("none", 200, None, b""), ("dict", 200, JSON, b'{"a":[1,null]}'), ("list", 200, JSON, b'[1,"b"]'),
    ("int", 200, JSON, b"3"), ("float", 200, JSON, b"2.5"), ("bool", 200, JSON, b"true"),
    ("dataclass", 200, JSON, b'{"x":1}'), ("pydantic", 200, JSON, b'{"x":1}'), ("msgspec", 200, JSON, b'{"x":1}'),
    ("array", 200, JSON, b"[[1,2],[3,4]]"), ("scalar", 200, JSON, b"0.5"), ("tuple", 200, JSON, b'[1,"two"]'),
    ("numbers", 200, JSON, b"[1,2,3]"), ("status", 201, TEXT, b"made"), ("headers", 202, JSON, b'{"a":1}'),
    ("no content", 204, None, b""), ("not modified", 304, TEXT, b""),
]  # fmt: skip


def jsonify(request: flask.Request) -> flask.Response:
    answer = flask.jsonify(a=1)
    answer.headers["X-From"] = "flask"
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2")
    answer.status_code = 418
    return answer


def give(request: flask.Request) -> Any:
    return RESULTS[request.args["name"]]


def owned(request: flask.Request) -> Any:
    names = ("Content-Length", "Transfer-Encoding", "Connection", "Date", "X-Request-Id", "X-Serve-Reason")
    return "body", 200, {**dict.fromkeys(names, "7"), "X-Own": "kept"}


def large(request: flask.Request) -> Any:
    yield from (b"%07d\n" % number for number in range(int(request.args["lines"])))


def hostile(request: flask.Request) -> Any:
    return "body", 200, {request.args.get("name", "X-A"): request.args.get("value", "b")}


@pytest.fixture(scope="module")
def mini() -> Iterator[Mini]:
    with Mini() as running:
        for handler in (give, jsonify, owned, large, hostile):
            running.backend(handler.__name__, handler)
            running.endpoint(handler.__name__, f"/{handler.__name__}", {handler.__name__: 1.0})
        running.publish()
        yield running


@pytest.mark.parametrize(("name", "status", "content_type", "body"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_case_17_results(mini: Mini, name: str, status: int, content_type: str | None, body: bytes) -> None:
    with Client(mini.port) as client:
        answer = client.get(f"/give?name={name.replace(' ', '%20')}").answer()
        following = client.get("/give?name=int").answer()

    assert (answer.status, answer.get("content-type") if status != 304 else TEXT, answer.body) == (
        status, content_type, body
    )  # fmt: skip
    assert answer.reason is None
    assert following.body == b"3"  # framed so well that the connection serves on


def test_case_17_headers_of_a_tuple_are_sent_repeats_too(mini: Mini) -> None:
    with Client(mini.port) as client:
        assert client.get("/give?name=headers").answer()["x-a"] == "b"
        assert client.get("/give?name=repeated").answer().all("x-a") == ["1", "2"]


def test_case_17_a_flask_response_goes_out_as_it_is(mini: Mini) -> None:
    with Client(mini.port) as client:
        answer = client.get("/jsonify").answer()

    assert (answer.status, answer.json(), answer["x-from"]) == (418, {"a": 1}, "flask")
    assert answer.all("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]


def test_case_17_the_ingress_owns_framing_connection_date_and_marks(mini: Mini) -> None:
    with Client(mini.port) as client:
        answer = client.get("/owned").answer()
        again = client.get("/owned").answer()

    assert (answer["content-length"], answer["x-own"], answer.body) == ("4", "kept", b"body")
    assert answer["date"] != "7"
    assert answer["x-request-id"] != "7"
    assert answer.reason is answer.get("connection") is answer.get("transfer-encoding") is None
    assert again.status == 200


@pytest.mark.parametrize(
    "query", ["name=X%0d%0aY", "value=a%0d%0aX-B:+1", "value=a%0ab", "value=a%00b", "name=", "name=X+Y"]
)
def test_case_17_a_header_cannot_be_injected(mini: Mini, query: str) -> None:
    with Client(mini.port) as client:
        answer = client.get(f"/hostile?{query}").answer()
        assert client.get("/hostile").answer().status == 200

    assert (answer.status, answer.reason) == (500, "bad_result")
    assert "header" in answer.json()["detail"]
    assert answer.get("x-b") is None


@pytest.mark.parametrize("lines", [0, 1, 1000, 10_000])
def test_case_17_a_body_made_in_pieces_is_framed_once(mini: Mini, lines: int) -> None:
    with Client(mini.port) as client:
        answer = client.get(f"/large?lines={lines}").answer()
        assert client.get("/give?name=int").answer().body == b"3"

    assert answer.body == b"".join(b"%07d\n" % number for number in range(lines))


@pytest.mark.parametrize("lines", [1, 10_000])
def test_case_17_an_http_1_0_client_gets_no_chunks(mini: Mini, lines: int) -> None:
    with Client(mini.port) as client:
        client.send(request("GET", f"/large?lines={lines}", version="1.0"))
        answer = client.answer(version="1.0")

        assert len(answer.body) == 8 * lines
        assert answer.closes
        assert client.is_closed()


def test_case_17_http_1_0_keeps_alive_if_asked(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(request("GET", "/give?name=int", "Connection: keep-alive", version="1.0"))
        answer = client.answer(version="1.0")
        client.send(request("GET", "/give?name=int", version="1.0"))
        last = client.answer(version="1.0")
        assert client.is_closed()

    assert (answer["connection"], answer["content-length"]) == ("keep-alive", "1")
    assert last["connection"] == "close"


def test_case_17_head_of_a_body_made_in_pieces_has_none(mini: Mini) -> None:
    with Client(mini.port) as client:
        client.send(request("HEAD", "/large?lines=10000")).answer("HEAD")
        client.send(request("HEAD", "/give?name=no%20content")).answer("HEAD")
        assert client.get("/give?name=int").answer().body == b"3"
