from typing import Any

import flask
import pytest
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

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
    return Request(Open("endpoint", "id", 1000, headers=[("host", "example.org:8000"), *headers], **head), body)


def post(body: bytes, *headers: tuple[str, str]) -> Request:
    return make(body, *headers, ("content-length", str(len(body))), method="POST")


def test_case_16_get_with_a_body() -> None:
    request = make(b'{"x": 1}', JSON, ("content-length", "8"))
    assert request.method == "GET"
    assert request.get_json() == {"x": 1}


def test_case_16_chunked_body_is_read_whole() -> None:
    request = make(b"hello", ("transfer-encoding", "chunked"), method="POST")
    assert request.content_length == 5
    assert request.stream.read() == b"hello"
    environ = make(b"hello", ("transfer-encoding", "chunked"), method="POST").environ
    assert environ["CONTENT_LENGTH"] == "5"  # for apps that know no other way, such as Django
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert flask.Request(environ).get_data() == b"hello"


def test_chunked_form_is_parsed() -> None:
    request = make(b"a=1", FORM, ("transfer-encoding", "chunked"), method="POST")
    assert request.form["a"] == "1"


def test_request_without_body() -> None:
    request = make()
    assert request.content_length is None
    assert request.data == b""
    assert request.form.to_dict() == {}
    assert request.files.to_dict() == {}
    assert request.mimetype == ""
    assert request.args.to_dict() == {}


@pytest.mark.parametrize("body", [b"{bad", b"", b'{"x": 1} y', b'"\xff"', b"[" * 100_000])
def test_bad_json_is_400(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        post(body, JSON).get_json()
    assert post(body, JSON).get_json(silent=True) is None


@pytest.mark.parametrize("body", [b'{"x": NaN}', b'\xef\xbb\xbf{"x": 1}', '{"x": 1}'.encode("utf-16"), b'"\\ud800"'])
def test_json_that_flask_takes_is_taken(body: bytes) -> None:
    flask_request = flask.Request(post(body, JSON).environ)
    assert repr(post(body, JSON).json) == repr(flask_request.json)


def test_json_of_another_content_type_is_415() -> None:
    request = post(b"1", ("content-type", "text/plain"))
    with pytest.raises(UnsupportedMediaType):
        _ = request.json
    assert request.get_json(silent=True) is None
    assert request.get_json(force=True) == 1


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"])
def test_json_content_types(kind: str) -> None:
    assert post(b"1", ("content-type", kind)).get_json() == 1


def test_parsed_json_is_cached_unless_told_not_to() -> None:
    request = post(b'{"x": 1}', JSON)
    assert request.get_json() is request.get_json()
    uncached = post(b'{"x": 1}', JSON)
    assert uncached.get_json(cache=False) == {"x": 1}
    with pytest.raises(BadRequest):  # the stream was used up, as in Flask
        uncached.get_json()


def test_url_encoded_form() -> None:
    request = post(b"a=1&a=2&b=%C3%A9", FORM)
    assert request.form.getlist("a") == ["1", "2"]
    assert request.form["b"] == "é"
    assert request.values["b"] == "é"
    assert request.data == b""


def test_form_is_parsed_after_the_data_was_read() -> None:
    request = post(b"a=1", FORM)
    assert request.get_data() == b"a=1"
    assert request.form["a"] == "1"


def test_multipart_form_and_files() -> None:
    request = post(MULTIPART, ("content-type", "multipart/form-data; boundary=b"))
    assert request.form["a"] == "1"
    assert request.files["f"].filename == "x.txt"
    assert request.files["f"].read() == b"hello"
    request.close()


def test_stream_is_read_once() -> None:
    request = post(b"hello")
    assert request.stream.read(2) == b"he"
    assert request.get_data() == b"llo"
    assert request.stream.read() == b""
    read = post(b"hello")
    assert read.get_data() == b"hello"
    assert read.get_data(as_text=True) == "hello"
    assert read.stream.read() == b""


def test_own_content_limit_is_kept() -> None:
    request = post(b"hello", JSON)
    request.max_content_length = 4
    for _ in range(2):
        with pytest.raises(RequestEntityTooLarge):
            request.get_data()
    with pytest.raises(RequestEntityTooLarge):
        _ = request.stream
