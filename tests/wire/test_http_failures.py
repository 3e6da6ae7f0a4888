"""Case 18: what goes wrong in a handler, and the marks that our own errors carry."""

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import werkzeug.exceptions
from tests.wire.http_client import Client, Reply, request
from tests.wire.mini import Mini

from rayserve.errors import REASONS, HTTPError, QueueFullError


class Strange:
    pass


def boom(request: Any) -> str:
    raise ValueError("secret of the handler")


def http_error(request: Any) -> str:
    raise HTTPError(418, {"a": "teapot"}, {"X-A": "b"})


def abort(request: Any) -> str:
    raise werkzeug.exceptions.NotFound("no such item")


def system_exit(request: Any) -> str:
    sys.exit(3)


def strange(request: Any) -> Any:
    return Strange()


def nan(request: Any) -> Any:
    return {"x": float("nan")}


def fine(request: Any) -> str:
    return "fine"


def nested(request: Any) -> str:
    raise QueueFullError("backend 'deeper': 3 calls wait already")


HANDLERS = (boom, http_error, abort, system_exit, strange, nan, nested, fine)


@pytest.fixture(scope="module")
def mini() -> Iterator[Mini]:
    with Mini() as running:
        # One replica of one backend for all of them: each failure is followed by a success of the same replica.
        def handler(request: Any) -> Any:
            return next(each for each in HANDLERS if request.path.endswith(each.__name__))(request)

        running.backend("b", handler).endpoint("e", "/plain/*", {"b": 1.0})
        running.endpoint("debug", "/debug/*", {"b": 1.0}, debug=True)
        running.endpoint("quiet", "/quiet/*", {"b": 1.0}, expose_backend=False).publish()
        yield running


def ask(mini: Mini, path: str, *fields: str) -> Reply:
    """Return the answer to one request; another one on the same connection must succeed."""
    with Client(mini.port) as client:
        answer = client.get(path, *fields).answer()
        assert client.get("/plain/fine").answer().body == b"fine"
    return answer


def assert_marked(answer: Reply, reason: str) -> None:
    assert answer.status == REASONS[reason].status
    assert answer["x-serve-reason"] == reason
    assert answer["x-serve-retriable"] == REASONS[reason].retriable
    assert answer["content-type"] == "application/json"
    error = answer.json()
    assert (error["error"], error["request_id"]) == (reason, answer["x-request-id"])
    assert set(error) == {"error", "detail", "request_id"}


def test_case_18_an_exception_is_500_without_a_word_of_it(mini: Mini) -> None:
    answer = ask(mini, "/plain/boom")

    assert_marked(answer, "user_exception")
    assert "secret" not in answer.body.decode()
    assert "ValueError" in answer.json()["detail"]
    assert answer["x-serve-backend"] == "b"


def test_case_18_debug_shows_the_traceback(mini: Mini) -> None:
    answer = ask(mini, "/debug/boom")

    assert_marked(answer, "user_exception")
    detail = answer.json()["detail"]
    assert detail.startswith("Traceback")
    assert detail.endswith("ValueError: secret of the handler\n")
    assert "in boom" in detail


def test_a_refused_nested_call_does_not_promise_that_nothing_was_started(mini: Mini) -> None:
    answer = ask(mini, "/plain/nested")

    assert (answer.status, answer.reason, answer["x-serve-retriable"]) == (503, "queue_full", "unknown")


def test_case_18_http_errors_are_the_handlers_own_answer(mini: Mini) -> None:
    answer = ask(mini, "/plain/http_error")

    assert (answer.status, answer["x-a"]) == (418, "b")
    assert "teapot" in answer.body.decode()
    assert answer.reason is answer.get("x-serve-retriable") is None


def test_case_18_werkzeug_errors_have_their_status(mini: Mini) -> None:
    answer = ask(mini, "/plain/abort")

    assert answer.status == 404
    assert "no such item" in answer.body.decode()
    assert answer.reason is None


def test_case_18_what_cannot_be_encoded_is_named(mini: Mini) -> None:
    answer = ask(mini, "/plain/strange")

    assert_marked(answer, "bad_result")
    assert "Strange" in answer.json()["detail"]


def test_case_17_nan_is_500_and_says_so(mini: Mini) -> None:
    answer = ask(mini, "/plain/nan")

    assert_marked(answer, "bad_result")
    assert "NaN" in answer.json()["detail"]


def test_case_18_sys_exit_is_500_and_the_replica_lives(mini: Mini) -> None:
    assert_marked(ask(mini, "/plain/system_exit"), "user_exception")


def test_case_18_errors_answer_head_with_their_head_only(mini: Mini) -> None:
    with Client(mini.port) as client:
        answer = client.send(request("HEAD", "/plain/boom")).answer("HEAD")
        assert client.get("/plain/fine").answer().body == b"fine"

    assert (answer.status, answer.reason) == (500, "user_exception")


def test_case_18_a_handler_that_blocks_is_504_while_the_other_replica_serves() -> None:
    gate, blocked = threading.Event(), threading.Semaphore(0)

    def handler(request: Any) -> str:
        if request.path == "/x/block":
            blocked.release()
            gate.wait(30)
        return "served"

    with Mini() as mini:
        mini.backend("b", handler, {"max_concurrent_queries": 1}, replicas=2)
        mini.endpoint("e", "/x/*", {"b": 1.0}, timeout_s=0.3).publish()
        with Client(mini.port) as stuck, Client(mini.port) as other:
            began = time.monotonic()
            stuck.get("/x/block")
            assert blocked.acquire(timeout=10)
            for _ in range(20):
                assert other.get("/x/fine").answer().body == b"served"
            answer = stuck.answer()
            took = time.monotonic() - began
            kept = stuck.get("/x/fine").answer()

        assert_marked(answer, "deadline")
        assert 0.3 <= took < 0.3 + 0.25  # + 50 ms, and the noise of a shared machine
        assert kept.body == b"served"
        assert mini.held() == 1  # its slot is taken until the handler ends: one slot, one end
        gate.set()


def test_case_18_a_call_that_is_lost_with_its_replica_is_502() -> None:
    gate, entered = threading.Event(), threading.Event()

    def handler(request: Any) -> None:
        entered.set()
        gate.wait(30)

    with Mini() as mini, Client(mini.port) as client:
        mini.backend("b", handler).endpoint("e", "/x", {"b": 1.0}).publish()
        client.post("/x", b"body")
        assert entered.wait(10)
        (connection,) = mini.clients()
        channel = connection.queue[0].channel
        assert channel is not None
        mini.on_front(lambda: channel.lost("cut by the test", True))
        answer = client.answer()
        gate.set()

    assert_marked(answer, "replica_lost")
    assert answer["x-serve-retriable"] == "unknown"


def test_a_clients_valid_request_id_is_echoed_and_passed_on(mini: Mini) -> None:
    answer = ask(mini, "/plain/boom", "X-Request-Id: client/1=x")

    assert answer["x-request-id"] == answer.json()["request_id"] == "client/1=x"


@pytest.mark.parametrize("sent", ["", "with space", "x" * 129, "caf\xe9"])
def test_an_invalid_request_id_is_replaced(mini: Mini, sent: str) -> None:
    answer = ask(mini, "/plain/fine", f"X-Request-Id: {sent}")

    assert answer["x-request-id"] not in ("", sent)


def test_our_own_request_ids_differ(mini: Mini) -> None:
    assert len({ask(mini, "/plain/fine")["x-request-id"] for _ in range(5)}) == 5


def test_the_backend_is_named_unless_the_endpoint_hides_it(mini: Mini) -> None:
    assert ask(mini, "/plain/fine")["x-serve-backend"] == "b"
    assert ask(mini, "/quiet/fine").get("x-serve-backend") is None
    assert ask(mini, "/quiet/boom").get("x-serve-backend") is None


def test_no_answer_names_this_software(mini: Mini) -> None:
    for path in ("/plain/fine", "/plain/boom", "/nowhere"):
        assert ask(mini, path).get("server") is None
