"""kill -9 of a replica, as clients see it (cases 18 and 33)."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from tests.conditions import eventually
from tests.wire.http_client import Answer
from tests.wire.mini import Mini
from tests.wire.processes import ReplicaProcess, start

from rayserve.errors import ReplicaLostError

SUBJECT = "tests.wire.subjects:Gated"


class Scene:
    """Two replica processes, and clients on threads."""

    def __init__(self, mini: Mini, folder: Path) -> None:
        self.mini = mini
        self.folder = folder
        self.gate = str(folder / "gate")
        os.mkfifo(self.gate)
        self.replicas = start(mini, "b", SUBJECT, 2, {"max_concurrent_queries": 8})
        mini.endpoint("once", "/once", {"b": 1.0}, retry="never")
        mini.endpoint("always", "/always", {"b": 1.0}, retry="always")
        mini.endpoint("e", "/e", {"b": 1.0}).publish()
        self.pool = ThreadPoolExecutor(20)

    def ask(self, method: str, name: str, path: str = "/e", key: str = "") -> Future[Answer]:
        """Send a request that says in file `name` that it began."""
        target = f"{path}?began={self.folder / name}&gate={self.gate}"
        body = b"x" if method == "POST" else None
        headers = {"Idempotency-Key": key} if key else {}
        return self.pool.submit(self.mini.ask, method, target, body, headers)

    def began(self, name: str) -> list[int]:
        """Return the pids in which the request began, the latest last."""
        path = self.folder / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def running(self, name: str, times: int = 1) -> ReplicaProcess:
        """Wait until the request began so many times; return where it runs now."""
        eventually(lambda: len(self.began(name)) >= times, f"{name} began {times} times")
        return next(replica for replica in self.replicas if replica.pid == self.began(name)[-1])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Mini() as mini:
        scene = Scene(mini, tmp_path)
        try:
            yield scene
        finally:
            for replica in scene.replicas:
                replica.end()
            scene.pool.shutdown()


def release(scene: Scene, futures: list[Future[Answer]]) -> list[Answer]:
    """Open the gate for whoever comes to it until all have answered."""
    while not all(future.done() for future in futures):
        os.close(os.open(scene.gate, os.O_RDWR | os.O_NONBLOCK))
        wait(futures, timeout=0.01)
    return [future.result() for future in futures]


def test_case_33_a_killed_replica_loses_only_what_it_had_started(scene: Scene) -> None:
    asked = {"first": scene.ask("POST", "first")}
    victim = scene.running("first")
    for number in range(9):
        asked[f"later{number}"] = scene.ask("POST" if number % 2 else "GET", f"later{number}")
    eventually(lambda: scene.mini.held() == 10, "all are on a replica")
    begun = [name for name in asked if victim.pid in scene.began(name)]
    assert begun == ["first"], "the victim runs one at a time"
    victim.kill()

    lost = asked.pop("first").result(10)
    answers = release(scene, list(asked.values()))
    assert (lost.status, lost["x-serve-reason"], lost["x-serve-retriable"]) == (502, "replica_lost", "unknown")
    assert [answer.status for answer in answers] == [200] * 9
    assert scene.mini.held() == 0


@pytest.mark.parametrize(
    ("method", "path", "key"), [("GET", "/e", ""), ("POST", "/always", ""), ("POST", "/e", "order-7")]
)
def test_case_33_what_may_run_twice_is_tried_once_more(scene: Scene, method: str, path: str, key: str) -> None:
    asked = scene.ask(method, "r", path, key)
    scene.running("r").kill()
    scene.running("r", times=2)

    assert [answer.status for answer in release(scene, [asked])] == [200]


@pytest.mark.parametrize(("method", "path"), [("POST", "/e"), ("GET", "/once"), ("POST", "/once")])
def test_case_33_what_may_not_run_twice_is_502_unknown(scene: Scene, method: str, path: str) -> None:
    asked = scene.ask(method, "r", path)
    scene.running("r").kill()
    lost = asked.result(10)

    assert (lost.status, lost["x-serve-reason"], lost["x-serve-retriable"]) == (502, "replica_lost", "unknown")
    assert len(scene.began("r")) == 1


def test_case_33_a_handle_hears_that_its_replica_died(scene: Scene) -> None:
    result = scene.mini.handle("e").options("wait").remote(str(scene.folder / "r"), scene.gate)
    victim = scene.running("r")
    victim.kill()

    with pytest.raises(ReplicaLostError):
        result.result(10)
    other = next(replica for replica in scene.replicas if replica is not victim)
    assert scene.mini.handle("e").options("pid").remote().result(10) == other.pid
