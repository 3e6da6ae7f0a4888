"""Replica processes: started, watched, drained, ended and replaced, as `plan` says.

    steer ── plan ──► Start: record saved, process spawned, `load`, address saved, `run` kept open
      ▲               Drain: record saved, table tells replica and routers, `run` returns
      └── bell ◄───── Kill:  process ended, record removed

The open `run` call is how an end is learned within milliseconds; nothing is polled.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from rayserve.actor_names import replica_name
from rayserve.cluster.nodes import Node
from rayserve.controller.bell import Bell
from rayserve.controller.checkpoint import Ledger
from rayserve.controller.launch import Homes, Launcher
from rayserve.controller.plan import (
    DRAINING,
    OVER,
    READY,
    STARTING,
    Drain,
    Kill,
    Start,
    Trouble,
    after_failure,
    demand_of,
    due,
    plan,
    usable,
)
from rayserve.controller.roster import Failure, Life, Roster
from rayserve.controller.shell import Shell
from rayserve.controller.state import Desired, ReplicaRecord, put_replicas, replicas_of, without
from rayserve.controller.tables import Tables
from rayserve.errors import ClusterError, RayServeException
from rayserve.model.spec import Loaded

__all__ = ["Fleet"]

_log = logging.getLogger(__name__)
_AGAIN_S: Final = 1.0
_loaded = msgspec.msgpack.Decoder(Loaded)


class Fleet:
    """All replica processes of the instance."""

    def __init__(self, shell: Shell, ledger: Ledger, roster: Roster, tables: Tables, homes: Homes, bell: Bell) -> None:
        """Know everybody; `adopt` and `steer` begin the work."""
        self._shell = shell
        self._launcher = Launcher(shell, ledger, homes, lambda: self.nodes)
        self._ledger = ledger
        self._roster = roster
        self._tables = tables
        self._homes = homes
        self._bell = bell
        self.nodes: Sequence[Node] = ()
        self.holds: dict[str, Trouble] = {}
        self._loop = asyncio.get_running_loop()

    # -- begin and end -------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over the replicas that a former life of the controller started; end those it had given up."""
        state = self._ledger.state
        prefix = replica_name(state.instance, "")
        living = {name.removeprefix(prefix) for name in await self._shell.names(prefix)}
        for record in state.replicas.values():
            life = self._roster.admit(record, self._loop.time())
            if record.id not in living:
                life.enter(OVER, self._loop.time())
                continue
            life.actor = await self._shell.find(replica_name(state.instance, record.id))
            if record.at is not None:
                life.applied = state.backends[record.tag].user_config[0] if record.tag in state.backends else 0
                life.enter(READY, self._loop.time())
            self._watch(record, life)
        for stranger in living - state.replicas.keys():
            actor = await self._shell.find(prefix + stranger)
            if actor is not None:
                await self._shell.kill(actor)

    def close(self) -> None:
        """Stop watching; the processes live on."""
        for life in self._roster.lives.values():
            if life.task is not None:
                life.task.cancel()

    def forgive(self, tag: str) -> None:
        """Forget a backend's failures: its code or settings are new."""
        self.holds.pop(tag, None)
        self._roster.failures.pop(tag, None)

    # -- plan and act --------------------------------------------------------------------------------

    async def steer(self) -> None:
        """Carry out plans, for ever: after each ring of the bell and when something is due."""
        while True:
            rings = self._bell.rings
            try:
                if await self._turn():
                    continue
                now = self._loop.time()
                at = due(self._ledger.state, self._roster.seen(), now, self.holds)
            except ClusterError as error:
                _log.warning("a plan could not be carried out, next try in %g s: %s", _AGAIN_S, error)
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                async with asyncio.timeout_at(at):
                    await self._bell.after(rings)
            except TimeoutError:
                pass  # something is due

    async def rooms(self) -> list[Node]:
        """Return the nodes open to replicas, with the resources that nobody else holds."""
        open_nodes = self._homes.open()
        return [
            usable(node, await self._shell.available(node.id), self._ledger.state.replicas.values())
            for node in self.nodes
            if node.id in open_nodes
        ]

    def _demanding(self, state: Desired) -> bool:
        """Return whether a backend lacks replicas that need room."""
        return any(
            demand_of(backend.actor_options) and len(replicas_of(state, tag)) < backend.config["num_replicas"]
            for tag, backend in state.backends.items()
        )

    async def _turn(self) -> bool:
        """Plan once and act; return whether there was anything to do."""
        nodes = {node.id: node for node in self.nodes}
        if self._demanding(self._ledger.state):
            nodes |= {node.id: node for node in await self.rooms()}
        kills: list[str] = []
        born: list[ReplicaRecord] = []

        def change(state: Desired) -> Desired:
            kills.clear()
            born.clear()
            new, now = state, self._loop.time()
            for action in plan(state, self._roster.seen(), list(nodes.values()), now, self.holds, self._homes.open()):
                match action:
                    case Start(tag, node):
                        backend, serial = state.backends[tag], new.serial + 1
                        demand = demand_of(backend.actor_options)
                        id_ = f"{tag}#{self._shell.fresh()}"
                        born.append(ReplicaRecord(id_, tag, node, serial, demand, generation=backend.generation))
                        new = replace(put_replicas(new, born[-1:]), serial=serial)
                    case Drain(replica):
                        record = state.replicas[replica]
                        seconds = float(state.backends[record.tag].config["drain_timeout_s"])
                        new = put_replicas(new, [replace(record, drain_s=seconds)])
                    case Kill(replica):
                        kills.append(replica)
            return new

        state = await self._ledger.commit(change)
        for record in born:
            self._watch(record, self._roster.admit(record, self._loop.time()))
        told = self._tell_leavers(state)
        if kills:
            await self._end(kills)
        return bool(kills or born or told)

    def _tell_leavers(self, state: Desired) -> bool:
        """Publish that ready replicas must leave, and start their clocks; return whether there were any."""
        told = False
        for life in self._roster.lives.values():
            record = state.replicas.get(life.id)
            if record is not None and record.drain_s is not None and life.phase == READY:
                life.enter(DRAINING, self._loop.time())
                told = True
        if told:
            self._tables.mark()
        return told

    async def _end(self, ids: list[str]) -> None:
        """End these processes and remove their records."""
        instance = self._ledger.state.instance
        lives = self._roster.lives
        watching = [lives[id_].task for id_ in ids if id_ in lives]
        for task in watching:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in watching if task is not None), return_exceptions=True)
        for id_ in ids:
            life = lives.get(id_)
            # A spawn cut short by the cancel may have gone through: then the name is known.
            known = life.actor if life is not None else None
            actor = known or await self._shell.find(replica_name(instance, id_))
            if actor is not None:
                await self._shell.kill(actor)
        await self._ledger.commit(lambda state: replace(state, replicas=without(state.replicas, *ids)))
        for id_ in ids:
            lives.pop(id_, None)
        self._tables.mark()

    # -- one replica ---------------------------------------------------------------------------------

    def _watch(self, record: ReplicaRecord, life: Life) -> None:
        life.task = self._loop.create_task(self._live(record, life), name=f"replica {record.id}")

    async def _live(self, record: ReplicaRecord, life: Life) -> None:
        """See one replica through from its start to its end."""
        try:
            if life.actor is None:
                life.actor = await self._launcher.spawn(record, life)
                _log.info("replica %s starts on node %s", life.id, record.node[:8])
            if record.at is None:
                loaded = await self._launcher.load(record, life.actor)
                if isinstance(loaded, Failure):
                    return self._over(life, loaded)
                life.at, life.pid = loaded
                life.enter(READY, self._loop.time())
                _log.info("replica %s is ready, process %d", life.id, life.pid)
                self._tables.mark()
            why = await self._launcher.insist(life.actor, "run")
            return self._over(life, Failure("ended", f"it ended by itself: {why}"))
        except RayServeException as error:
            return self._over(life, Failure("died", str(error)))
        except Exception as error:
            _log.exception("watching replica %s failed", life.id)
            return self._over(life, Failure("died", f"{type(error).__name__}: {error}"))

    def _over(self, life: Life, failure: Failure) -> None:
        """Note a replica's end; whether it was asked for is told by its record."""
        now = self._loop.time()
        state = self._ledger.state
        record, backend = state.replicas.get(life.id), state.backends.get(life.tag)
        ready_s = now - life.since if life.phase == READY else 0.0
        if record is not None and record.drain_s is None and backend is not None:
            _log.warning("replica %s is gone (%s): %s", life.id, failure.kind, failure.text)
            if life.phase == STARTING:
                self._roster.failures[life.tag] = failure
            if backend.pending:
                self.holds[life.tag] = Trouble(1, now, math.inf)  # the command that waits for it will fail
            else:
                self.holds[life.tag] = after_failure(self.holds.get(life.tag), now, ready_s)
        else:
            _log.info("replica %s has left (%s): %s", life.id, failure.kind, failure.text)
        life.enter(OVER, now)
        self._tables.mark()
