"""One connection, driven by hand: what sockets cannot show exactly."""

import math
from unittest.mock import Mock

import pytest
from tests.unit.fake_client import FakeClient, answer

from rayserve.ingress import reading
from rayserve.ingress.head import parse_head
from rayserve.wire.heads import Failure

GET = b"GET /x HTTP/1.1\r\nHost: t\r\n\r\n"
NOWHERE = b"GET /y HTTP/1.1\r\nHost: t\r\n\r\n"


def test_a_flood_is_served_in_turns() -> None:
    client = FakeClient()
    client.connection.data_received(NOWHERE * 150)

    assert client.take().count(b"HTTP/1.1 404") == 64
    assert not client.transport.reading  # the next bytes wait in the kernel
    client.loop.turn()
    assert client.take().count(b"HTTP/1.1 404") == 64
    client.loop.turn()
    assert client.take().count(b"HTTP/1.1 404") == 22
    assert client.transport.reading
    client.loop.turn()
    assert not client.loop.soon


def test_reading_pauses_at_sixteen_requests_and_goes_on_when_the_rest_is_begun() -> None:
    client = FakeClient()
    client.connection.data_received(GET * 18)

    assert len(client.router.calls) == 16
    assert not client.transport.reading
    answer(client.router.calls[0], b"")
    assert (len(client.router.calls), client.transport.reading) == (17, False)
    answer(client.router.calls[1], b"")
    assert (len(client.router.calls), client.transport.reading) == (18, True)


def test_reading_pauses_while_the_client_takes_no_answers() -> None:
    client = FakeClient()
    client.connection.pause_writing()
    client.connection.data_received(GET)

    assert not client.router.calls
    assert not client.transport.reading
    client.connection.resume_writing()
    assert len(client.router.calls) == 1
    assert client.transport.reading


def test_a_head_that_comes_again_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Mock(wraps=parse_head)
    monkeypatch.setattr(reading, "parse_head", judge)
    client = FakeClient()
    long = GET[:-2] + b"X: " + b"x" * 2048 + b"\r\n\r\n"
    for raw in (GET, GET, NOWHERE, NOWHERE, GET, long, long):
        client.connection.data_received(raw)
        if raw != NOWHERE:
            answer(client.router.calls[-1], b"")

    assert [call.args[0] for call in judge.call_args_list] == [GET, NOWHERE, GET, long, long]
    assert len(client.router.calls) == 5
    assert client.take().count(b"HTTP/1.1 404") == 2
    assert [call.head.target for call in client.router.calls] == ["/x"] * 5


def test_a_head_that_comes_again_has_a_body_of_its_own() -> None:
    client = FakeClient()
    post = GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 3\r\n\r\n"
    for body in (b"one", b"two"):
        client.connection.data_received(post + body)
        answer(client.router.calls[-1], b"")

    assert [bytes(call.body) for call in client.router.calls] == [b"one", b"two"]
    assert len({call.request_id for call in client.router.calls}) == 2


def test_a_head_that_drips_is_checked_at_its_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(reading, "check_partial", lambda buffer, limits: checked.append(bytes(buffer)))
    client = FakeClient()
    for position in range(len(GET) - 1):
        client.connection.data_received(GET[position : position + 1])
    client.connection.data_received(GET[-1:])

    assert checked == [b"G", GET[:17], GET[:26]]
    assert len(client.router.calls) == 1


def test_a_long_line_that_drips_is_still_bounded() -> None:
    client = FakeClient()
    for _ in range(13_000):
        client.connection.data_received(b"G")

    assert b" 414 " in client.take()


def test_the_time_of_a_head_ends_with_it_though_it_cannot_be_served_yet() -> None:
    client = FakeClient()
    client.connection.data_received(GET * 16 + GET[:9])
    client.connection.data_received(GET[9:])
    client.later(20)

    assert not client.take()
    assert client.transport.state == "open"


def test_answers_of_a_draining_connection_close_it_behind_the_last() -> None:
    client = FakeClient()
    client.connection.data_received(GET * 2)
    client.connection.drain()
    answer(client.router.calls[0], b"first")
    assert b"connection: close" not in client.take()
    answer(client.router.calls[1], b"second")

    assert b"connection: close" in client.take()
    assert client.transport.state == "closed"


def test_an_idle_connection_serves_once_more_while_draining() -> None:
    client = FakeClient()
    client.site.drain()
    client.connection.drain()
    client.connection.data_received(GET)
    answer(client.router.calls[0], b"last")

    assert b"connection: close" in client.take()
    assert client.transport.state == "closed"


@pytest.mark.parametrize(("body", "size", "end"), [(b"long", 3, True), (b"sh", 3, True), (b"long", 3, False)])
def test_a_replica_that_belies_its_length_at_once_is_500(body: bytes, size: int, end: bool) -> None:
    client = FakeClient()
    client.connection.data_received(GET)
    answer(client.router.calls[0], body, size, end)

    sent = client.take()
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert b"x-serve-reason: internal" in sent
    assert client.router.abandoned == client.router.calls


def test_an_answer_that_cannot_be_rendered_may_still_become_an_error() -> None:
    client = FakeClient()
    client.connection.data_received(GET)
    with pytest.raises(KeyError):
        answer(client.router.calls[0], b"", status=700)
    client.router.calls[0].failed(Failure("internal", "what its replica sent could not be used"), b"")

    assert client.take().startswith(b"HTTP/1.1 500 ")
    assert client.transport.state == "open"


@pytest.mark.parametrize(("piece", "end"), [(b"long", False), (b"s", True)])
def test_a_replica_that_belies_its_length_later_breaks_the_connection(piece: bytes, end: bool) -> None:
    client = FakeClient()
    client.connection.data_received(GET)
    answer(client.router.calls[0], b"x", 3, end=False)
    client.router.calls[0].data(piece, end)

    assert client.take().endswith(b"\r\n\r\nx")
    assert client.transport.state == "closed"
    assert client.router.abandoned == client.router.calls


def test_a_stream_is_sent_in_chunks() -> None:
    client = FakeClient()
    client.connection.data_received(GET)
    call = client.router.calls[0]
    answer(call, b"first", -1, end=False)
    call.data(b"second", False)
    call.data(b"", False)
    call.data(b"x" * 20_000, True)
    client.loop.turn()

    sent = client.take().partition(b"\r\n\r\n")[2]
    assert sent == b"5\r\nfirst\r\n6\r\nsecond\r\n4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n"
    assert client.router.granted == 20_006


def test_chunks_of_one_turn_of_the_loop_leave_in_one_write() -> None:
    client = FakeClient()
    client.connection.data_received(GET)
    call = client.router.calls[0]
    answer(call, b"first", -1, end=False)
    before = client.transport.writes
    for chunk in (b"a", b"b", b"c"):
        call.data(chunk, False)
    assert client.transport.writes == before
    client.loop.turn()
    assert client.transport.writes == before + 1
    call.data(b"d", False)
    call.failed(Failure("replica_lost", "gone"), b"")

    assert client.take().endswith(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n1\r\nd\r\n"), "what came before the cut is sent"
    assert client.transport.state == "closed"
    client.loop.turn()
    assert client.take() == b""


def test_a_stream_of_one_frame_is_chunked_too() -> None:
    client = FakeClient()
    client.connection.data_received(GET)
    answer(client.router.calls[0], b"all", -1)

    assert client.take().endswith(b"\r\n\r\n3\r\nall\r\n0\r\n\r\n")


def test_credit_is_returned_only_while_the_client_takes_its_answer() -> None:
    client = FakeClient()
    client.connection.data_received(GET * 2)
    first, second = client.router.calls
    answer(second, b"", 10, end=False)
    second.data(b"12345", False)
    answer(first, b"", 10, end=False)
    client.connection.pause_writing()
    first.data(b"1234567890", True)
    assert client.router.granted == 0
    client.connection.resume_writing()

    assert client.router.granted == 5  # the second's; the first has ended


def test_an_answer_that_fails_before_its_turn_is_replaced_whole() -> None:
    client = FakeClient()
    client.connection.data_received(GET * 2)
    first, second = client.router.calls
    answer(second, b"begun", 10, end=False)
    second.failed(Failure("replica_lost", "gone"), b"")
    answer(first, b"first")

    sent = client.take()
    assert sent.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 502 " in sent
    assert b"begun" not in sent


def test_the_queue_is_given_up_with_the_connection() -> None:
    client = FakeClient()
    client.connection.data_received(GET + b"POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nbody")
    assert client.site.held == 4
    client.connection.connection_lost(None)

    assert len(client.router.abandoned) == 2
    assert (client.site.held, len(client.clock.watched)) == (0, 0)


def test_the_access_log_knows_who_left() -> None:
    client = FakeClient()
    lines: list[str] = []
    client.site.log = lines.append
    client.connection.data_received(GET * 2 + NOWHERE)
    answer(client.router.calls[0], b"")
    client.connection.connection_lost(None)

    assert [line.split()[3] for line in lines] == ["200", "499", "404"]


def test_a_connection_has_no_limit_while_a_call_is_under_way() -> None:
    client = FakeClient()
    client.connection.data_received(GET)
    client.later(10_000)

    assert (client.connection.due, client.transport.state) == (math.inf, "open")


def test_a_refused_client_has_two_seconds_to_send_the_rest() -> None:
    client = FakeClient()
    client.connection.data_received(b"nonsense\r\n\r\n")
    assert client.transport.state == "eof"
    client.connection.data_received(b"more" * 1000)
    client.later(1.5)
    assert client.transport.state == "eof"
    client.later(1)

    assert client.transport.state == "aborted"
    assert client.take().count(b"\r\ndate: ") == 1


def test_bytes_behind_a_close_make_it_linger() -> None:
    client = FakeClient()
    client.connection.data_received(b"GET /x HTTP/1.0\r\n\r\n")
    client.connection.data_received(b"more")
    answer(client.router.calls[0], b"body")

    assert client.transport.state == "eof"
