"""The verbs against a running instance: what a user can do, what is refused and in which words, what is left behind."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from tests.cluster.models import Counter, Fragile, Pid, Slow, echo, instance
from tests.conditions import eventually, is_gone
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import rayserve as serve
from rayserve.actor_names import controller_name
from rayserve.cluster import actors, store
from rayserve.cluster.connect import Connection
from rayserve.errors import (
    BackendStartError,
    CannotScaleError,
    InvalidTypeError,
    InvalidValueError,
    NotRunningError,
    PortInUseError,
    ReconfigureError,
    StartupTimeoutError,
)
from rayserve.instance import Instance

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(ray_here: Connection) -> Iterator[Instance]:
    with pytest.raises(NotRunningError, match=r"call serve\.init\(\) first"):
        serve.list_backends()
    yield serve.init("api", http_port=0)
    serve.shutdown()
    with pytest.raises(NotRunningError):
        serve.list_backends()


@pytest.fixture
def name(served: Instance, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for this test's endpoint and backend; both are gone afterwards."""
    name = request.node.name.partition("[")[0][5:]
    yield name
    for endpoint in serve.list_endpoints():
        serve.delete_endpoint(endpoint)
    for tag in serve.list_backends():
        serve.delete_backend(tag)
    eventually(lambda: not replicas(), "all replicas drained", 40.0)


def get(served: Instance, path: str, **params: Any) -> httpx.Response:
    return httpx.get(f"{served.url}{path}", params=params, timeout=20.0)


def replicas(instance_name: str = "api") -> list[str]:
    return actors.names(f"rayserve:{instance_name}:replica:")


# -- cases 1 and 2: the instance -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    [
        lambda: serve.create_endpoint("e", "no slash"),
        lambda: serve.create_backend("b", echo),
        lambda: serve.set_traffic("e", {"b": 1.0}),
        lambda: serve.get_handle("e"),
        serve.status,
        serve.shutdown,
        serve.wait,
    ],
)
def test_case_1_every_verb_before_init_names_serve_init(
    verb: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayserve.instance._current", None)
    with pytest.raises(serve.RayServeException, match=r"call serve\.init\(\) first"):
        verb()


def test_case_1_init_twice_is_harmless_and_a_request_right_after_set_traffic_succeeds(
    served: Instance, name: str
) -> None:
    assert serve.init("api", http_port=0) == served
    serve.create_endpoint(name, "/first")
    serve.create_backend(name, echo)
    serve.set_traffic(name, {name: 1.0})
    assert get(served, "/first").text == "hello serve!"


def test_case_2_other_http_settings_are_ignored_with_a_warning(
    served: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    assert serve.init("api", http_port=9, http_options={"num_ingress": 3}).url == served.url
    assert "are ignored" in caplog.text and "http_port=" in caplog.text
    assert "http_options={'num_ingress': 1};" in caplog.text  # only what differs


def test_case_2_a_taken_port_is_an_error_at_once_and_leaves_nothing(served: Instance) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}"):
            serve.init("other", http_port=port)
    assert actors.names("rayserve:other:") == []
    assert serve.list_backends() == {}  # the present instance is still the current one


def test_case_2_two_instances_never_touch_each_other(served: Instance, name: str) -> None:
    serve.create_backend(name, echo)
    serve.create_endpoint(name, "/who", backend=name)
    other = serve.init("second", http_port=0)
    try:
        assert other.url != served.url
        assert serve.list_endpoints() == {}
        serve.create_backend(name, Counter, 41)
        serve.create_endpoint(name, "/who", backend=name)
        assert get(other, "/who").json() == {"current_counter": 42}
        assert get(served, "/who").text == "hello serve!"
    finally:
        serve.shutdown()
        serve.init("api", http_port=0)
    assert actors.names("rayserve:second:") == []
    assert get(served, "/who").text == "hello serve!"


def test_case_2_without_http_there_are_handles_only(served: Instance) -> None:
    quiet = serve.init("quiet", http_host=None)
    try:
        assert quiet.url is None
        serve.create_backend("pid", Pid)
        serve.create_endpoint("pid", backend="pid")
        assert serve.get_handle("pid").remote().result(10)["config"] is None
    finally:
        serve.shutdown()
        serve.init("api", http_port=0)


# -- cases 3 to 5: endpoints ---------------------------------------------------------------------------------


def test_case_3_and_11_endpoints_are_listed_as_created(name: str) -> None:
    serve.create_backend(name, echo)
    serve.create_endpoint("by-handle")
    serve.create_endpoint("late", "/late", ["post", "GET"])
    serve.create_endpoint("now", "/now", backend=name)
    assert serve.list_endpoints() == {
        "by-handle": {"route": None, "methods": ["GET"], "traffic": {}, "shadows": {}},
        "late": {"route": "/late", "methods": ["POST", "GET"], "traffic": {}, "shadows": {}},
        "now": {"route": "/now", "methods": ["GET"], "traffic": {name: 1.0}, "shadows": {}},
    }
    serve.shadow_traffic("now", name, 0.5)
    assert serve.list_endpoints()["now"]["shadows"] == {name: 0.5}
    serve.shadow_traffic("now", name, 0)


@pytest.mark.parametrize(
    ("verb", "error", "told"),
    [
        (lambda: serve.create_endpoint("e", "x"), InvalidValueError, 'must start with "/"'),
        (lambda: serve.create_endpoint("e", "/-/x"), InvalidValueError, "belongs to rayserve"),
        (lambda: serve.create_endpoint(5, "/x"), InvalidTypeError, "endpoint"),  # type: ignore[arg-type]
        (lambda: serve.create_endpoint("e", "/x", "GET"), InvalidTypeError, "methods must be a list"),
        (lambda: serve.create_endpoint("e", "/x", ["TRACE"]), InvalidValueError, "TRACE"),
        (lambda: serve.create_endpoint("e", "/x", []), InvalidValueError, "must not be empty"),
        (lambda: serve.create_endpoint("e", "/x", backend="nobody"), InvalidValueError, 'backend "nobody"'),
        (lambda: serve.set_traffic({"b": 1.0}, "e"), InvalidTypeError, "swapped"),  # type: ignore[arg-type]
        (lambda: serve.set_traffic("e", {"b": 0.5}), InvalidValueError, "must sum to 1"),
        (lambda: serve.set_traffic("e", {"b": 1.0}), InvalidValueError, 'endpoint "e" does not exist'),
        (lambda: serve.shadow_traffic("e", "b", 1.5), InvalidValueError, "from 0 to 1"),
        (lambda: serve.get_handle("e"), InvalidValueError, 'endpoint "e" does not exist'),
        (lambda: serve.update_endpoint_config("e", {"timeout": 1}), InvalidValueError, "timeout_s"),
        (lambda: serve.get_endpoint_config("e"), InvalidValueError, 'endpoint "e"'),
    ],
)
def test_case_4_what_cannot_be_is_refused_and_leaves_no_trace(
    name: str, verb: Callable[[], object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        verb()
    assert serve.list_endpoints() == {}


def test_case_4_endpoint_config_is_updated_by_name(name: str) -> None:
    serve.create_endpoint(name, "/x", config={"timeout_s": 5})
    serve.update_endpoint_config(name, {"debug": True})
    assert serve.get_endpoint_config(name) == serve.EndpointConfig(timeout_s=5, debug=True)
    with pytest.raises(ValueError):
        serve.create_endpoint(name, "/x")
    serve.create_endpoint(name, "/x", config=serve.EndpointConfig(timeout_s=5, debug=True))


def test_case_5_a_deleted_endpoint_answers_404_and_its_route_is_free(served: Instance, name: str) -> None:
    serve.create_backend(name, echo)
    serve.create_endpoint(name, "/gone", backend=name)
    assert get(served, "/gone").status_code == 200
    serve.delete_endpoint(name)
    assert get(served, "/gone").status_code == 404
    serve.delete_endpoint("never was")
    serve.create_endpoint("again", "/gone", backend=name)
    assert get(served, "/gone", name="you").text == "hello you"


# -- cases 6 to 9: new backends ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "args", "answer"),
    [
        (echo, (), "hello serve!"),
        (lambda: "from a lambda", (), "from a lambda"),
        ("tests.cluster.models:echo", (), "hello serve!"),
        ("tests.cluster.models:Counter", (6,), '{"current_counter":7}'),
        (Counter, (1,), '{"current_counter":2}'),
        (functools.partial(lambda word, request: word, "partly"), (), "partly"),
        (Counter(10).__call__, (), '{"current_counter":11}'),
    ],
    ids=["function", "lambda", "path to a function", "path to a class", "class", "partial", "bound method"],
)
def test_case_6_code_of_every_kind(served: Instance, name: str, code: Any, args: tuple[Any, ...], answer: str) -> None:
    serve.create_backend(name, code, *args)
    serve.create_endpoint(name, "/code", backend=name)
    assert get(served, "/code").text == answer


def test_case_6_init_arguments_reach_every_replica(served: Instance, name: str) -> None:
    serve.create_backend(name, Counter, start=100, config={"num_replicas": 2})
    serve.create_endpoint(name, "/count", backend=name)
    seen = {get(served, "/count").json()["current_counter"] for _ in range(2)}
    assert min(seen) == 101
    assert len(replicas()) == 2


@pytest.mark.parametrize(
    ("verb", "error", "told"),
    [
        (lambda: serve.create_backend("b", instance), InvalidTypeError, "instance of Counter; pass the class itself"),
        (lambda: serve.create_backend("b", 5), InvalidTypeError, "got an instance of int"),  # type: ignore[arg-type]
        (lambda: serve.create_backend("b", echo, 1), InvalidValueError, "is a function, which takes no init arguments"),
        (lambda: serve.create_backend("b", "models.echo"), InvalidValueError, '"module:name"'),
        (
            lambda: serve.create_backend("b", "tests.nowhere:echo"),
            InvalidValueError,
            '"tests.nowhere:echo" cannot be imported on the replica: there is no module "tests.nowhere"; install it',
        ),
        (
            lambda: serve.create_backend("b", "tests.cluster.models:Countr"),
            InvalidValueError,
            r'there is no "Countr" in .*models\.py; did you mean "Counter"\?',
        ),
        (lambda: serve.create_backend("b", "tests.cluster.models:instance"), InvalidTypeError, "instance of Counter"),
        (lambda: serve.create_backend("b", Counter, threading.Lock()), InvalidTypeError, "cannot be pickled"),
        (lambda: serve.create_backend("b", Fragile, "no such disk"), BackendStartError, "OSError: no such disk"),
        (
            lambda: serve.create_backend("b", echo, ray_actor_options={"num_gpus": 1}),
            CannotScaleError,
            r'^Cannot scale backend "b" to 1 replica: each needs GPU 1 on one node; 0 of 1 fit',
        ),
        (lambda: serve.create_backend("b", echo, config=[]), InvalidTypeError, "dict or a BackendConfig"),  # type: ignore[arg-type]
        (lambda: serve.create_backend("b", echo, config={"num_replica": 1}), InvalidValueError, '"num_replicas"'),
        (lambda: serve.create_backend("b", echo, config={"max_batch_size": 10}), InvalidValueError, "accept_batch"),
        (lambda: serve.create_backend("b", echo, ray_actor_options={"name": "x"}), InvalidValueError, "name"),
        (
            lambda: serve.create_backend("b", Pid, config={"user_config": "bad"}),
            ReconfigureError,
            "ValueError: this config is bad",
        ),
    ],
)
def test_cases_6_to_9_a_backend_that_cannot_be_leaves_nothing(
    name: str, verb: Callable[[], object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        verb()
    assert serve.list_backends() == {}
    assert replicas() == []


def test_case_7_a_duplicate_tag_leaves_the_running_backend_untouched(served: Instance, name: str) -> None:
    serve.create_backend(name, Counter)
    before = replicas()
    with pytest.raises(ValueError, match="update_backend_config"):
        serve.create_backend(name, echo)
    assert replicas() == before


def test_case_7_a_start_that_takes_too_long_is_undone(name: str, tmp_path: Path) -> None:
    with pytest.raises(StartupTimeoutError, match="0 of 1 replicas were ready after startup_timeout_s=2"):
        serve.create_backend(name, Slow, str(tmp_path), config={"startup_timeout_s": 2.0})
    assert replicas() == []


def test_case_7_ctrl_c_while_waiting_leaves_nothing(name: str, tmp_path: Path) -> None:
    def interrupt() -> None:
        eventually(lambda: list(tmp_path.glob("entered-*")), "the constructor runs")
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            serve.create_backend(name, Slow, str(tmp_path))
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert serve.list_backends() == {} and replicas() == []
    (pid,) = [int(path.name.partition("-")[2]) for path in tmp_path.glob("entered-*")]
    eventually(lambda: is_gone(pid), "the replica's process is gone")


# -- cases 10 to 12: backends that run -----------------------------------------------------------------------


def test_case_10_settings_change_by_name_and_a_user_config_reaches_every_replica(served: Instance, name: str) -> None:
    serve.create_backend(name, Pid, config={"num_replicas": 2, "user_config": {"size": 1}})
    serve.create_endpoint(name, "/pid", backend=name)
    pids = {answer["pid"] for answer in answers(served, 2)}
    serve.update_backend_config(name, {"user_config": {"size": 2}, "max_queued": 10})
    assert answers(served, 2) == [{"pid": pid, "config": {"size": 2}} for pid in sorted(pids)]
    with pytest.raises(ReconfigureError, match="this config is bad"):
        serve.update_backend_config(name, {"user_config": "bad"})
    assert answers(served, 2) == [{"pid": pid, "config": {"size": 2}} for pid in sorted(pids)]
    with pytest.raises(TypeError):
        serve.update_backend_config(name, {"num_replicas": "x"})
    serve.update_backend_config(name, {"num_replicas": 3})
    assert [answer["config"] for answer in answers(served, 3)] == [{"size": 2}] * 3
    assert serve.get_backend_config(name) == serve.BackendConfig(num_replicas=3, user_config={"size": 2}, max_queued=10)
    serve.update_backend_config(name, {"num_replicas": 1})
    eventually(lambda: len(replicas()) == 1, "two replicas drained")
    assert answers(served, 1)[0]["pid"] in pids


def answers(served: Instance, count: int) -> list[dict[str, Any]]:
    """Return the answers of `count` different replicas, by process id."""
    seen: dict[int, dict[str, Any]] = {}

    def all_answered() -> bool:
        answer = get(served, "/pid").json()
        seen[answer["pid"]] = answer
        return len(seen) == count

    eventually(all_answered, f"{count} replicas answer")
    return [seen[pid] for pid in sorted(seen)]


def test_case_11_status_and_lists(served: Instance, name: str) -> None:
    serve.create_backend(name, echo, config={"num_replicas": 1})
    serve.create_endpoint(name, "/s", backend=name)
    assert serve.list_backends() == {name: serve.BackendConfig()}
    status = serve.status()
    assert status["instance"] == "api"
    assert status["backends"] == {name: "1 of 1 replica ready"}
    assert status["endpoints"] == {name: f'GET /s: 1 to "{name}"'}
    assert served.admin_url is not None and served.admin_url.startswith("http://127.0.0.1:")
    assert list(status["nodes"].values()) == [f"open at {served.url}".replace("http://", "")]
    with pytest.raises(ValueError, match="does not exist"):
        serve.get_backend_config("nobody")


def test_case_12_delete_backend(served: Instance, name: str) -> None:
    serve.create_backend(name, Counter)
    serve.create_endpoint(name, "/d", backend=name)
    with pytest.raises(ValueError, match=f'"{name}" is in the traffic of endpoint "{name}"'):
        serve.delete_backend(name)
    serve.delete_backend("never was")
    serve.create_backend("next", echo)
    serve.set_traffic(name, {"next": 1.0})
    serve.delete_backend(name)
    serve.create_backend(name, lambda: "new code under the old tag")
    serve.set_traffic(name, {name: 1.0})
    assert get(served, "/d").text == "new code under the old tag"
    eventually(lambda: len(replicas()) == 2, "the old replica is gone")


def test_case_12_a_deleted_app_does_not_wait_for_idle_websockets(served: Instance, name: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({**message, "type": message["type"].replace("connect", "accept").replace("receive", "send")})

    serve.create_backend(name, serve.asgi(app, lifespan="off"), config={"drain_timeout_s": 300})
    serve.create_endpoint(name, "/ws", backend=name)
    assert served.url is not None
    with connect(served.url.replace("http", "ws") + "/ws") as client:
        client.send("here")
        assert client.recv(10) == "here"
        serve.delete_endpoint(name)
        serve.delete_backend(name)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    eventually(lambda: not replicas(), "the replica is gone")


def test_case_21_swapped_arguments_are_told_as_such(name: str) -> None:
    serve.create_endpoint("simple_endpoint", "/simple")
    serve.create_backend("simple_backend", echo)
    with pytest.raises(ValueError, match="the arguments of set_traffic are swapped"):
        serve.set_traffic("simple_backend", {"simple_endpoint": 1.0})


# -- inside backends -----------------------------------------------------------------------------------------


class Nested:
    """Uses verbs and a handle of its own, without init."""

    def __init__(self) -> None:
        self.inner = serve.get_handle("inner")

    def __call__(self) -> dict[str, Any]:
        return {"inner": self.inner.remote().result(10), "backends": sorted(serve.list_backends())}


def test_case_30_verbs_and_handles_work_inside_a_replica(served: Instance, name: str) -> None:
    serve.create_backend("inner", lambda: "from within")
    serve.create_endpoint("inner", backend="inner")
    serve.create_backend(name, Nested)
    serve.create_endpoint(name, "/nested", backend=name)
    assert get(served, "/nested").json() == {"inner": "from within", "backends": sorted(["inner", name])}


# -- cases 32 and 33: faults ---------------------------------------------------------------------------------


def test_case_29_object_refs_go_in_and_come_out(served: Instance, name: str) -> None:
    serve.create_backend(name, lambda number: number + 1)
    serve.create_endpoint(name, backend=name)
    handle = serve.get_handle(name)

    assert handle.remote(ray.put(1)).result(20) == 2, "its value is the argument"
    ref = handle.remote(2).to_object_ref()
    assert ray.get(ref, timeout=20) == 3
    assert handle.remote(ref).result(20) == 4


def test_case_32_a_killed_controller_comes_back_with_everything(served: Instance, name: str) -> None:
    serve.create_backend(name, Pid)
    serve.create_endpoint(name, "/pid", backend=name)
    (before,) = answers(served, 1)
    controller = actors.find(controller_name("api"))
    assert controller is not None
    for round_ in range(2):
        _crash(controller)
        assert get(served, "/pid").json() == before  # requests flow meanwhile
        serve.create_endpoint(f"after-{round_}", f"/after-{round_}", backend=name)
        assert get(served, f"/after-{round_}").json() == before
    assert sorted(serve.list_endpoints()) == ["after-0", "after-1", name]
    os.kill(before["pid"], signal.SIGKILL)  # an adopted replica's death is noticed too
    eventually(lambda: get(served, "/pid").json()["pid"] != before["pid"], "the replacement answers", 20.0)


def _crash(actor: actors.Actor) -> None:
    """Let Ray kill and restart the process."""
    import ray

    ray.kill(actor.handle, no_restart=False)


def test_case_33_a_killed_replica_is_replaced(served: Instance, name: str) -> None:
    serve.create_backend(name, Pid, config={"num_replicas": 2})
    serve.create_endpoint(name, "/pid", backend=name)
    pids = {answer["pid"] for answer in answers(served, 2)}
    dead = min(pids)
    os.kill(dead, signal.SIGKILL)
    assert get(served, "/pid").json()["pid"] == max(pids)
    eventually(lambda: get(served, "/pid").json()["pid"] not in pids, "the replacement answers", 20.0)
    assert serve.status()["backends"][name] == "2 of 2 replicas ready"


def test_case_13_after_shutdown_a_new_init_starts_empty(served: Instance) -> None:
    first = serve.init("third", http_port=0)
    assert first.url is not None
    serve.create_backend("b", echo)
    serve.create_endpoint("e", "/e", backend="b")
    serve.shutdown()
    with pytest.raises(httpx.ConnectError):
        get(first, "/e")
    assert actors.names("rayserve:third:") == [] and store.keys("third/") == []
    second = serve.init("third", http_port=int(first.url.rpartition(":")[2]))
    try:
        assert second.url == first.url
        assert serve.list_backends() == {} and serve.list_endpoints() == {}
    finally:
        serve.shutdown()
        serve.init("api", http_port=0)


# -- case 13 and the driver's end ----------------------------------------------------------------------------

_SECOND_DRIVER = """
import sys
import rayserve as serve
sys.path.insert(0, sys.argv[1])
import only_here
if __name__ == "__main__":
    serve.init("api", ray_address=sys.argv[2])
    serve.create_backend("theirs", only_here.answer)
    serve.create_endpoint("theirs", "/theirs", backend="theirs")
"""


def test_case_13_a_second_driver_deploys_its_own_modules_and_exits(
    ray_here: Connection, served: Instance, name: str, tmp_path: Path
) -> None:
    (tmp_path / "only_here.py").write_text("def answer(): return 'from a module of the second driver'\n")
    command = [sys.executable, "-c", _SECOND_DRIVER, str(tmp_path), ray_here.address]
    done = subprocess.run(command, timeout=50, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert get(served, "/theirs").text == "from a module of the second driver"
    assert serve.get_handle("theirs").remote().result(10) == "from a module of the second driver"


_OWN_RAY = """
import os, signal, sys, threading
import rayserve as serve
if __name__ == "__main__":
    here = serve.init(http_port=0, ray_address="local", ray_init_kwargs={"num_cpus": 1})
    serve.create_backend("echo", lambda: "hello")
    serve.create_endpoint("echo", "/hello", backend="echo")
    print(here.url, flush=True)
    END
"""


@pytest.fixture
def folder() -> Iterator[str]:
    """A run directory of its own, with a path short enough for sockets; it marks every process of the driver."""
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "sent", "codes"),
    [
        ("serve.wait()", signal.SIGTERM, {0}),
        ("pass", None, {0}),
        ("threading.Event().wait()", signal.SIGINT, {1, -signal.SIGINT}),  # by what runs at Python's exit
    ],
    ids=["wait, SIGTERM", "end of the script", "Ctrl-C"],
)
def test_case_2_and_13_whatever_ends_the_driver_the_port_is_free_and_nothing_runs(
    end: str, sent: signal.Signals | None, codes: set[int], folder: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "RAYSERVE_DIR": folder}
    script = tmp_path / "driver.py"
    script.write_text(_OWN_RAY.replace("END", end))
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None and driver.stderr is not None
        url = driver.stdout.readline().strip()
        if sent is not None:
            assert httpx.get(f"{url}/hello").text == "hello"
            driver.send_signal(sent)
        begin = time.monotonic()
        said = driver.communicate(timeout=50)
    assert driver.returncode in codes, said
    assert time.monotonic() - begin < 20
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", int(url.rpartition(":")[2])))
    found = [path for path in Path("/proc").glob("[0-9]*") if _has(path, folder)]
    eventually(lambda: not any(_has(path, folder) for path in found), "no process is left")


def _has(process: Path, mark: str) -> bool:
    try:
        return mark.encode() in (process / "environ").read_bytes()
    except OSError:
        return False
