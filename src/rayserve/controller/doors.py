"""One doorkeeper per living node: started, fed with tables, listened to, started again.

living nodes ── follow ──► Door ─┬─ publish(newest table) ──► acknowledged by the node's routers
└─ watch (long poll) ──► facts, reports; its failure: the doorkeeper is gone
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from rayserve.actor_names import doorkeeper_name
from rayserve.cluster.actors import Actor
from rayserve.cluster.errors import ActorAway, ActorGone
from rayserve.cluster.nodes import Node
from rayserve.controller.bell import Bell
from rayserve.controller.checkpoint import Ledger
from rayserve.controller.shell import Shell
from rayserve.controller.tables import Tables
from rayserve.errors import ClusterError, RayServeException

__all__ = ["Door", "Doors"]

_log = logging.getLogger(__name__)

OPENING, OPEN, FAILED = "opening", "open", "failed"
_START_WITHIN_S: Final = 60.0
_PUBLISH_WITHIN_S: Final = 10.0  # a doorkeeper gives late routers one second
_WATCH_WITHIN_S: Final = 60.0  # a doorkeeper answers after thirty at the latest
_PATIENCE_S: Final = 30.0  # so long commands wait for a doorkeeper that died to be back
_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 5.0


@dataclass(eq=False)
class Door:
    """One node's doorkeeper, seen from here.

    Attributes:
        node: where it is.
        state: "opening" (also again), "open" or "failed" (tried again every few seconds).
        since: when it was last found not open.
        run_dir: the instance's directory there; kept while a dead doorkeeper is replaced.
        url_host: what clients there put into a URL, "" without HTTP.
        port: its HTTP port, 0 without HTTP.
        acked: stamp of the last table that the node's routers acknowledged.
        failure: why it is not open.
        ingresses: what it last said of its ingress processes.
        actor: its process.
        task: what keeps it open.
    """

    node: Node
    since: float
    state: str = OPENING
    run_dir: str = ""
    url_host: str = ""
    port: int = 0
    acked: tuple[int, int] = (-1, -1)
    failure: BaseException | None = None
    ingresses: list[dict[str, Any]] = field(default_factory=list)
    actor: Actor | None = None
    task: asyncio.Task[None] | None = None


class Doors:
    """All doorkeepers of the instance."""

    def __init__(
        self, shell: Shell, ledger: Ledger, tables: Tables, bell: Bell, on_news: Callable[[str, dict[str, Any]], None]
    ) -> None:
        """Know no node yet.

        Args:
            shell: the world.
            ledger: holds the HTTP settings.
            tables: what to publish.
            bell: rings for new tables; rung when a door's state changes.
            on_news: called with a node's id and an answer of its doorkeeper's `watch`.
        """
        self._shell = shell
        self._ledger = ledger
        self._tables = tables
        self._bell = bell
        self._on_news = on_news
        self.doors: dict[str, Door] = {}

    def follow(self, nodes: Sequence[Node]) -> None:
        """Open doors on new nodes; forget those whose node is gone."""
        living = {node.id: node for node in nodes}
        for id_ in self.doors.keys() - living.keys():
            door = self.doors.pop(id_)
            if door.task is not None:
                door.task.cancel()
        loop = asyncio.get_running_loop()
        for id_ in living.keys() - self.doors.keys():
            door = self.doors[id_] = Door(living[id_], loop.time())
            door.task = loop.create_task(self._keep(door), name=f"door {id_[:8]}")
        self._bell.ring()

    def open(self) -> set[str]:
        """Return the ids of nodes on which replicas may be started."""
        return {id_ for id_, door in self.doors.items() if door.run_dir}

    async def run_dir(self, node: str) -> str:
        """Return the run directory on a node, once its doorkeeper has made it."""
        return await self._bell.until(lambda: self.doors[node].run_dir or None if node in self.doors else None)

    async def known(self) -> None:
        """Wait until each door is open or has failed."""
        await self._bell.until(lambda: all(door.state != OPENING for door in self.doors.values()) or None)

    async def published(self, stamp: tuple[int, int] | None = None) -> None:
        """Wait until every door that is open, or will be soon, acknowledged `stamp`; None: the newest table."""
        wanted = self._tables.stamp if stamp is None else stamp
        await self._bell.until(
            lambda: all(door.acked >= wanted for door in self.doors.values() if door.state != FAILED) or None
        )

    def close(self) -> None:
        """Stop watching; the doorkeepers live on."""
        for door in self.doors.values():
            if door.task is not None:
                door.task.cancel()

    async def stop(self, grace_s: float) -> None:
        """End all doorkeepers, their ingresses before them."""
        self.close()
        await asyncio.gather(*(self._stop(door, grace_s) for door in self.doors.values()))
        self.doors.clear()

    async def _stop(self, door: Door, grace_s: float) -> None:
        actor = door.actor or await self._shell.find(self._name(door))
        if actor is None:
            return
        try:
            async with asyncio.timeout(grace_s + _PUBLISH_WITHIN_S):
                await self._shell.call(actor, "stop", grace_s)
        except (RayServeException, TimeoutError) as error:
            _log.warning("the doorkeeper on node %s did not stop by itself: %s", door.node.id[:8], error)
        await self._shell.kill(actor)

    # -- one door --------------------------------------------------------------------------------------

    async def _keep(self, door: Door) -> None:
        """Keep one door open for ever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                actor = await self._open(door)
                pause_s = _FIRST_PAUSE_S
                await _first_end(self._feed(door, actor), self._listen(door, actor))
            except (RayServeException, TimeoutError) as error:
                await self._lost(door, error)
            except Exception as error:
                _log.exception("the door of node %s", door.node.id[:8])
                await self._lost(door, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    async def _open(self, door: Door) -> Actor:
        """Start the node's doorkeeper, or find it open; return its process."""
        state = self._ledger.state
        if door.actor is None:
            name = self._name(door)
            door.actor = await self._shell.find(name) or await self._shell.spawn("doorkeeper", name, door.node.id, {})
        stamp, table = self._tables.current()
        settings = {
            "instance": state.instance,
            "node": door.node.id,
            "node_address": door.node.address,
            "http_host": state.http["http_host"],
            "http_port": state.ports.get(door.node.id, state.http["http_port"]),
            "options": state.http["options"],
            "secret": state.secret,
            "table": table,
        }
        async with asyncio.timeout(_START_WITHIN_S):
            info = await self._shell.call(door.actor, "start", settings)
        door.run_dir, door.url_host, door.port = info["run_dir"], info["url_host"], info["http_port"]
        if state.http["http_port"] == 0 and state.ports.get(door.node.id) != door.port:
            await self._ledger.commit(lambda state: replace(state, ports={**state.ports, door.node.id: door.port}))
        # One that was open before we came has not got this table; publishing it once more tells.
        door.state, door.failure, door.acked = OPEN, None, (-1, -1)
        self._bell.ring()
        _log.info("node %s is open at %s:%d with table %s", door.node.id[:8], door.url_host, door.port, stamp)
        return door.actor

    async def _feed(self, door: Door, actor: Actor) -> None:
        """Publish each newest table."""
        while True:
            await self._bell.until(lambda: door.acked < self._tables.stamp or None)
            stamp, table = self._tables.current(door.acked)
            async with asyncio.timeout(_PUBLISH_WITHIN_S):
                # Ray takes arguments over 100 kB through its object store, which costs far more than packing them.
                answer = await self._shell.call(actor, "publish", zlib.compress(table, 1))
            # If it could do nothing with the changes, it is another one than acknowledged the table before.
            acked = tuple(answer["stamp"])
            door.acked = acked if acked >= stamp else (-1, -1)
            if answer["late"]:
                _log.warning("late routers on node %s: %s", door.node.id[:8], ", ".join(answer["late"]))
            self._bell.ring()

    async def _listen(self, door: Door, actor: Actor) -> None:
        """Take what comes up."""
        cursor = ""
        while True:
            async with asyncio.timeout(_WATCH_WITHIN_S):
                news = await self._shell.call(actor, "watch", cursor)
            cursor, door.ingresses = news["cursor"], news["ingresses"]
            self._on_news(door.node.id, news)
            self._bell.ring()

    async def _lost(self, door: Door, error: BaseException) -> None:
        """Note why a door is not open; a doorkeeper that hangs is ended."""
        _log.warning("the doorkeeper on node %s: %s", door.node.id[:8], str(error) or "no answer in time")
        now = asyncio.get_running_loop().time()
        if door.state == OPEN:
            door.state, door.since = OPENING, now
        # Its end, or silence, is passing; what it says itself (a taken port) is not.
        passing = isinstance(error, (ActorAway, ActorGone, TimeoutError)) and now < door.since + _PATIENCE_S
        if not passing:
            door.state = FAILED
        door.failure, door.acked = error, (-1, -1)
        if isinstance(error, TimeoutError) and door.actor is not None:
            with suppress(ClusterError):
                await self._shell.kill(door.actor)
        if isinstance(error, (ActorGone, TimeoutError)):
            door.actor = None
        self._bell.ring()

    def _name(self, door: Door) -> str:
        return doorkeeper_name(self._ledger.state.instance, door.node.id)


async def _first_end(*works: Any) -> None:
    """Run all until one ends, end the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
