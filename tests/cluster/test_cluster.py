"""What `rayserve.cluster` promises, on a real Ray."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.subjects import Evented, OwnError, Plain
from tests.conditions import eventually

from rayserve.cluster import actors, connect, nodes, objects, pickling, records, search, store
from rayserve.cluster.actors import Actor
from rayserve.cluster.connect import Connection
from rayserve.cluster.errors import ActorAway, ActorGone, CallTimeout
from rayserve.cluster.start import prepare_start
from rayserve.errors import ClusterError, InvalidTypeError, InvalidValueError

pytestmark = pytest.mark.usefixtures("ray_here")

Spawn = Callable[..., Actor]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """`actors.spawn` with a fresh name; all are killed afterwards."""
    spawned: list[Actor] = []

    def one(cls: type, *args: object, **options: object) -> Actor:
        options.setdefault("name", f"test:{uuid.uuid4().hex}")
        actor = actors.spawn(cls, *args, **options)  # type: ignore[arg-type]
        spawned.append(actor)
        return actor

    yield one
    for actor in spawned:
        actors.kill(actor)


def driver(code: str, **environment: str) -> list[object]:
    """Run code in another driver process; it prints one line of JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: list[object] = json.loads(done.stdout.splitlines()[-1])
    return told


# --- connecting -------------------------------------------------------------------------------------------------------


def test_connect_again_is_the_same_connection(ray_here: Connection) -> None:
    assert ray_here.started_ray
    assert connect.connect() == ray_here
    assert connect.connect(ray_here.address) == ray_here


def test_what_the_present_connection_cannot_fulfil_is_refused(ray_here: Connection) -> None:
    with pytest.raises(InvalidValueError, match=f"already connected to Ray at {ray_here.address}"):
        connect.connect("local")
    with pytest.raises(InvalidValueError, match="already connected"):
        connect.connect("127.0.0.1:1")
    with pytest.raises(InvalidValueError, match="num_gpus, resources cannot apply"):
        connect.connect(None, {"resources": {"a": 1}, "num_gpus": 1, "labels": None})


def test_the_cluster_that_we_start_refuses_strangers() -> None:
    assert connect.is_authenticated()


_JOIN = """
import json, time
from rayserve.cluster import actors, connect
began = time.monotonic()
connection = connect.connect()
found = actors.find({name!r})
value = actors.call(found, "get", timeout_s=10.0)
print(json.dumps([connection.started_ray, connection.address, value]))
connect.disconnect()
"""


def test_case_13_a_second_driver_finds_the_running_ray_and_leaves_it_running(
    ray_here: Connection, spawn: Spawn
) -> None:
    actor = spawn(Plain, 42)
    assert driver(_JOIN.format(name=actor.name)) == [False, ray_here.address, 42]
    assert driver(_JOIN.format(name=actor.name), RAYSERVE_DIR="/tmp/rs-none", RAY_ADDRESS=ray_here.address)
    assert actors.call(actor, "get", timeout_s=10.0) == 42


_REFUSED = """
import json, time
from rayserve.cluster import connect
from rayserve.errors import RayServeException
began = time.monotonic()
try:
    connect.connect(None, {given})
except RayServeException as error:
    print(json.dumps([type(error).__name__, str(error), time.monotonic() - began]))
"""


def test_a_joining_driver_is_told_which_wishes_cannot_apply() -> None:
    kind, text, _ = driver(_REFUSED.format(given={"num_cpus": 8, "log_to_driver": False}))
    assert kind == "InvalidValueError"
    assert str(text).startswith("ray_init_kwargs num_cpus cannot apply: serve.init joins the Ray")


def test_a_wrong_token_is_told_at_once_and_not_after_20_s(ray_here: Connection) -> None:
    answer = driver(_REFUSED.format(given={}), RAY_AUTH_TOKEN="wrong", RAY_ADDRESS=ray_here.address)
    kind, text, took_s = answer
    assert kind == "Refused"
    assert "set RAY_AUTH_MODE=token" in str(text)
    assert float(str(took_s)) < 10.0


def test_an_address_where_nobody_answers_is_told_at_once() -> None:
    kind, text, took_s = driver(_REFUSED.format(given={}), RAY_ADDRESS="127.0.0.1:9")
    assert kind == "ClusterError"
    assert str(text).startswith("no Ray answers at 127.0.0.1:9")
    assert float(str(took_s)) < 10.0


def test_a_port_that_is_no_ray_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_PROOF_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ClusterError, match="not answer as Ray"):
        search.prove(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("address", ["localhost", "ray://10.0.0.1:10001", ":1", "host:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidValueError, match="ray_address"):
        connect.connect(address) if "://" in address else search.prove(address)


def test_stale_records_are_passed_by_and_removed(monkeypatch: pytest.MonkeyPatch, ray_here: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("RAYSERVE_DIR", folder)
        ended = subprocess.Popen(["true"])
        ended.wait()
        records.remember(records.Record(ray_here.address, ended.pid))  # its driver is dead
        records.remember(records.Record("127.0.0.1:9", os.getppid()))  # the number went to another process
        (Path(folder) / "ray-1.json").write_text("{")
        assert search.search() is None
        assert list(Path(folder).glob("ray-*.json")) == []
        records.remember(records.Record(ray_here.address, os.getpid()))
        assert search.search() == ray_here.address


def test_a_temporary_folder_too_long_for_sockets_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidValueError, match=r'set ray_init_kwargs=\{"_temp_dir": …\} to at most'):
        prepare_start({"_temp_dir": "/tmp/" + "x" * 60})


# --- nodes and the store ----------------------------------------------------------------------------------------------


def test_nodes_tell_what_they_have_and_what_is_free(ray_here: Connection) -> None:
    (node,) = nodes.nodes()
    assert node.id == nodes.this_node() == ray_here.node_id
    assert node.alive
    assert node.resources["CPU"] == nodes.available(node.id)["CPU"] == nodes.available()["CPU"] == 2
    assert nodes.available("f" * 56) == {}


def test_the_store_keeps_bytes_under_text() -> None:
    assert store.put("t1/a", b"\x00\xff")
    assert not store.put("t1/a", b"two")
    assert store.get("t1/a") == b"two"
    assert not store.put("t1/a", b"three", overwrite=False)
    assert store.get("t1/a") == b"two"
    assert store.put("t1/b", b"")
    assert store.get("t1/b") == b""
    assert store.keys("t1/") == ["t1/a", "t1/b"]
    assert store.delete("t1/a")
    assert not store.delete("t1/a")
    assert store.get("t1/a") is None
    assert store.delete_prefix("t1/") == 1
    assert store.keys("t1/") == []


def test_the_store_is_reached_from_actors_too(spawn: Spawn) -> None:
    class Reader:
        def read(self, key: str) -> bytes | None:
            return store.get(key)

    store.put("t2/a", b"x")
    assert actors.call(spawn(Reader), "read", "t2/a", timeout_s=10.0) == b"x"
    store.delete("t2/a")


# --- actors -----------------------------------------------------------------------------------------------------------


def test_an_actor_is_a_process_of_normal_priority_with_a_readable_title(spawn: Spawn) -> None:
    about = actors.call(spawn(Plain, title="rayserve::test"), "about", timeout_s=10.0)
    assert about["title"].startswith("ray::rayserve::test")
    assert (about["nice"], about["oom"]) == (0, 0)
    assert about["main"]
    assert about["environment"]["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"


def test_a_class_with_a_coroutine_runs_beside_the_main_thread(spawn: Spawn) -> None:
    assert actors.call(spawn(Evented), "main", timeout_s=10.0) is False


def test_actors_are_found_by_name(spawn: Spawn) -> None:
    actor = spawn(Plain, 7, name="found:a")
    assert actors.names("found:") == ["found:a"]
    found = actors.find("found:a")
    assert found is not None and found.id == actor.id
    assert actors.call(found, "get", timeout_s=10.0) == 7
    assert actors.find("found:b") is None
    with pytest.raises(InvalidValueError, match="already taken"):
        actors.spawn(Plain, name="found:a")
    assert actors.spawn(Plain, name="found:a", get_if_exists=True).id == actor.id


def test_a_users_exception_comes_back_as_its_own_class(spawn: Spawn) -> None:
    actor = spawn(Plain)
    with pytest.raises(OwnError) as caught:
        actors.call(actor, "fail", timeout_s=10.0)
    assert type(caught.value) is OwnError
    assert str(caught.value) == "in a method"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert 'raise OwnError("in a method")' in caught.value.__notes__[0]


def test_a_users_exception_comes_through_two_actors(spawn: Spawn) -> None:
    actor, between, evented = spawn(Plain, 3), spawn(Plain), spawn(Evented)
    for one in (between, evented):
        assert actors.call(one, "pass_on", actor, "get", timeout_s=10.0) == 3
        with pytest.raises(OwnError) as caught:
            actors.call(one, "pass_on", actor, "fail", timeout_s=10.0)
        assert str(caught.value) == "in a method"


def test_calls_can_be_awaited_on_any_loop(spawn: Spawn) -> None:
    async def main() -> None:
        actor = spawn(Plain, 5)
        assert await actors.await_call(actor, "get") == 5
        with pytest.raises(OwnError):
            await actors.await_call(actor, "fail")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await actors.await_call(actor, "hang")

    asyncio.run(main())


def test_a_call_ends_at_its_time(spawn: Spawn) -> None:
    actor = spawn(Plain)
    assert actors.call(actor, "get", timeout_s=10.0) == 0
    with pytest.raises(CallTimeout, match=r"did not answer hang within 0\.1 s"):
        actors.call(actor, "hang", timeout_s=0.1)


def test_an_open_call_tells_of_a_death_at_once(spawn: Spawn) -> None:
    async def main() -> None:
        for by_ray in (True, False):
            actor = spawn(Plain)
            pid = actors.call(actor, "pid", timeout_s=10.0)
            open_call = asyncio.ensure_future(actors.await_call(actor, "hang"))
            await asyncio.sleep(0)
            ended = time.monotonic()
            actors.kill(actor) if by_ray else os.kill(pid, signal.SIGKILL)
            with pytest.raises(ActorGone, match="is gone"):
                await asyncio.wait_for(open_call, 10.0)
            assert time.monotonic() - ended < 1.0
            with pytest.raises(ActorGone):
                actors.call(actor, "get", timeout_s=10.0)
            actors.kill(actor)
            eventually(lambda name=actor.name: actors.find(name) is None, "its name is free")  # type: ignore[misc]

    asyncio.run(main())


def test_a_restarting_actor_is_away_and_then_back(spawn: Spawn) -> None:
    actor = spawn(Plain, 9, max_restarts=-1)
    before = actors.call(actor, "pid", timeout_s=10.0)

    async def main() -> None:
        open_call = asyncio.ensure_future(actors.await_call(actor, "hang"))
        await asyncio.sleep(0)
        os.kill(before, signal.SIGKILL)
        with pytest.raises(ActorAway, match="cannot be reached now"):
            await asyncio.wait_for(open_call, 20.0)

    asyncio.run(main())

    def back() -> bool:
        try:
            return bool(actors.call(actor, "pid", timeout_s=10.0) != before)
        except ActorAway:
            return False

    eventually(back, "it restarts", within_s=20.0)
    assert actors.call(actor, "get", timeout_s=10.0) == 9


def test_a_failing_constructor_shows_on_the_first_call(spawn: Spawn) -> None:
    with pytest.raises(ActorGone, match="in the constructor"):
        actors.call(spawn(Plain, 1, True), "get", timeout_s=10.0)


def test_a_node_that_is_not_there_shows_on_the_first_call(ray_here: Connection, spawn: Spawn) -> None:
    assert actors.call(spawn(Plain, 1, node=ray_here.node_id), "get", timeout_s=10.0) == 1
    with pytest.raises(ActorGone, match="not schedulable"):
        actors.call(spawn(Plain, 1, node="0" * 55 + "1"), "get", timeout_s=10.0)


def test_what_cannot_travel_is_named(spawn: Spawn) -> None:
    with pytest.raises(InvalidTypeError, match='argument of actor "test:lock" cannot be pickled: it is a lock'):
        spawn(Plain, threading.Lock(), name="test:lock")
    with pytest.raises(InvalidTypeError, match="an argument of pass_on of actor"):
        actors.call(spawn(Plain), "pass_on", threading.Lock(), "get", timeout_s=10.0)


@pytest.mark.parametrize(
    ("options", "kind"), [({"num_gpus": -1}, ValueError), ({"num_gpus": "x"}, TypeError), ({"speed": 9}, ValueError)]
)
def test_options_that_ray_refuses_are_our_errors(spawn: Spawn, options: dict[str, object], kind: type) -> None:
    with pytest.raises(kind, match="Ray refuses actor"):
        spawn(Plain, options=options)


# --- pickling and objects ---------------------------------------------------------------------------------------------

_global_lock = threading.Lock()


class _Holder:
    def __init__(self) -> None:
        self.pool = {"db": [_global_lock]}


def test_case_7_what_cannot_be_pickled_is_named_with_the_way_out() -> None:
    captured = threading.Lock()
    cases = {
        'the captured variable "captured" is a lock': lambda: captured,
        "the attribute \"pool\", the value at 'db', item 0 is a lock": _Holder(),
        "it is a lock": threading.Lock(),
    }
    for words, value in cases.items():
        with pytest.raises(InvalidTypeError) as caught:
            pickling.pickle(value, 'backend "resnet"')
        assert f'backend "resnet" cannot be pickled: {words}' in str(caught.value)
        assert "create such objects" in str(caught.value)


def test_case_7_what_cannot_be_imported_is_named_with_the_way_out() -> None:
    needs_module = b"\x80\x04\x8c\x0bnosuchmodul\x8c\x01a\x93."
    with pytest.raises(InvalidValueError, match=r'backend "resnet" needs the module "nosuchmodul".*working_dir'):
        pickling.unpickle(needs_module, 'backend "resnet"')


def test_lambdas_survive_pickling() -> None:
    factor = 3
    assert pickling.unpickle(pickling.pickle(lambda x: factor * x, "it"), "it")(2) == 6


def test_object_refs_are_known_and_resolved() -> None:
    ref = objects.put_object({"a": 1})
    assert objects.is_object_ref(ref)
    assert not objects.is_object_ref({"a": 1})
    assert asyncio.run(objects.resolve(ref)) == {"a": 1}
