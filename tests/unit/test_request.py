import gc
import weakref
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.request import Request
from rayserve.wire.heads import Open

JSON = ("content-type", "application/json")
FORM = ("content-type", "application/x-www-form-urlencoded")
MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b"hello\r\n--b--\r\n"
)


def make(body: bytes = b"", *headers: tuple[str, str], **head: Any) -> Request:
    head.setdefault("client", "10.1.2.3:5555")
    return Request(Open("endpoint", "id", 1000, headers=[("host", "example.org:8000"), *headers], **head), body)


def post(body: bytes, *headers: tuple[str, str]) -> Request:
    return make(body, *headers, ("content-length", str(len(body))), method="POST")


def test_case_16_handler_sees_a_real_flask_request() -> None:
    request = make(b'{"x": 1}', JSON, ("content-length", "8"), method="POST", target="/a/b", query=b"q=1&q=2")
    assert isinstance(request, flask.Request)
    assert request.method == "POST"
    assert request.args.getlist("q") == ["1", "2"]
    assert request.json == request.get_json() == {"x": 1}
    assert request.data == request.get_data() == b'{"x": 1}'
    assert request.path == "/a/b"
    assert request.full_path == "/a/b?q=1&q=2"
    assert request.url == "http://example.org:8000/a/b?q=1&q=2"
    assert request.base_url == "http://example.org:8000/a/b"
    assert request.host == "example.org:8000"
    assert request.host_url == request.root_url == request.url_root == "http://example.org:8000/"
    assert request.remote_addr == "10.1.2.3"
    assert request.access_route == ["10.1.2.3"]
    assert request.content_length == 8
    assert request.mimetype == "application/json"
    assert request.is_json
    assert request.query_string == b"q=1&q=2"
    assert request.scheme == "http"
    assert not request.is_secure
    assert request.root_path == request.script_root == ""
    assert request.shallow is False
    assert repr(request) == "<Request 'http://example.org:8000/a/b?q=1&q=2' [POST]>"


def test_nothing_is_computed_before_it_is_touched() -> None:
    request = post(b"1", JSON)
    assert set(vars(request)) == {"_open", "_body", "view_args"}
    request.get_json()
    assert not {"headers", "environ", "stream", "form"} & set(vars(request))


def test_flask_attributes_about_routing_are_empty_but_there() -> None:
    request = make()
    assert request.url_rule is None
    assert request.endpoint is None
    assert request.blueprint is None
    assert request.blueprints == []
    assert request.routing_exception is None


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Request' object has no attribute 'query_params'"):
        _ = make().query_params


def test_case_16_repeated_headers_survive() -> None:
    headers = make(b"", ("x-a", "1"), ("x-b", "x"), ("x-a", "2")).headers
    assert headers.getlist("X-A") == ["1", "2"]
    assert headers["x-a"] == headers.get("X-a") == "1, 2"
    assert [pair for pair in headers if pair[0] == "X-A"] == [("X-A", "1"), ("X-A", "2")]
    assert headers.__contains__("X-B")
    assert not headers.__contains__("x-c")
    assert headers.get("x-c") is None
    assert headers.get("x-b", type=int) is None
    assert len(headers) == 4
    with pytest.raises(KeyError):
        headers["x-c"]
    with pytest.raises(TypeError):
        headers["x-a"] = "3"


def test_repeated_fields_that_may_stand_once_keep_the_first() -> None:
    request = make(b"", ("user-agent", "a"), ("user-agent", "b"))
    assert request.headers["user-agent"] == "a"
    assert request.user_agent.string == "a"


def test_dict_of_headers_has_the_names_of_flask() -> None:
    assert dict(make(b"", ("x-request-id", "7")).headers)["X-Request-Id"] == "7"


def test_headers_parsed_by_werkzeug() -> None:
    request = make(
        b"",
        ("cookie", "a=1; b=2"),
        ("cookie", "c=3"),
        ("authorization", "Basic dXNlcjpwYXNz"),
        ("accept", "text/html"),
        ("accept", "application/json;q=0.5"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2, 3.3.3.3"),
    )
    assert request.cookies.to_dict() == {"a": "1", "b": "2", "c": "3"}
    assert request.authorization is not None
    assert (request.authorization.username, request.authorization.password) == ("user", "pass")
    assert request.accept_mimetypes.best == "text/html"
    assert request.accept_mimetypes.quality("application/json") == 0.5
    assert request.access_route == ["1.1.1.1", "2.2.2.2", "3.3.3.3"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%20b", "/a b"),
        ("/%E6%97%A5%E6%9C%AC", "/日本"),
        ("/\xe6\x97\xa5", "/日"),
        ("/%FF", "/\ufffd"),
        ("//a", "/a"),
        ("/a%2Fb", "/a/b"),
    ],
)
def test_case_16_percent_encoded_and_non_latin_paths(target: str, path: str) -> None:
    request = make(target=target)
    assert request.path == path
    assert flask.Request(request.environ).path == path


def test_case_16_plain_handler_under_a_mount_sees_the_full_path() -> None:
    request = make(target="/files/a/b", params={"path": "a/b"}, root="/files")
    assert request.path == "/files/a/b"
    assert request.view_args == {"path": "a/b"}
    assert request.script_root == ""
    assert request.url == "http://example.org:8000/files/a/b"


def test_raw_bytes_in_the_query_do_no_harm() -> None:
    request = make(target="/a", query=b"a=\xff&b=\xc3\xa9&c=%FF")
    assert request.args.to_dict() == {"a": "%FF", "b": "é", "c": "%FF"}
    assert request.full_path == "/a?a=%FF&b=é&c=%FF"
    assert request.url == "http://example.org:8000/a?a=%FF&b=é&c=%FF"


@pytest.mark.parametrize(
    ("client", "address"),
    [("1.2.3.4:5", "1.2.3.4"), ("[::1]:5", "::1"), ("::1:5", "::1"), ("", None)],
)
def test_remote_addr(client: str, address: str | None) -> None:
    assert make(client=client).remote_addr == address


def test_http_1_0_need_not_name_a_host() -> None:
    request = Request(Open("e", "id", 1, target="/a", http_version="1.0"))
    assert request.url == "http://localhost/a"
    assert request.environ["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_https() -> None:
    request = Request(Open("e", "id", 1, target="/a", scheme="https", headers=[("host", "h")]))
    assert request.is_secure
    assert request.url == "https://h/a"
    assert request.environ["SERVER_PORT"] == "443"


def test_environ_is_complete() -> None:
    request = make(
        b"hi",
        ("x-a", "1"),
        ("x-a", "2"),
        ("content-type", "text/plain"),
        ("content-length", "2"),
        method="PUT",
        target="/%C3%A9",
        query=b"q=1",
    )
    environ = request.environ
    assert environ is request.environ
    expected = {
        "REQUEST_METHOD": "PUT", "SCRIPT_NAME": "", "PATH_INFO": "/Ã©", "QUERY_STRING": "q=1",
        "REQUEST_URI": "/%C3%A9?q=1",
        "SERVER_NAME": "example.org", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "10.1.2.3",
        "REMOTE_PORT": "5555", "CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "2", "HTTP_HOST": "example.org:8000",
        "HTTP_X_A": "1, 2", "wsgi.url_scheme": "http", "wsgi.version": (1, 0), "wsgi.input_terminated": True,
        "wsgi.run_once": False,
    }  # fmt: skip
    assert {name: environ[name] for name in expected} == expected
    assert "HTTP_CONTENT_TYPE" not in environ
    assert environ["wsgi.input"] is request.input_stream
    assert environ["wsgi.input"].read() == b"hi"


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
_SAME = ("method", "path", "full_path", "url", "base_url", "host", "remote_addr", "args", "cookies", "mimetype", "data",
         "query_string", "content_length", "is_json", "scheme", "root_path", "access_route")  # fmt: skip


@given(
    target=st.binary(max_size=12).map(lambda raw: "/" + "".join(f"%{byte:02X}" for byte in raw)) | st.just("/a"),
    query=st.lists(st.tuples(_TEXT, _TEXT), max_size=3),
    cookies=st.lists(st.from_regex(r"[a-z]{1,3}=[a-z]{0,3}", fullmatch=True), max_size=3),
    kind=st.sampled_from(["", "application/json", "text/plain; charset=utf-8", FORM[1]]),
    body=st.binary(max_size=8),
)
def test_every_answer_is_that_of_flask_on_the_same_environ(
    target: str, query: list[tuple[str, str]], cookies: list[str], kind: str, body: bytes
) -> None:
    headers = [("cookie", cookie) for cookie in cookies] + ([("content-type", kind)] if kind else [])

    def build() -> Request:
        head = {"method": "POST", "target": target, "query": urlencode(query).encode()}
        return make(body, *headers, ("content-length", str(len(body))), **head)

    ours, theirs = build(), flask.Request(build().environ)
    assert {name: getattr(ours, name) for name in _SAME} == {name: getattr(theirs, name) for name in _SAME}


def touch_everything(request: Request) -> None:
    for name in dir(request):
        if not name.startswith("__") and name not in ("json", "application", "from_values"):
            getattr(request, name)
    request.get_json(silent=True)
    repr(request)
    request.close()  # the uploaded file


@pytest.mark.parametrize("touch", [lambda request: None, touch_everything])
def test_request_is_freed_without_the_collector(touch: Callable[[Request], None]) -> None:
    gc.collect()
    gc.disable()
    try:
        request = post(MULTIPART, ("content-type", "multipart/form-data; boundary=b"), ("cookie", "a=1"))
        touch(request)
        seen = weakref.ref(request)
        del request
        assert seen() is None
    finally:
        gc.enable()


def test_setting_an_attribute_wins_over_computing_it() -> None:
    request = make()
    request.path = "/other"
    request.stream = BytesIO(b"x")
    assert (request.path, request.stream.read()) == ("/other", b"x")
