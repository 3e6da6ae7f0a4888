"""Case 20: requests that wait for traffic or a replica; X-Request-Timeout-Ms. Case 19: call methods by header."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Client, request
from tests.wire.mini import INSTANCE, NODE, Mini

from rayserve.model.table import Backend, Endpoint, EndpointOptions, Replica, RoutingTable, Traffic


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def test_case_20_a_request_waits_until_traffic_is_set(mini: Mini) -> None:
    mini.endpoint("e", "/x").publish()
    with Client(mini.port) as client:
        client.post("/x", b"early")
        eventually(lambda: mini.held() == 1, "the request waits")
        mini.backend("b", lambda request: request.data).endpoint("e", "/x", {"b": 1.0}).publish()

        assert client.answer().body == b"early"
    assert mini.is_idle()


def test_case_20_no_traffic_is_503_when_the_time_is_up(mini: Mini) -> None:
    mini.endpoint("e", "/x", timeout_s=0.05).publish()
    answer = mini.get("/x")

    assert (answer.status, answer["x-serve-reason"], answer["x-serve-retriable"]) == (503, "no_traffic", "true")
    assert answer["retry-after"] == "1"
    assert "'e'" in answer.json()["detail"]
    assert mini.is_idle()


def test_case_20_at_most_a_thousand_wait_for_an_endpoint(mini: Mini) -> None:
    mini.endpoint("e", "/x").publish()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(mini.port)) for _ in range(63)]
        for client in clients[:62]:
            client.send(request("GET", "/x") * 16)  # as many of one connection as are served at once
        clients[62].send(request("GET", "/x") * 8)
        eventually(lambda: mini.held() == 1000, "a thousand requests wait")
        refused = mini.get("/x")
        mini.backend("b", lambda: "served").endpoint("e", "/x", {"b": 1.0}).publish()
        served = sum(client.answer().status == 200 for client in clients[:62] for _ in range(16))

    assert (refused.status, refused["x-serve-reason"]) == (503, "no_traffic")
    assert "1000" in refused.json()["detail"]
    assert served == 62 * 16


def test_case_20_no_replica_is_503_when_the_time_is_up(mini: Mini) -> None:
    gone = Replica("b#gone", NODE, f"{mini.folder}/nobody.sock")
    endpoint = Endpoint("e", "/x", ("GET",), Traffic({"b": 1.0}), EndpointOptions(timeout_s=0.05))
    table = RoutingTable(INSTANCE, 1, 1, (endpoint,), (Backend("b", 1, (gone,)),))
    mini.on_front(lambda: mini.site.apply(table))
    answer = mini.get("/x")

    assert (answer.status, answer["x-serve-reason"]) == (503, "no_replica")
    assert answer["retry-after"] == "1"
    assert mini.is_idle()


def test_case_20_a_full_line_is_503_at_once(mini: Mini) -> None:
    gate, entered = threading.Event(), threading.Event()

    def handler() -> str:
        entered.set()
        gate.wait(30)
        return "served"

    mini.backend("b", handler, {"max_concurrent_queries": 1, "max_queued": 1}).endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as first, Client(mini.port) as second, Client(mini.port) as third:
        first.get("/x")
        assert entered.wait(10)
        second.get("/x")
        eventually(lambda: mini.held() == 2, "the second one waits")
        refused = third.get("/x").answer()
        gate.set()

        assert (refused.status, refused.reason, refused["retry-after"]) == (503, "queue_full", "1")
        assert (first.answer().status, second.answer().status) == (200, 200)


def test_the_timeout_header_shortens_the_time(mini: Mini) -> None:
    mini.endpoint("e", "/x").publish()
    began = time.monotonic()
    answer = mini.get("/x", {"X-Request-Timeout-Ms": "50"})

    assert answer.status == 503
    assert 0.05 <= time.monotonic() - began < 5


def test_the_timeout_header_cannot_lengthen_the_time(mini: Mini) -> None:
    mini.endpoint("e", "/x", timeout_s=0.05).publish()

    assert mini.get("/x", {"X-Request-Timeout-Ms": "60000"}).status == 503


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "1e3", "soon", "9999999999", "1, 2", "\u0661"])
def test_garbage_in_the_timeout_header_is_400(mini: Mini, value: str) -> None:
    mini.backend("b", lambda: "served").endpoint("e", "/x", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        field = f"X-Request-Timeout-Ms: {value}".encode()
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n" + field + b"\r\n\r\nbody")
        answer = client.answer()

        assert (answer.status, answer.reason) == (400, "bad_request")
        assert "x-request-timeout-ms" in answer.json()["detail"]
        assert client.get("/x").answer().status == 200


class Base:
    def inherited(self, request: Any) -> str:
        return "inherited"


class Model(Base):
    def __call__(self, request: Any) -> str:
        return "call"

    def predict(self, request: Any) -> str:
        return f"predict {request.data.decode()}"

    def explain(self) -> str:
        return "explain"

    def reconfigure(self, config: Any) -> None:
        pass

    def _private(self) -> str:
        return "private"


class Nameless:
    def only(self) -> str:
        return "only"


@pytest.fixture(scope="module")
def model() -> Iterator[Mini]:
    with Mini() as running:
        running.backend("m", Model).backend("n", Nameless)
        running.endpoint("any", "/any", {"m": 1.0}).endpoint("none", "/none", {"m": 1.0}, call_methods=False)
        running.endpoint("some", "/some", {"m": 1.0}, call_methods=["explain", "inherited"])
        running.endpoint("nameless", "/nameless", {"n": 1.0}).publish()
        yield running


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/any", "predict", b"predict x"), ("/any", "explain", b"explain"), ("/any", "", b"call"),
        ("/some", "explain", b"explain"), ("/some", "inherited", b"inherited"), ("/some", "__call__", b"call"),
        ("/none", "", b"call"), ("/nameless", "only", b"only"),
    ],
)  # fmt: skip
def test_case_19_a_header_chooses_the_method(model: Mini, path: str, method: str, body: bytes) -> None:
    assert model.post(path, b"x", {"X-SERVE-CALL-METHOD": method}).body == body


@pytest.mark.parametrize(
    ("path", "method", "choices"),
    [
        ("/any", "unknown", '"__call__", "predict", "explain"'), ("/any", "inherited", 'list it in the endpoint'),
        ("/any", "_private", '"predict"'), ("/any", "__init__", '"predict"'), ("/any", "reconfigure", '"predict"'),
        ("/any", "check_health", '"predict"'), ("/any", "Predict", '"predict"'),
        ("/any", "predict, explain", '"predict"'),
        ("/some", "predict", "explain, inherited"), ("/none", "predict", "none"),
        ("/nameless", "", '"only"'), ("/nameless", "__call__", '"only"'),
    ],
)  # fmt: skip
def test_case_19_any_other_name_is_404_with_the_choices(model: Mini, path: str, method: str, choices: str) -> None:
    answer = model.post(path, b"x", {"X-SERVE-CALL-METHOD": method} if method else None)

    assert (answer.status, answer["x-serve-reason"]) == (404, "not_found")
    assert choices in answer.json()["detail"]
