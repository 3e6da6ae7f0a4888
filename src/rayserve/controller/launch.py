"""How one replica comes up: its process is spawned, its code loaded, its address saved.

    record ─► spawn (once the node has a run directory) ─► load (the user's constructor) ─► address, traits saved

Nothing is routed to it before its address is saved, so a restarted controller knows every replica that clients use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from rayserve.actor_names import replica_name
from rayserve.cluster.actors import Actor
from rayserve.cluster.errors import ActorAway
from rayserve.cluster.nodes import Node
from rayserve.controller.checkpoint import Ledger
from rayserve.controller.roster import Failure, Life
from rayserve.controller.shell import Shell
from rayserve.controller.state import Desired, ReplicaRecord, put_backend, put_replicas
from rayserve.controller.tables import row_of
from rayserve.errors import ClusterError
from rayserve.model.spec import Loaded, ReplicaSpec, Traits
from rayserve.model.table import Replica

__all__ = ["Homes", "Launcher"]

_log = logging.getLogger(__name__)
_AGAIN_S: Final = 1.0
_loaded = msgspec.msgpack.Decoder(Loaded)


class Homes(Protocol):
    """Where replicas can live: nodes with a doorkeeper."""

    def open(self) -> set[str]:
        """Return the ids of nodes on which replicas may be started."""

    async def run_dir(self, node: str) -> str:
        """Return the run directory on a node, once its doorkeeper has made it."""


class Launcher:
    """Brings replicas up."""

    def __init__(self, shell: Shell, ledger: Ledger, homes: Homes, nodes: Callable[[], Sequence[Node]]) -> None:
        """Launch what `ledger` holds records of, on `nodes()`."""
        self._shell = shell
        self._ledger = ledger
        self._homes = homes
        self._nodes = nodes

    async def spawn(self, record: ReplicaRecord, life: Life) -> Actor:
        """Ask for the process, once its node has a run directory.

        Raises:
            ClusterError: it is not wanted any more, or cannot be had.
        """
        run_dir = await self._homes.run_dir(record.node)
        state = self._ledger.state
        backend, present = state.backends.get(record.tag), state.replicas.get(record.id)
        if backend is None or present is None or present.drain_s is not None:
            raise ClusterError("it is not wanted any more")
        life.applied = backend.user_config[0]
        address = next((node.address for node in self._nodes() if node.id == record.node), "")
        spec = ReplicaSpec(
            instance=state.instance,
            replica=record.id,
            node=record.node,
            run_dir=run_dir,
            backend=row_of(backend, ()),
            code=backend.code,
            secret=state.secret,
            listen=address if state.http.get("cluster") else "",
        )
        name = replica_name(state.instance, record.id)
        return await self._shell.spawn(
            "replica", name, record.node, backend.actor_options, msgspec.msgpack.encode(spec)
        )

    async def load(self, record: ReplicaRecord, actor: Actor) -> tuple[Replica, int] | Failure:
        """Wait until the user's code is loaded and constructed; return address and process id, saved before."""
        loaded = _loaded.decode(await self.insist(actor, "load"))
        if loaded.error:
            return Failure(loaded.kind, loaded.error)
        at = Replica(record.id, record.node, loaded.unix, loaded.host, loaded.port)
        await self._ledger.insist(lambda state: _settled(state, record, at, loaded.traits))
        return at, loaded.pid

    async def insist(self, actor: Actor, method: str) -> Any:
        """Call a method whose repetition is harmless, again for as long as the process is only cut off."""
        while True:
            try:
                return await self._shell.call(actor, method)
            except ActorAway as error:
                _log.info("%s: %s; next try in %g s", method, error, _AGAIN_S)
                await asyncio.sleep(_AGAIN_S)


def _settled(state: Desired, record: ReplicaRecord, at: Replica, traits: Traits) -> Desired:
    """Return `state` with a replica's address, and its backend's traits if they were unknown."""
    present = state.replicas.get(record.id)
    backend = state.backends.get(record.tag)
    if present is None or backend is None or present.drain_s is not None:
        return state  # not wanted any more: it is about to be ended
    state = put_replicas(state, [replace(present, at=at)])
    return state if backend.traits is not None else put_backend(state, replace(backend, traits=traits))
