"""The caller's side: a controller that restarts is waited for, one that is gone is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rayserve import instance
from rayserve.cluster import actors
from rayserve.cluster.actors import Actor
from rayserve.cluster.errors import ActorAway, ActorGone, CallTimeout
from rayserve.errors import ClusterError, InvalidValueError, NotRunningError
from rayserve.instance import Client, current, current_or_none, forget


class FakeRay:
    """Answers `find` and `call` from a script; time passes only when somebody sleeps."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.found: Actor | None = Actor("rayserve:x:controller", "id", None)
        self.calls: list[tuple[Any, ...]] = []
        self.now = 0.0

    def find(self, name: str) -> Actor | None:
        assert name == "rayserve:x:controller"
        return self.found

    def call(self, actor: Actor, method: str, *args: Any, timeout_s: float | None) -> Any:
        self.calls.append((method, *args))
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def use(*script: Any) -> FakeRay:
        fake = FakeRay(*script)
        monkeypatch.setattr(actors, "find", fake.find)
        monkeypatch.setattr(actors, "call", fake.call)
        monkeypatch.setattr(instance, "_wait", fake.sleep)
        monkeypatch.setattr(instance, "_clock", lambda: fake.now)
        return fake

    yield use


def test_case_32_a_call_is_repeated_with_the_same_arguments_until_the_controller_is_back(ray: Any) -> None:
    fake = ray(ActorAway("restarts"), ActorGone("replaced"), "answer")
    assert Client("x").call("command", b"id 7") == "answer"
    assert fake.calls == [("command", b"id 7")] * 3


def test_case_32_patience_ends_after_a_minute(ray: Any) -> None:
    fake = ray(ActorAway("its node is cut off"))
    with pytest.raises(ClusterError, match="could not be reached for 60 s: its node is cut off"):
        Client("x").call("status")
    assert 60.0 <= fake.now < 61.0


def test_what_the_controller_raises_comes_through_at_once(ray: Any) -> None:
    for error in (InvalidValueError("no"), CallTimeout("slow")):
        fake = ray(error)
        with pytest.raises(type(error)):
            Client("x").ask("status")
        assert len(fake.calls) == 1


def test_case_13_an_instance_that_is_gone_is_told(ray: Any) -> None:
    fake = ray("never")
    fake.found = None
    with pytest.raises(NotRunningError, match=r'instance "x" is not running any more; call serve.init\(\)'):
        Client("x").call("status")


def test_case_1_without_an_instance_the_way_to_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_current", None)
    with pytest.raises(NotRunningError, match=r"call serve\.init\(\) first"):
        current()
    one, other = Client("one"), Client("other")
    instance.connected(one)
    instance.connected(other)
    forget(one)
    assert current() is other
    forget(other)
    assert current_or_none() is None
