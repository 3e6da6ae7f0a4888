"""The answer that `handle.request` gives (case 30)."""

import pickle

import pytest

from rayserve.errors import HTTPError
from rayserve.http_response import HTTPResponse, parsed_headers


def response(status: int = 200, content: bytes = b"", headers: bytes = b"") -> HTTPResponse:
    return HTTPResponse(status, parsed_headers(headers), content)


def test_headers_are_found_in_any_case_and_repeats_survive() -> None:
    headers = response(
        headers=b"content-type: text/plain\r\nset-cookie: a=1\r\nset-cookie: b: 2\r\nx-empty: \r\n"
    ).headers

    assert headers["Content-Type"] == "text/plain"
    assert headers.getlist("SET-COOKIE") == ["a=1", "b: 2"]
    assert headers["x-empty"] == ""
    assert "x-other" not in headers


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        (b"", "ä".encode(), "ä"),
        (b"content-type: text/plain; charset=latin-1\r\n", "ä".encode("latin-1"), "ä"),
        (b"content-type: text/plain; charset=klingon\r\n", "ä".encode(), "ä"),
        (b"", b"\xff", "\ufffd"),
    ],
)
def test_text_goes_by_the_charset(kind: bytes, content: bytes, text: str) -> None:
    assert response(200, content, kind).text == text


def test_json_is_parsed_or_a_value_error() -> None:
    assert response(200, b'{"a": 1}').json() == {"a": 1}
    with pytest.raises(ValueError, match="Expecting value"):
        response(200, b"nope").json()


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b'{"error": "not_found", "detail": "no cat", "request_id": "r"}', "no cat"),
        (b'{"own": 1}', {"own": 1}),
        (b"plain words", "plain words"),
        (b"[1]", [1]),
        (b"", ""),
    ],
)
def test_an_error_status_can_be_raised_on(content: bytes, detail: object) -> None:
    with pytest.raises(HTTPError) as raised:
        response(404, content).raise_for_status()

    assert (raised.value.status, raised.value.detail) == (404, detail)


def test_a_good_status_is_returned_and_all_of_it_pickles() -> None:
    good = response(302, b"x", b"location: /b\r\n")
    copy = pickle.loads(pickle.dumps(good))

    assert good.raise_for_status() is good
    assert (copy.status_code, copy.headers["location"], copy.content) == (302, "/b", b"x")
    assert repr(good) == "<HTTPResponse 302: no content type, 1 bytes>"
