"""The request that `handle.request` is given: what travels, and what is refused (case 30)."""

from typing import Any

import pytest

from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.http_request import HTTPRequest, built


def made(method: str = "GET", path: str | None = None, **options: Any) -> HTTPRequest:
    given = {"params": None, "headers": None, "json": None, "data": None, **options}
    return built(method, path, given["params"], given["headers"], given["json"], given["data"])


def test_a_plain_request_has_a_host_and_nothing_else() -> None:
    assert made() == HTTPRequest("GET", "", b"", [("host", "localhost")], b"")
    assert made("post").headers == [("host", "localhost"), ("content-length", "0")]


@pytest.mark.parametrize(
    ("path", "target", "query"),
    [
        ("/a/b", "/a/b", b""),
        ("/a b/ä", "/a%20b/%C3%A4", b""),
        ("/a%2Fb?x=1&y=%20", "/a%2Fb", b"x=1&y=%20"),
        ("/?q=ä b", "/", b"q=%C3%A4%20b"),
    ],
)
def test_paths_are_encoded_once(path: str, target: str, query: bytes) -> None:
    request = made("GET", path)

    assert (request.target, request.query) == (target, query)


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({"a": 1, "b": "x y"}, b"z=0&a=1&b=x+y"),
        ({"a": [1, 2.5], "n": None, "t": True, "f": False}, b"z=0&a=1&a=2.5&t=true&f=false"),
        ([("a", 1), ("a", "ü")], b"z=0&a=1&a=%C3%BC"),
        ({}, b"z=0"),
    ],
)
def test_params_join_the_query_of_the_path(params: Any, query: bytes) -> None:
    assert made("GET", "/?z=0", params=params).query == query


@pytest.mark.parametrize(
    ("options", "kind", "body"),
    [
        ({"json": {"a": [1, "ä"]}}, "application/json", '{"a":[1,"ä"]}'.encode()),
        ({"json": []}, "application/json", b"[]"),
        ({"data": b"raw"}, "application/octet-stream", b"raw"),
        ({"data": "tëxt"}, "text/plain; charset=utf-8", "tëxt".encode()),
        ({"data": {"a": "1 2", "b": [3, 4]}}, "application/x-www-form-urlencoded", b"a=1+2&b=3&b=4"),
        ({"json": 1, "headers": {"Content-Type": "application/x-own+json"}}, "application/x-own+json", b"1"),
    ],
)
def test_bodies_bring_their_type_and_length(options: dict[str, Any], kind: str, body: bytes) -> None:
    request = made("PUT", "/", **options)
    fields = dict(request.headers)

    assert request.body == body
    assert (fields["content-type"], fields["content-length"]) == (kind, str(len(body)))


def test_header_names_are_lower_cased_and_repeats_survive() -> None:
    request = made("GET", "/", headers=[("X-A", "1"), ("x-a", " 2 "), ("Host", "example.org")])

    assert request.headers == [("x-a", "1"), ("x-a", "2"), ("host", "example.org")]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method": 1}, InvalidTypeError, "method must be a str, got int"),
        ({"method": "GET /"}, InvalidValueError, "method 'GET /'"),
        ({"method": "connect"}, InvalidValueError, "method 'connect'"),
        ({"path": b"/"}, InvalidTypeError, "path must be a str, got bytes"),
        ({"path": "a"}, InvalidValueError, 'must start with "/"'),
        ({"path": "http://host/a"}, InvalidValueError, "without a host"),
        ({"path": "/a#b"}, InvalidValueError, 'without "#"'),
        ({"params": 1}, InvalidTypeError, "params must be a mapping or .* pairs, got int"),
        ({"params": "a=b"}, InvalidTypeError, "params must be a mapping or .* pairs, got str"),
        ({"params": {"a": {}}}, InvalidTypeError, "params 'a' must be text, a number or a list, got dict"),
        ({"params": {1: "a"}}, InvalidTypeError, "a name in params must be a str, got int"),
        ({"headers": {"a": 1}}, InvalidTypeError, "header 'a' must be a str, got int"),
        ({"headers": {"a b": "1"}}, InvalidValueError, "a header named 'a b' cannot be sent"),
        ({"headers": {"a_b": "1"}}, InvalidValueError, "a header named 'a_b' cannot be sent"),
        ({"headers": {"a": "1\r\nb: 2"}}, InvalidValueError, "header 'a' holds a line break"),
        ({"headers": {"a": "日本"}}, InvalidValueError, "header 'a' is not latin-1"),
        ({"headers": {"Content-Length": "1"}}, InvalidValueError, "header 'Content-Length' follows from the body"),
        ({"json": 1, "data": b""}, InvalidValueError, "give json or data, not both"),
        ({"json": {"a": object()}}, InvalidTypeError, "json cannot be sent: .* type object"),
        ({"json": float("nan")}, InvalidTypeError, "json cannot be sent: .* NaN"),
        ({"data": 1}, InvalidTypeError, "data must be bytes, a str, or a mapping for a form, got int"),
        ({"data": ["a"]}, InvalidTypeError, "data must be bytes"),
    ],
)
def test_what_cannot_be_sent_is_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        made(**{"method": "GET", "path": "/", **options})
