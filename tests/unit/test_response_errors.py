import flask
import pytest
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, HTTPException, MethodNotAllowed, NotFound, ServiceUnavailable, Unauthorized

from rayserve.errors import BadResultError, HTTPError, QueueFullError
from rayserve.response import Encoded, encode_error

TEXT = b"content-type: text/plain; charset=utf-8\r\n"
JSON = b"content-type: application/json\r\n"
HTML = b"content-type: text/html; charset=utf-8\r\n"


class Strange:
    pass


def test_case_18_http_error() -> None:
    encoded = encode_error(HTTPError(422, {"field": "x"}, headers={"X-A": "1"}), "id-1")
    assert encoded.status == 422
    assert encoded.headers == JSON + b"x-a: 1\r\n"
    assert encoded.body == b'{"error":"unprocessable_entity","detail":{"field":"x"},"request_id":"id-1"}'


@pytest.mark.parametrize(("status", "word"), [(404, "not_found"), (418, "im_a_teapot"), (599, "status_599")])
def test_error_word(status: int, word: str) -> None:
    body = encode_error(HTTPError(status), "i").body
    assert body == f'{{"error":"{word}","detail":"","request_id":"i"}}'.encode()


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (BadRequest("no"), 400, JSON),
        (NotFound(), 404, JSON),
        (MethodNotAllowed(["GET", "POST"]), 405, JSON + b"allow: GET, POST\r\n"),
        (Unauthorized(www_authenticate=WWWAuthenticate("basic", {"realm": "a b"})), 401,
         JSON + b'www-authenticate: Basic realm="a b"\r\n'),
        (ServiceUnavailable(retry_after=5), 503, JSON + b"retry-after: 5\r\n"),
        (HTTPException("odd"), 500, JSON),
    ],
)  # fmt: skip
def test_case_18_werkzeug_exceptions(error: HTTPException, status: int, headers: bytes) -> None:
    encoded = encode_error(error, "i")
    assert (encoded.status, encoded.headers) == (status, headers)
    assert isinstance(encoded.body, bytes)
    assert (error.description or "").encode() in encoded.body


def test_aborting_with_a_response_sends_it() -> None:
    with pytest.raises(HTTPException) as caught:
        flask.abort(flask.Response("teapot", status=418))
    assert encode_error(caught.value, "i") == Encoded(418, HTML, b"teapot")


def test_call_error() -> None:
    encoded = encode_error(QueueFullError("the line is full"), "i")
    assert encoded == Encoded(503, JSON, b'{"error":"queue_full","detail":"the line is full","request_id":"i"}')


@pytest.mark.parametrize(
    "error", [HTTPError(400, Strange()), HTTPError(400, headers={"a": "b\r\n"}), HTTPError(100, "no")]
)
def test_error_that_cannot_be_sent(error: HTTPError) -> None:
    with pytest.raises(BadResultError):
        encode_error(error, "i")
