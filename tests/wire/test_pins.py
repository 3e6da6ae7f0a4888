"""`allow_pin`: requests that choose their backend, or their replica, by X-Serve-Pin."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Answer
from tests.wire.mini import Mini

from rayserve.context import context


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "nothing is held")


def serve(mini: Mini, replicas: int = 3, **options: Any) -> None:
    def who() -> list[str]:
        return [context.backend or "", context.replica or ""]

    mini.backend("a", who, replicas=replicas).backend("b", who, replicas=replicas).backend("c", who)
    mini.endpoint("e", "/e", {"a": 0.5, "b": 0.5}, **options).publish()


def ask(mini: Mini, pin: str) -> Answer:
    return mini.get("/e", {"x-serve-pin": pin})


def test_a_pinned_backend_answers_whatever_the_split(mini: Mini) -> None:
    serve(mini, allow_pin=True)

    assert {ask(mini, "b").json()[0] for _ in range(10)} == {"b"}
    assert {ask(mini, "a").json()[0] for _ in range(10)} == {"a"}


def test_a_pinned_replica_answers_alone(mini: Mini) -> None:
    serve(mini, allow_pin=True)
    for name in mini.replicas:
        if not name.startswith("c"):
            assert {tuple(ask(mini, name).json()) for _ in range(5)} == {(name[0], name)}


def test_a_pin_that_names_nothing_of_the_traffic_is_404(mini: Mini) -> None:
    serve(mini, allow_pin=True)
    for pin in ("c", next(name for name in mini.replicas if name.startswith("c")), "nope", ""):
        answer = ask(mini, pin)
        assert (answer.status, answer["x-serve-reason"]) == (404, "not_found")
        assert "backends: a, b" in answer.json()["detail"]


def test_where_pins_are_off_they_are_refused(mini: Mini) -> None:
    serve(mini)
    answer = ask(mini, "b")

    assert (answer.status, answer["x-serve-reason"]) == (400, "bad_request")
    assert "allow_pin" in answer.json()["detail"]


def test_a_full_replica_refuses_its_pins_at_once_and_no_other_answers(mini: Mini) -> None:
    gate, began = threading.Event(), threading.Semaphore(0)

    def held() -> str:
        began.release()
        assert gate.wait(20)
        return context.replica or ""

    mini.backend("a", held, {"max_concurrent_queries": 1}, replicas=2)
    mini.endpoint("e", "/e", {"a": 1.0}, allow_pin=True).publish()
    name = next(iter(mini.replicas))
    answers: list[Answer] = []
    busy = threading.Thread(target=lambda: answers.append(ask(mini, name)))
    busy.start()
    assert began.acquire(timeout=10)
    full = ask(mini, name)
    gate.set()
    busy.join(10)

    assert (full.status, full["x-serve-reason"], full["retry-after"]) == (503, "queue_full", "1")
    assert name in full.json()["detail"]
    assert answers[0].body == name.encode()


def test_a_replica_that_other_routers_filled_refuses_pins_too(mini: Mini) -> None:
    gate, began = threading.Event(), threading.Semaphore(0)

    def held() -> str:
        began.release()
        assert gate.wait(20)
        return context.replica or ""

    mini.backend("a", held, {"max_concurrent_queries": 1}, replicas=2)
    mini.endpoint("e", "/e", {"a": 1.0}, allow_pin=True).publish()
    calls = [mini.handle("e").remote() for _ in range(2)]
    assert began.acquire(timeout=10) and began.acquire(timeout=10)
    for name in mini.replicas:
        full = ask(mini, name)
        assert (full.status, full["x-serve-reason"]) == (503, "queue_full")
    gate.set()

    assert {call.result(10) for call in calls} == set(mini.replicas)


def test_a_pinned_replica_that_leaves_is_not_found_any_more(mini: Mini) -> None:
    serve(mini, allow_pin=True)
    name = next(iter(mini.replicas))
    assert ask(mini, name).status == 200
    mini.remove_replica("a", name)
    mini.publish()

    assert ask(mini, name).status == 404
    assert ask(mini, "a").status == 200
