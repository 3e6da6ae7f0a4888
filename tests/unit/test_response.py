import dataclasses
import enum
from http import HTTPStatus
from typing import Any

import flask
import numpy as np
import pytest
import werkzeug
from werkzeug.datastructures import Headers

from rayserve.errors import BadResultError
from rayserve.response import Encoded, encode

TEXT = b"content-type: text/plain; charset=utf-8\r\n"
JSON = b"content-type: application/json\r\n"
BINARY = b"content-type: application/octet-stream\r\n"
HTML = b"content-type: text/html; charset=utf-8\r\n"


@dataclasses.dataclass
class Point:
    x: float


class Colour(enum.StrEnum):
    RED = "red"


class Strange:
    pass


@pytest.mark.parametrize(
    ("value", "headers", "body"),
    [
        ("hello", TEXT, b"hello"),
        ("é", TEXT, "é".encode()),
        ("", TEXT, b""),
        (Colour.RED, TEXT, b"red"),
        (np.str_("s"), TEXT, b"s"),
        (b"\x00\xff", BINARY, b"\x00\xff"),
        (bytearray(b"ab"), BINARY, b"ab"),
        (memoryview(b"ab"), BINARY, b"ab"),
        (None, b"", b""),
        ({"a": 1}, JSON, b'{"a":1}'),
        ([1, 2], JSON, b"[1,2]"),
        (3, JSON, b"3"),
        (2.5, JSON, b"2.5"),
        (True, JSON, b"true"),
        (Point(1.5), JSON, b'{"x":1.5}'),
        (np.arange(3), JSON, b"[0,1,2]"),
        (np.float32(0.5), JSON, b"0.5"),
    ],
)
def test_case_17_results(value: Any, headers: bytes, body: bytes) -> None:
    assert encode(value) == Encoded(200, headers, body)


@pytest.mark.parametrize(
    ("value", "status", "headers", "body"),
    [
        (("x", 201), 201, TEXT, b"x"),
        (({"a": 1}, 404), 404, JSON, b'{"a":1}'),
        (((1, 200), 202), 202, JSON, b"[1,200]"),
        ((None, 500), 500, b"", b""),
        (("x", HTTPStatus.CREATED), 201, TEXT, b"x"),
        (("x", 200, None), 200, TEXT, b"x"),
        (("x", 200, {"X-A": "1"}), 200, TEXT + b"x-a: 1\r\n", b"x"),
        (("x", 200, {"X-A": ["1", "2"]}), 200, TEXT + b"x-a: 1\r\nx-a: 2\r\n", b"x"),
        (("x", 200, [("x-a", "1"), ("x-a", 2)]), 200, TEXT + b"x-a: 1\r\nx-a: 2\r\n", b"x"),
        (("x", 200, Headers([("x-a", "1")])), 200, TEXT + b"x-a: 1\r\n", b"x"),
        (("<p>", 200, {"Content-Type": "text/html"}), 200, b"content-type: text/html\r\n", b"<p>"),
        (("x", 200, {"x-a": "é\tz "}), 200, TEXT + "x-a: é\tz\r\n".encode("latin-1"), b"x"),
        (("", 204), 204, b"", b""),
        (("body", 204), 204, b"", b""),
        (({"a": 1}, 304, {"ETag": '"1"'}), 304, b'etag: "1"\r\n', b""),
    ],
)
def test_case_17_tuples_with_a_status(value: Any, status: int, headers: bytes, body: bytes) -> None:
    assert encode(value) == Encoded(status, headers, body)


@pytest.mark.parametrize(
    "value",
    [(), (1,), (1, 2), (1, 99), (1, 600), (1, "200"), ("a", True), (1, 200.0), (1, 200, 3), (1, 200, [3, 4]),
     (1, 200, {3: 4}), (1, 200, "ab"), (1, 200, {}, 4)],
)  # fmt: skip
def test_case_17_any_other_tuple_is_json(value: tuple[Any, ...]) -> None:
    encoded = encode(value)
    assert (encoded.status, encoded.headers) == (200, JSON)


@pytest.mark.parametrize(
    "value", [("x", 150), flask.Response(status=100), flask.Response(status=999), flask.Response(status=0)]
)
def test_status_that_cannot_end_a_response(value: Any) -> None:
    with pytest.raises(BadResultError, match="cannot end a response; use 200 to 599"):
        encode(value)


def test_case_17_flask_response_as_it_is() -> None:
    response = flask.Response("<p>", status=201, headers={"X-A": "1"})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    assert encode(response) == Encoded(
        201, b"x-a: 1\r\n" + HTML + b"set-cookie: a=1; Path=/\r\nset-cookie: b=2; Path=/\r\n", b"<p>"
    )


def test_werkzeug_response_as_it_is() -> None:
    assert encode(werkzeug.Response(b"x", mimetype="image/png")) == Encoded(200, b"content-type: image/png\r\n", b"x")


def test_case_17_jsonify_works_in_a_bare_app_context() -> None:
    with flask.Flask("bare").app_context():
        encoded = encode(flask.jsonify(a=1))
    assert encoded == Encoded(200, JSON, b'{"a":1}\n')


def test_response_in_a_tuple_takes_the_new_status_and_headers() -> None:
    response = flask.Response("x", headers={"X-A": "1", "X-B": "1"})
    encoded = encode((response, 202, {"x-a": "2"}))
    assert encoded == Encoded(202, b"x-b: 1\r\n" + HTML + b"x-a: 2\r\n", b"x")
    assert response.headers["X-A"] == "1"


def test_redirect_to_a_non_latin_place() -> None:
    encoded = encode(flask.redirect("/日"))
    assert encoded.status == 302
    assert b"location: /%E6%97%A5\r\n" in encoded.headers


def test_response_without_body_by_status() -> None:
    assert encode(flask.Response("x", status=204)).body == b""
    assert encode(flask.Response("x", status=304)).body == b""


def test_what_is_registered_to_run_on_close_runs() -> None:
    closed = []
    for response in (flask.Response("x"), flask.Response(iter(["x"]), status=204)):
        response.call_on_close(lambda: closed.append(1))
        encode(response)
    assert closed == [1, 1]


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\rb", "a\0b", "a\x7fb"])
def test_case_17_line_breaks_in_a_header_are_refused(value: str) -> None:
    with pytest.raises(BadResultError, match="header 'x-a' holds a line break or control character"):
        encode(("x", 200, {"X-A": value}))
    response = flask.Response("x")
    response.headers._list.append(("x-a", value))  # past werkzeug's own check
    with pytest.raises(BadResultError, match="'x-a'"):
        encode(response)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "a\n"])
def test_bad_header_names_are_refused(name: str) -> None:
    with pytest.raises(BadResultError, match="not a valid name"):
        encode(("x", 200, {name: "1"}))


def test_header_beyond_latin_1_is_refused() -> None:
    with pytest.raises(BadResultError, match="header 'x-a' is not latin-1 text"):
        encode(("x", 200, {"X-A": "日"}))


def test_case_17_headers_of_the_ingress_are_dropped() -> None:
    owned = {
        "Content-Length": "99", "Transfer-Encoding": "chunked", "Connection": "close", "Date": "now",
        "Keep-Alive": "1", "X-Request-Id": "mine", "X-Serve-Reason": "none", "X-Serve-Retriable": "true",
    }  # fmt: skip
    assert encode(("x", 200, {**owned, "X-A": "1"})).headers == TEXT + b"x-a: 1\r\n"


def test_bad_value_in_an_owned_header_is_refused_all_the_same() -> None:
    with pytest.raises(BadResultError):
        encode(("x", 200, {"Content-Length": "1\r\n\r\nx"}))


@pytest.mark.parametrize("value", [Strange(), {"a": Strange()}, ("x", Strange()), (Strange(), 200)])
def test_case_18_unencodable_result_names_the_type(value: Any) -> None:
    with pytest.raises(BadResultError, match=r"type .*\.Strange cannot be encoded"):
        encode(value)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(BadResultError, match="not valid text"):
        encode("\ud800")
