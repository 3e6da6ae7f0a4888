"""A world for the control plane without Ray: a store, nodes and processes in memory, on time that only jumps.

`World` is the `Shell`. Its processes behave as their code path says: "ok", "raise", "exit", "batch", "hold" (waits for
`world.gate`), "picky" (its reconfigure raises for a user_config blob that begins with b"bad"). `crash_after` lets the
controller die right after a write to the store: the write is there, whatever should follow never happens.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import itertools
import selectors
import zlib
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar, cast

import msgspec

from rayserve.cluster.actors import Actor
from rayserve.cluster.errors import ActorGone
from rayserve.cluster.nodes import Node
from rayserve.config import parse_backend_config, parse_endpoint_config
from rayserve.controller.commands import Command, CreateBackend, CreateEndpoint, SetTraffic, UpdateBackendConfig
from rayserve.controller.controller import Controller
from rayserve.controller.outcome import Outcome
from rayserve.controller.shell import Shell
from rayserve.errors import PortInUseError
from rayserve.model.facts import Facts, Report
from rayserve.model.packed import TableReader
from rayserve.model.spec import CodeSpec, Loaded, MethodTraits, ReplicaSpec, Traits
from rayserve.model.table import RoutingTable

T = TypeVar("T")

HTTP = {"http_host": "127.0.0.1", "http_port": 0, "options": {}, "cluster": False}


class _Jumping(selectors.DefaultSelector):
    """Instead of waiting for a timer, it makes its time come."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for something that never comes"
            self.now += max(timeout, 0.0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour passes at once."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; an hour of its own time is the limit."""

    async def bounded() -> T:
        try:
            async with asyncio.timeout(3600):
                return await work
        finally:
            await _sweep()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(bounded())


async def _sweep() -> None:
    """End all other tasks, those too that wait for something when they are cancelled."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=0.01)


class Process:
    """Something that can be called until it dies."""

    def __init__(self, world: World, name: str, node: str) -> None:
        self.world, self.name, self.node = world, name, node
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def die(self) -> None:
        if not self.dead.done():
            self.dead.set_result(None)
        self.world.processes.pop(self.name, None)

    async def call(self, method: str, *args: Any) -> Any:
        if self.dead.done():
            raise ActorGone(f"{self.name} is gone")
        work = asyncio.ensure_future(getattr(self, method)(*args))
        await asyncio.wait([work, self.dead], return_when=asyncio.FIRST_COMPLETED)
        if self.dead.done():
            work.cancel()
            raise ActorGone(f"{self.name} is gone")
        return work.result()


class FakeReplica(Process):
    """Loads what its code path says, runs until told to drain."""

    def __init__(self, world: World, name: str, node: str, spec: bytes) -> None:
        super().__init__(world, name, node)
        self.spec = msgspec.msgpack.decode(spec, type=ReplicaSpec)
        self.kind = self.spec.code.path.removeprefix("m:")
        self.applied = self.spec.backend.user_config
        self.drained = asyncio.Event()
        self.runs = 0

    async def load(self) -> bytes:
        if self.kind == "hold":
            await self.world.gate.wait()
        if self.kind == "exit":
            self.die()
            await asyncio.Future()
        fails = self.kind == "raise" or (self.kind == "single" and self.spec.backend.max_concurrency > 1)
        error = "Traceback: boom" if fails else ""
        bad = self.kind == "picky" and self.world.blob(self.applied[1]).startswith(b"bad")
        method = MethodTraits("__call__", batches=self.kind == "batch")
        loaded = Loaded(
            self.spec.replica,
            pid=1,
            unix=f"{self.spec.run_dir}/{self.spec.replica}",
            traits=Traits("class", (method,), reconfigures=self.kind == "picky"),
            error="Traceback: bad config" if bad else error,
            kind="reconfigure" if bad else "init" if error else "",
        )
        return msgspec.msgpack.encode(loaded)

    async def run(self) -> str:
        self.runs += 1
        await self.drained.wait()
        return "drained"

    def hear(self, table: RoutingTable, door: FakeDoorkeeper) -> None:
        """Take a table, as its subscriber would."""
        if self.spec.replica in table.draining and self.kind != "stubborn":
            self.drained.set()
        for row in table.backends:
            if row.tag == self.spec.backend.tag and row.user_config[0] > self.applied[0]:
                self.applied = row.user_config
                bad = self.world.blob(row.user_config[1]).startswith(b"bad")
                door.tell(Report(self.spec.replica, row.user_config[0], "Traceback: bad config" if bad else ""))


class FakeDoorkeeper(Process):
    """Acknowledges tables, remembers them, and passes them to the replicas of its node."""

    def __init__(self, world: World, name: str, node: str) -> None:
        super().__init__(world, name, node)
        self.info: dict[str, Any] | None = None
        self.tables: list[RoutingTable] = []
        self.reader = TableReader()
        self.news: list[Report | Facts] = []
        self.waiting = asyncio.Event()

    async def start(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        port = settings["http_port"] or 30000 + int(self.node[-1])
        if self.info is None:
            if port in self.world.taken_ports:
                raise PortInUseError(f"127.0.0.1:{port} is taken")
            self.info = {"url_host": "127.0.0.1", "http_port": port, "run_dir": f"/run/{self.node}", "node": self.node}
            self._hear(settings["table"])
        return self.info

    async def publish(self, table: bytes) -> dict[str, Any]:
        await self.world.publishing.wait()
        self._hear(zlib.decompress(table))
        return {"stamp": list(self.tables[-1].stamp), "late": []}

    async def watch(self, cursor: str) -> dict[str, Any]:
        at = int(cursor or 0)
        while len(self.news) <= at:
            self.waiting.clear()
            await self.waiting.wait()
        fresh = self.news[at:]
        return {
            "cursor": str(len(self.news)),
            "facts": [one for one in fresh if isinstance(one, Facts)],
            "reports": [one for one in fresh if isinstance(one, Report)],
            "gone": [],
            "ingresses": [],
        }

    async def stop(self, grace_s: float) -> None:
        self.info = None

    def tell(self, news: Report | Facts) -> None:
        self.news.append(news)
        self.waiting.set()

    def _hear(self, data: bytes) -> None:
        table = self.reader.read(data)
        if self.tables and table.stamp <= self.tables[-1].stamp:
            return
        self.tables.append(table)
        for process in list(self.world.processes.values()):
            if isinstance(process, FakeReplica) and process.node == self.node:
                process.hear(table, self)


class World:
    """The shell: store, nodes, processes."""

    def __init__(self, nodes: int = 1, **resources: float) -> None:
        self.store: dict[str, bytes] = {}
        self.machines = [Node(f"node{i}", f"10.0.0.{i}", dict(resources or {"CPU": 4.0}), True) for i in range(nodes)]
        self.processes: dict[str, Process] = {}
        self.taken_ports: set[int] = set()
        self.puts = 0
        self.crash_after: int | None = None  # this many writes
        self.crash_always: int | None = None  # again after this many of each later life
        self.crashes = 0
        self.crashed = asyncio.Event()
        self.gate = asyncio.Event()
        self.publishing = asyncio.Event()
        self.publishing.set()
        self.log: list[str] = []
        self._numbers = itertools.count(1)

    # -- the shell -------------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, *, overwrite: bool = True) -> None:
        await asyncio.sleep(0.001)
        if overwrite or key not in self.store:
            self.store[key] = value
        self.puts += 1
        if self.puts == self.crash_after:
            self.crash()

    async def get(self, key: str) -> bytes | None:
        return self.store.get(key)

    async def delete(self, key: str) -> None:
        self.store.pop(key, None)

    async def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.store if key.startswith(prefix))

    async def nodes(self) -> list[Node]:
        return list(self.machines)

    async def available(self, node: str) -> dict[str, float]:
        free = dict(next(one.resources for one in self.machines if one.id == node))
        return free

    async def spawn(self, kind: str, name: str, node: str, options: Mapping[str, Any], *args: Any) -> Actor:
        await asyncio.sleep(0.01)
        assert name not in self.processes
        process = FakeReplica(self, name, node, *args) if kind == "replica" else FakeDoorkeeper(self, name, node)
        self.processes[name] = process
        self.log.append(f"spawn {name}")
        return Actor(name, name, process)

    async def find(self, name: str) -> Actor | None:
        process = self.processes.get(name)
        return None if process is None else Actor(name, name, process)

    async def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.processes if name.startswith(prefix))

    async def call(self, actor: Actor, method: str, *args: Any) -> Any:
        await asyncio.sleep(0.001)
        return await actor.handle.call(method, *args)

    async def kill(self, actor: Actor) -> None:
        self.log.append(f"kill {actor.name}")
        actor.handle.die()

    def fresh(self) -> str:
        return f"{next(self._numbers):06x}"

    # -- the controller's link to it --------------------------------------------------------------------

    def shell(self) -> Shell:
        """Return this world for one life of the controller."""
        self._link = Link(self)
        return cast(Shell, self._link)

    def crash(self) -> None:
        """End the present life of the controller: nothing it does reaches this world any more."""
        self._link.cut = True
        self.crashes += 1
        self.crashed.set()

    # -- for tests -------------------------------------------------------------------------------------

    def blob(self, name: str) -> bytes:
        return self.store.get(f"default/blob/{name}", b"")

    def blobs(self) -> set[str]:
        return {key.removeprefix("default/blob/") for key in self.store if key.startswith("default/blob/")}

    def replicas(self, tag: str | None = None) -> list[FakeReplica]:
        """Return the living replicas, oldest first."""
        found = [one for one in self.processes.values() if isinstance(one, FakeReplica)]
        return [one for one in found if tag is None or one.spec.backend.tag == tag]

    def door(self, node: int = 0) -> FakeDoorkeeper:
        return next(
            one for one in self.processes.values() if isinstance(one, FakeDoorkeeper) and one.node == f"node{node}"
        )

    def table(self, node: int = 0) -> RoutingTable:
        """Return the table in force on a node."""
        return self.door(node).tables[-1]


class Link:
    """What one life of the controller sees of the world; once cut, every answer stays out for ever."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.world, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def linked(*args: Any, **kwargs: Any) -> Any:
            if self.cut:
                await asyncio.Future()
            try:
                return await method(*args, **kwargs)
            finally:
                if self.cut:
                    await asyncio.Future()

        return linked


async def begun(world: World) -> Controller:
    """Return a controller that is awake."""
    controller = Controller(world.shell(), "default")
    await controller.wake()
    return controller


async def started(world: World) -> Controller:
    """Return a controller that has begun."""
    controller = await begun(world)
    await controller.begin(HTTP, world.machines[0].id)
    return controller


async def reborn(world: World) -> Controller:
    """Let the controller crash; return its next life."""
    if not world.crashed.is_set():
        world.crash()
    world.crash_after = world.puts + world.crash_always if world.crash_always else None
    world.crashed.clear()
    return await begun(world)


_ids = itertools.count(1)


def _id() -> str:
    return f"command-{next(_ids)}"


def create_endpoint(
    name: str,
    route: str | None = None,
    methods: tuple[str, ...] | None = None,
    backend: str | None = None,
    config: dict[str, Any] | None = None,
) -> CreateEndpoint:
    return CreateEndpoint(_id(), name, route, methods, backend, parse_endpoint_config(config).to_plain())


def create_backend(
    tag: str, kind: str = "ok", user_config: bytes = b"", init: bytes = b"", options: Any = None, **config: Any
) -> CreateBackend:
    blobs = {hashlib.sha256(blob).hexdigest(): blob for blob in (user_config, init) if blob}
    hashes = {blob: name for name, blob in blobs.items()}
    code = CodeSpec(path=f"m:{kind}", init=hashes.get(init, ""))
    plain = parse_backend_config(config).to_plain()
    return CreateBackend(_id(), tag, code, options or {}, plain, hashes.get(user_config, ""), blobs)


def update_backend(tag: str, user_config: bytes | None = None, **changes: Any) -> UpdateBackendConfig:
    if user_config is None:
        return UpdateBackendConfig(_id(), tag, changes, None, {})
    name = hashlib.sha256(user_config).hexdigest()
    return UpdateBackendConfig(_id(), tag, changes, name, {name: user_config})


def set_traffic(endpoint: str, **weights: float) -> SetTraffic:
    return SetTraffic(_id(), endpoint, weights)


async def do(controller: Controller, command: Command) -> None:
    """Carry out a command that must succeed."""
    outcome = await controller.command(command)
    assert outcome == Outcome(), outcome
