"""A router and replicas on one thread: nothing happens unless the test says so, and time is a number.

Stage ── turn() ──► the router's loop, then each replica's sockets          pass_time(s) ─► deadlines
Puppet: a replica whose user code is the test: `take` a call, then answer, fail or leave it
Probe:  a call that writes down what it hears
"""

from __future__ import annotations

import heapq
import itertools
import select
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, cast

from rayserve.model.table import Backend, BatchRule, Endpoint, Replica, RoutingTable, Traffic
from rayserve.replica.intake import Intake
from rayserve.replica.server import Server
from rayserve.replica.work import Work
from rayserve.router.call import Call, Upload
from rayserve.router.channel import Channel
from rayserve.router.router import Router
from rayserve.wire import heads
from rayserve.wire.codec import CALL, END
from rayserve.wire.handshake import ServerHandshake
from rayserve.wire.heads import Failure, Invoke, Open
from rayserve.wire.link import Link
from rayserve.wire.sockets import listen_unix

INSTANCE, NODE = "stage", "node-1"


class Timer:
    def __init__(self, run: Callable[[], None]) -> None:
        self.run: Callable[[], None] | None = run

    def cancel(self) -> None:
        self.run = None


class StageLoop:
    """As much of an event loop as a router asks for; time passes only when told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ready: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}

    def time(self) -> float:
        return self.now

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        self._ready.append(lambda: cast(None, function(*args)))

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, function: Callable[..., object], *args: object) -> Timer:
        timer = Timer(lambda: cast(None, function(*args)))
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(self, delay: float, function: Callable[..., object], *args: object) -> Timer:
        return self.call_at(self.now + delay, function, *args)

    def add_reader(self, fd: int, function: Callable[[], None]) -> None:
        self._readers[fd] = function

    def remove_reader(self, fd: int) -> None:
        self._readers.pop(fd, None)

    def add_writer(self, fd: int, function: Callable[[], None]) -> None:
        self._writers[fd] = function

    def remove_writer(self, fd: int) -> None:
        self._writers.pop(fd, None)

    def turn(self) -> bool:
        """Run what is ready now; return whether anything was."""
        did = False
        while self._timers and self._timers[0][0] <= self.now:
            run = heapq.heappop(self._timers)[2].run
            if run is not None:
                did = True
                run()
        for _ in range(len(self._ready)):
            self._ready.popleft()()
            did = True
        poll = select.poll()
        for fd in self._readers:
            poll.register(fd, select.POLLIN)
        for fd in self._writers:
            poll.register(fd, select.POLLOUT | (select.POLLIN if fd in self._readers else 0))
        for fd, mask in poll.poll(0):
            if mask & ~select.POLLOUT and fd in self._readers:
                self._readers[fd]()
                did = True
            if mask & select.POLLOUT and fd in self._writers:
                self._writers[fd]()
                did = True
        return did

    @property
    def next_timer(self) -> float | None:
        while self._timers and self._timers[0][2].run is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None


def _flush(link: Link) -> None:
    link.flush()


class Puppet:
    """A replica without user code."""

    def __init__(self, stage: Stage, name: str, limit: int) -> None:
        self.intake = Intake(limit, BatchRule())
        self.running: list[Work] = []
        self.row = Replica(name, NODE, f"{stage.folder}/{name}.sock")
        self.alive = True
        self.left = False
        self.intake.drained = self._leave
        self.intake.later = lambda delay_s, function: cast(None, stage.loop.call_later(delay_s, function))
        self.server = Server(
            self.intake, lambda _unix: ServerHandshake(INSTANCE, name), _flush, stage.folder, cast(Any, stage.loop)
        )
        self.server.listen(listen_unix(self.row.unix))

    def _leave(self) -> None:
        self.left = True

    def poll(self) -> bool:
        """Act on what the sockets have; return whether there was anything."""
        if not self.alive or not select.select([self.server], [], [], 0)[0]:
            return False
        self.server.poll(0)
        return True

    def take(self) -> Work | None:
        """Start the next call, as a thread of user code would."""
        work = self.intake.take()
        if work is not None:
            work.session.started(work)
            self.running.append(work)
        return work

    def answer(self, work: Work, body: bytes = b"") -> None:
        self.running.remove(work)
        if isinstance(work.head, Invoke):
            work.session.value(work, [len(body)], [body])
        else:
            work.session.answer(work, 200, b"", body)

    def fail(self, work: Work) -> None:
        self.running.remove(work)
        work.session.fail(work, Failure("user_exception", "it raised"))

    def drain(self) -> None:
        for session in self.server.sessions:
            session.go_away()
        self.intake.drain()

    def kill(self) -> None:
        """Close everything without a word, as the end of the process would."""
        self.alive = False
        self.server.close()

    @property
    def held(self) -> int:
        """Everything it holds for anybody."""
        works = sum(len(session._works) + len(session._outflows) for session in self.server.sessions)
        return works + self.intake.admitted + len(self.intake.queue)


class Probe(Call):
    """A call that writes down what it hears."""

    __slots__ = ("body", "ends", "grants", "heard", "parts", "retry_after_s")

    def __init__(
        self,
        endpoint: str = "e",
        *,
        timeout_s: float = 60.0,
        now: float = 1000.0,
        idempotent: bool = False,
        body: bytes = b"",
        upload: bool = False,
        key: str | None = None,
        grants: bool = True,
    ) -> None:
        super().__init__(endpoint, now + timeout_s, idempotent, key)
        self.body = body
        self.ends: list[str] = []
        self.heard: list[Failure] = []
        self.parts: list[bytes] = []
        self.grants = grants
        self.retry_after_s = 0
        if upload:
            self.upload = Upload()
            self.upload.push(body)
            self.upload.ended = True

    def open_head(self, time_left_ms: int) -> bytes:
        return heads.encode(Open(self.endpoint, "id", time_left_ms))

    def small_body(self) -> bytes:
        return self.body

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        (heads.decode_value if self.flags & CALL else heads.decode_answer)(head)
        self.parts.append(bytes(body))
        if flags & END:
            self.ends.append("answered")

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        self.parts.append(bytes(piece))
        if end:
            self.ends.append("answered")
        elif self.grants and self.channel is not None:
            self.channel.grant(self, len(piece))

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        self.heard.append(failure)
        self.ends.append(failure.reason)
        self.retry_after_s = retry_after_s


class PythonProbe(Probe):
    """A Python call, which only links of role "handle" may carry."""

    flags = CALL

    def open_head(self, time_left_ms: int) -> bytes:
        return heads.encode(Invoke(self.endpoint, "id", time_left_ms, sizes=[len(self.body)]))


class Stage:
    """One router (or several) and puppets; a context manager."""

    def __init__(self, role: str = "ingress") -> None:
        self.folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
        self.loop = StageLoop()
        self._role = role
        self.routers: list[Router] = []
        self.router = self.new_router()
        self.puppets: dict[str, Puppet] = {}
        self._version = 0
        self.backends: dict[str, Backend] = {}
        self.endpoints: dict[str, Endpoint] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for router in self.routers:
            router.close()
        for puppet in self.puppets.values():
            if puppet.alive:
                puppet.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_router(self, role: str = "") -> Router:
        router = Router(
            cast(Any, self.loop), node=NODE, instance=INSTANCE, role=role or self._role, clock=self.loop.time,
            draw=lambda: 0.0,
        )  # fmt: skip
        self.routers.append(router)
        return router

    # -- the table ------------------------------------------------------------------------------------

    def backend(self, tag: str, *replicas: str, limit: int = 8, queued: int = 1000) -> Self:
        """List `replicas` under `tag`; those that do not exist yet are made."""
        for name in replicas:
            if name not in self.puppets:
                self.puppets[name] = Puppet(self, name, limit)
            self.puppets[name].intake.resize(limit, BatchRule())
        rows = tuple(self.puppets[name].row for name in replicas)
        self.backends[tag] = Backend(tag, 1, rows, max_concurrent_queries=limit, max_queued=queued)
        return self

    def endpoint(self, name: str, **weights: float) -> Self:
        self.endpoints[name] = Endpoint(name, None, ("GET", "POST"), Traffic(weights) if weights else None)
        return self

    def publish(self, routers: Iterable[Router] = (), closing: bool = False) -> Self:
        """Make the table the law, for all routers or only for `routers`; then let everything settle."""
        self._version += 1
        endpoints, backends = tuple(self.endpoints.values()), tuple(self.backends.values())
        table = RoutingTable(INSTANCE, 1, self._version, endpoints, backends, (), closing)
        for router in routers or self.routers:
            router.apply(table)
        self.settle()
        return self

    # -- time -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let routers and puppets act until there is nothing left to do now."""
        while True:
            did = self.loop.turn()
            for puppet in list(self.puppets.values()):
                did = puppet.poll() or did
            if not did:
                return

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from timer to timer."""
        end = self.loop.now + seconds
        while True:
            due = self.loop.next_timer
            if due is None or due > end:
                break
            self.loop.now = max(self.loop.now, due)
            self.settle()
        self.loop.now = end
        self.settle()

    # -- calls ----------------------------------------------------------------------------------------

    def call(self, endpoint: str = "e", router: Router | None = None, **options: Any) -> Probe:
        """Submit a new call; nothing has been sent until the stage settles."""
        router = router or self.router
        kind = PythonProbe if router.connector._role == "handle" else Probe
        probe = kind(endpoint, now=self.loop.now, **options)
        router.submit(probe)
        return probe

    def channels(self, router: Router | None = None) -> list[Channel]:
        pools = (router or self.router)._pools.values()
        return [channel for pool in pools for channel in pool.candidates]
