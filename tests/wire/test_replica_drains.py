"""Drain without loss: replicas leave and traffic moves under load, and nobody notices (case 22)."""

import http.client
import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.processes import start

from rayserve import handle
from rayserve.context import context
from rayserve.model.table import Backend, Replica

MIB = 2**20


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


class Load:
    """Clients that ask, without pause, until told to stop; every request has a number of its own."""

    def __init__(self, mini: Mini, http_clients: int = 4, callers: int = 2) -> None:
        self._mini = mini
        self._stop = threading.Event()
        self.wrong: list[Any] = []
        self.asked = 0
        self.done: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._http) for _ in range(http_clients)]
        self._threads += [threading.Thread(target=self._handle) for _ in range(callers)]

    def _number(self) -> int:
        with self._lock:
            self.asked += 1
            return self.asked

    def _http(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._mini.port, timeout=20)
        while not self._stop.is_set():
            number = self._number()
            connection.request("POST", "/e", str(number))
            answer = connection.getresponse()
            body = answer.read()
            self._check(number, answer.status == 200 and body == b"%d" % number, (answer.status, body))
        connection.close()

    def _handle(self) -> None:
        echo = self._mini.handle("e").options("echo")
        while not self._stop.is_set():
            number = self._number()
            try:
                value = echo.remote(number).result(20)
            except Exception as error:
                value = error
            self._check(number, value == number, value)

    def _check(self, number: int, right: bool, got: object) -> None:
        self.done[number] += 1
        if not right:
            self.wrong.append((number, got))

    def until(self, count: int) -> None:
        """Wait until so many more requests are answered."""
        goal = len(self.done) + count
        eventually(lambda: len(self.done) >= goal or self.wrong, f"{count} more answers")

    def __enter__(self) -> Self:
        ran.clear()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def judge(self) -> None:
        assert self.wrong == []
        assert sorted(self.done) == list(range(1, self.asked + 1)), "every request was answered"
        assert set(self.done.values()) == {1}
        assert all(ran[number] == 1 for number in self.done), "and ran once"


ran: Counter[int] = Counter()


class Echo:
    """Counts how often each request ran."""

    def __call__(self, request: Any) -> str:
        return str(self.echo(int(request.data)))

    def echo(self, number: int) -> int:
        ran[number] += 1
        return number


class AsyncEcho:
    async def __call__(self, request: Any) -> str:
        return str(await self.echo(int(request.data)))

    async def echo(self, number: int) -> int:
        ran[number] += 1
        return number


def replicas_of(row: Backend, *replicas: Replica) -> Backend:
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    return Backend(**{**fields, "replicas": replicas})


@pytest.mark.parametrize(("code", "config"), [(Echo, {}), (Echo, {"max_concurrency": 3}), (AsyncEcho, {})])
def test_case_22_replicas_come_and_go_under_load(mini: Mini, code: type, config: dict[str, Any]) -> None:
    mini.backend("b", code, config, replicas=2).endpoint("e", "/e", {"b": 1.0}).publish()
    with Load(mini) as load:
        for number in range(6):
            load.until(40)
            (new,) = mini.backend(f"fresh{number}", code, config)._backends.pop(f"fresh{number}").replicas
            row = mini._backends["b"]
            mini._backends["b"] = replicas_of(row, *row.replicas, new)
            mini.publish()
            old = mini.replicas[row.replicas[0].id]
            mini.remove_replica("b", row.replicas[0].id)
            mini.publish()
            eventually(lambda old=old: old._ran and not old._intake.admitted, "the old one has left")  # type: ignore[misc]
    load.judge()


def test_case_22_traffic_swaps_back_and_forth_under_load(mini: Mini) -> None:
    mini.backend("a", Echo).backend("b", AsyncEcho, replicas=2).endpoint("e", "/e", {"a": 1.0}).publish()
    with Load(mini) as load:
        for number in range(20):
            load.until(10)
            mini.endpoint("e", "/e", {"a": 1.0} if number % 2 else {"b": 1.0}).publish()
        mini.endpoint("e", "/e", {"a": 0.5, "b": 0.5}).publish()
        load.until(10)
    load.judge()


def test_case_12_a_deleted_backend_finishes_what_it_has_and_leaves(mini: Mini) -> None:
    began, gate = threading.Event(), threading.Event()

    def hold(request: Any) -> str:
        began.set()
        gate.wait(10)
        return f"by {context.backend}"

    mini.backend("old", hold).backend("new", hold).endpoint("e", "/e", {"old": 1.0}).publish()
    answers: list[bytes] = []
    client = threading.Thread(target=lambda: answers.append(mini.get("/e").body))
    client.start()
    assert began.wait(10)
    (old,) = [replica for name, replica in mini.replicas.items() if name.startswith("old")]
    mini.endpoint("e", "/e", {"new": 1.0}).remove_backend("old")
    mini.publish()
    eventually(lambda: old._intake.draining, "it has the table")
    gate.set()
    client.join(10)

    assert answers == [b"by old"]
    assert mini.get("/e").body == b"by new"
    eventually(lambda: old._ran and not old._server.sessions, "all routers have closed their links")
    assert old.run() == "drained", "a second call returns at once"


def test_a_draining_replica_goes_on_refusing_after_run_returned(mini: Mini) -> None:
    """Its links stay open until the controller ends the process: a router may not have the new table yet."""
    (process,) = start(mini, "b", "tests.wire.subjects:Gated", 1)
    try:
        mini.endpoint("e", None, {"b": 1.0}).publish()
        pid = mini.handle("e").options("pid")
        assert pid.remote().result(10) == process.pid
        mini._draining.append(process.id)
        mini.publish()  # draining, and still listed
        assert process.reason() == "drained"
        result = pid.remote()
        eventually(lambda: waiting() == 1, "it was refused, and waits for another replica")
        (new,) = mini.backend("new", Pid)._backends.pop("new").replicas
        mini._backends["b"] = replicas_of(mini._backends["b"], new)
        mini.publish()

        assert result.result(10) == os.getpid()
    finally:
        process.end()


class Pid:
    def pid(self) -> int:
        return os.getpid()


def waiting() -> int:
    (io,) = handle._threads.values()
    return sum(row.waiting for row in io.router.rows())


@pytest.mark.parametrize("size", [100, 32 * MIB])
def test_the_last_answer_leaves_whole_before_run_returns(mini: Mini, size: int) -> None:
    (process,) = start(mini, "b", "tests.wire.subjects:flood", 1)
    try:
        mini.endpoint("e", "/e", {"b": 1.0}).publish()
        connection = http.client.HTTPConnection("127.0.0.1", mini.port, timeout=20)
        connection.request("GET", f"/e?size={size}")
        answer = connection.getresponse()
        mini.remove_backend("b")
        mini.endpoint("e", "/e").publish()

        assert len(answer.read()) == size
        assert process.reason() == "drained"
        connection.close()
    finally:
        process.end()


def test_a_replica_that_is_idle_leaves_at_once(mini: Mini) -> None:
    mini.backend("b", lambda: "x", replicas=2).endpoint("e", "/e", {"b": 1.0}).publish()
    first = next(iter(mini.replicas))
    mini.remove_replica("b", first)
    mini.publish()

    eventually(lambda: mini.replicas[first]._intake.draining, "it has the table")
    assert mini.replicas[first].run() == "drained"
    assert mini.get("/e").status == 200
