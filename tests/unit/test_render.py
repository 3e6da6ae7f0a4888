"""Answers as bytes: which framing each answer gets, who may keep the connection, and our own errors."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.errors import REASONS
from rayserve.ingress import render

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def rendered(
    status: int = 200,
    block: bytes = b"",
    *,
    length: int | None = None,
    chunked: bool = False,
    keep_alive: bool = True,
    version: tuple[int, int] = (1, 1),
    backend: str | None = None,
) -> bytes:
    return render.head(
        status,
        block,
        content_length=length,
        chunked=chunked,
        keep_alive=keep_alive,
        version=version,
        request_id="p-1",
        backend=backend,
        date=DATE,
    )


def fields_of(answer: bytes) -> dict[str, str]:
    """Return the fields of an answer, names as sent; a name sent twice fails."""
    head, _, _ = answer.partition(b"\r\n\r\n")
    pairs = [line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:]]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name: value for name, value in pairs}


def test_head_of_a_plain_answer() -> None:
    answer = rendered(200, b"content-type: text/plain\r\nx-a: 1\r\nx-a: 2\r\n", length=5, backend="double")
    assert answer == (
        b"HTTP/1.1 200 OK\r\n"
        b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        b"content-length: 5\r\n"
        b"content-type: text/plain\r\nx-a: 1\r\nx-a: 2\r\n"
        b"x-request-id: p-1\r\n"
        b"x-serve-backend: double\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize("status", range(100, 600))
def test_status_lines(status: int) -> None:  # RFC 9112 section 4: the reason may be empty, the space before it not
    line, _, _ = rendered(status).partition(b"\r\n")
    known = status in set(HTTPStatus)
    assert line == f"HTTP/1.1 {status} {HTTPStatus(status).phrase if known else ''}".encode()


# Length, chunked, version -> fields. RFC 9112 section 6.
FRAMING = [
    (5, False, (1, 1), {"content-length": "5"}),
    (0, False, (1, 1), {"content-length": "0"}),
    (5, True, (1, 1), {"content-length": "5"}),
    (None, True, (1, 1), {"transfer-encoding": "chunked"}),
    (None, False, (1, 1), {"connection": "close"}),
    (5, False, (1, 0), {"content-length": "5", "connection": "keep-alive"}),
    (5, True, (1, 0), {"content-length": "5", "connection": "keep-alive"}),
    (None, True, (1, 0), {"connection": "close"}),
    (None, False, (1, 0), {"connection": "close"}),
]


@pytest.mark.parametrize(("length", "chunked", "version", "fields"), FRAMING)
def test_case_17_content_length_or_chunked_never_both(
    length: int | None, chunked: bool, version: tuple[int, int], fields: dict[str, str]
) -> None:
    sent = fields_of(rendered(length=length, chunked=chunked, version=version))
    assert sent == {"date": DATE.decode(), "x-request-id": "p-1", **fields}
    assert render.closes(200, length, chunked, version) is (fields.get("connection") == "close")


def test_case_17_http_1_0_streams_end_by_close() -> None:
    assert render.closes(200, None, True, (1, 0))
    assert not render.closes(200, None, True, (1, 1))
    assert b"transfer-encoding" not in rendered(chunked=True, version=(1, 0))
    assert b"connection: close\r\n" in rendered(chunked=True, version=(1, 0))


@pytest.mark.parametrize("status", [100, 101, 103, 199, 204, 304])
@pytest.mark.parametrize(("length", "chunked"), [(0, False), (5, False), (None, True), (None, False)])
def test_case_17_204_and_304_have_neither(status: int, length: int | None, chunked: bool) -> None:
    sent = fields_of(rendered(status, length=length, chunked=chunked))
    assert "content-length" not in sent  # RFC 9110 section 8.6
    assert "transfer-encoding" not in sent  # RFC 9112 section 6.1
    assert "connection" not in sent
    assert not render.has_body(status)
    assert not render.closes(status, length, chunked, (1, 1))


@pytest.mark.parametrize("version", [(1, 0), (1, 1)])
@pytest.mark.parametrize("status", [200, 204, 404])
def test_connection_close_when_closing(version: tuple[int, int], status: int) -> None:  # RFC 9112 section 9.6
    assert fields_of(rendered(status, length=5, keep_alive=False, version=version))["connection"] == "close"


def test_case_17_the_ingress_owns_its_fields() -> None:
    sent = fields_of(rendered(length=5, backend="b"))
    assert sorted(sent) == ["content-length", "date", "x-request-id", "x-serve-backend"]
    assert "server" not in fields_of(rendered(length=5))
    assert "x-serve-backend" not in fields_of(rendered(length=5))


def test_an_interim_answer_says_nothing_about_the_connection() -> None:
    assert b"connection" not in rendered(103, keep_alive=False)
    assert render.CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"  # RFC 9110 section 15.2.1


def test_dates() -> None:  # RFC 9110 section 5.6.7
    assert render.http_date(784111777) == DATE
    assert render.http_date(784111777.999) == DATE
    assert render.http_date(0) == b"Thu, 01 Jan 1970 00:00:00 GMT"


@given(st.integers(0, 4_102_444_800))
def test_any_date_reads_back(now: int) -> None:
    assert parsedate_to_datetime(render.http_date(now).decode()) == datetime.fromtimestamp(now, UTC)


@given(
    status=st.integers(200, 599),
    body=st.binary(max_size=50),
    known=st.booleans(),
    keep_alive=st.booleans(),
    version=st.sampled_from([(1, 0), (1, 1)]),
)
def test_h11_reads_the_answer(
    status: int, body: bytes, known: bool, keep_alive: bool, version: tuple[int, int]
) -> None:
    length = len(body) if known else None
    answer = rendered(status, b"x-a: b\r\n", length=length, chunked=True, keep_alive=keep_alive, version=version)
    if render.has_body(status):
        if known or version == (1, 0):
            answer += body
        else:
            answer += (render.chunk_size(len(body)) + body + b"\r\n" if body else b"") + render.LAST_CHUNK
    else:
        body = b""
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(answer)
    response = peer.next_event()
    assert isinstance(response, h11.Response)
    assert (response.status_code, dict(response.headers)[b"x-a"]) == (status, b"b")
    if render.closes(status, length, True, version):
        peer.receive_data(b"")
    read = b""
    while isinstance(event := peer.next_event(), h11.Data):
        read += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert read == body
    kept = keep_alive and not render.closes(status, length, True, version)
    assert (peer.their_state is h11.DONE) is kept


# -- errors -------------------------------------------------------------------------------------------


def failed(
    status: int = 503,
    reason: str = "queue_full",
    detail: str = "the line is full",
    *,
    keep_alive: bool = True,
    version: tuple[int, int] = (1, 1),
    headers: bytes = b"",
    body: bytes = b"",
    retry_after_s: int = 0,
    bare: bool = False,
    backend: str | None = None,
) -> bytes:
    return render.error(
        status,
        reason,
        detail,
        REASONS[reason].retriable,
        "p-1",
        keep_alive=keep_alive,
        version=version,
        date=DATE,
        headers=headers,
        body=body,
        retry_after_s=retry_after_s,
        bare=bare,
        backend=backend,
    )


@pytest.mark.parametrize("reason", REASONS)
def test_errors_carry_our_markers(reason: str) -> None:
    answer = failed(REASONS[reason].status, reason, "what happened", backend="b")
    sent = fields_of(answer)
    body = answer.partition(b"\r\n\r\n")[2]
    assert sent == {
        "date": DATE.decode(),
        "content-length": str(len(body)),
        "content-type": "application/json",
        "x-serve-reason": reason,
        "x-serve-retriable": REASONS[reason].retriable,
        "x-serve-backend": "b",
        "x-request-id": "p-1",
    }
    assert json.loads(body) == {"error": reason, "detail": "what happened", "request_id": "p-1"}


def test_errors_with_retry_after_and_allow() -> None:
    assert fields_of(failed(retry_after_s=7))["retry-after"] == "7"
    assert "retry-after" not in fields_of(failed())
    sent = fields_of(failed(405, "method_not_allowed", headers=b"allow: GET, HEAD\r\n"))
    assert (sent["allow"], sent["content-type"]) == ("GET, HEAD", "application/json")


def test_an_error_may_bring_its_own_body_and_type() -> None:
    answer = failed(body=b'["a"]', headers=b"Content-Type: application/problem+json\r\n")
    assert answer.endswith(b"\r\n\r\n" + b'["a"]')
    sent = fields_of(answer)
    assert (sent["Content-Type"], sent["content-length"]) == ("application/problem+json", "5")
    assert "content-type" not in sent


def test_case_15_an_error_for_head_is_the_one_for_get_without_its_body() -> None:  # RFC 9110 section 9.3.2
    whole = failed(404, "not_found")
    head, blank, body = whole.partition(b"\r\n\r\n")
    assert body
    assert failed(404, "not_found", bare=True) == head + blank


def test_a_refused_connection_is_told_that_it_closes() -> None:
    assert fields_of(failed(400, "bad_request", keep_alive=False))["connection"] == "close"
    assert fields_of(failed(version=(1, 0)))["connection"] == "keep-alive"


@given(st.text(max_size=40))
def test_any_detail_is_escaped(detail: str) -> None:
    answer = failed(detail=detail)
    body = answer.partition(b"\r\n\r\n")[2]
    assert fields_of(answer)["content-length"] == str(len(body))
    assert json.loads(body)["detail"] == detail
    assert b"\r" not in body
    assert b"\n" not in body


def test_a_lone_surrogate_is_shown_not_raised() -> None:
    body = failed(detail="a\udc80b").partition(b"\r\n\r\n")[2]
    assert json.loads(body)["detail"] == "a\\udc80b"


def test_an_error_status_without_a_body_has_none() -> None:
    assert failed(304, "bad_result").endswith(b"\r\n\r\n")


def test_no_head_stands_for_an_unread_one() -> None:
    assert (render.NO_HEAD.version, render.NO_HEAD.keep_alive, render.NO_HEAD.method) == ((1, 1), False, "-")
