"""The parts of a running instance, joined, and the tasks that move them.

ledger ─► tables ─► doors ─► (news) ─► counts, roster          nodes, once a second ─► fleet, doors
▲ verbs, rollouts ◄── bell ──► fleet ◄── roster
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from rayserve.controller.bell import Bell
from rayserve.controller.checkpoint import Checkpoint, Ledger
from rayserve.controller.counts import Counts
from rayserve.controller.doors import Doors
from rayserve.controller.fleet import Fleet
from rayserve.controller.rollouts import Rollouts
from rayserve.controller.roster import Roster
from rayserve.controller.shell import Shell
from rayserve.controller.state import Desired
from rayserve.controller.tables import Tables
from rayserve.controller.verbs import Verbs
from rayserve.errors import ClusterError

__all__ = ["Running"]

_log = logging.getLogger(__name__)
_NODES_EVERY_S: Final = 1.0  # Ray tells nobody when a node comes or goes


class Running:
    """Everything that exists while there is a state; `close` stops it as a crash would."""

    def __init__(self, shell: Shell, checkpoint: Checkpoint, state: Desired) -> None:
        """Join the parts; nothing moves before `rise`."""
        self.shell = shell
        self.checkpoint = checkpoint
        self.bell = Bell()
        self.counts = Counts()
        self.roster = Roster()
        self.ledger = Ledger(checkpoint, state, self.bell)
        self.tables = Tables(self.ledger, self.roster, self.bell)
        self.doors = Doors(shell, self.ledger, self.tables, self.bell, self._news)
        self.fleet = Fleet(shell, self.ledger, self.roster, self.tables, self.doors, self.bell)
        rollouts = Rollouts(self.ledger, self.roster, self.tables, self.doors, self.fleet, self.bell)
        self.verbs = Verbs(self.ledger, self.tables, self.doors, rollouts)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def rise(cls, shell: Shell, checkpoint: Checkpoint, state: Desired) -> Running:
        """Build the parts and set them in motion."""
        running = cls(shell, checkpoint, state)
        running.fleet.nodes = await shell.nodes()
        # Adopted before any table goes out: one without the living replicas would stop the traffic.
        await running.fleet.adopt()
        running.doors.follow(running.fleet.nodes)
        running._go(running.fleet.steer())
        running._go(running._follow_nodes())
        running.verbs.resume()
        return running

    def nobody(self, tags: list[str]) -> bool | None:
        """Return True if no replica of these backends is left."""
        return all(record.tag not in tags for record in self.ledger.state.replicas.values()) or None

    def close(self) -> None:
        """Stop all tasks."""
        for task in self._tasks:
            task.cancel()
        self.fleet.close()
        self.doors.close()

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_complain)
        self._tasks.append(task)

    async def _follow_nodes(self) -> None:
        while True:
            await asyncio.sleep(_NODES_EVERY_S)
            try:
                nodes = await self.shell.nodes()
            except ClusterError as error:
                _log.warning("which nodes live is not known just now: %s", error)
                continue
            if nodes == self.fleet.nodes:
                continue
            for id_ in {node.id for node in self.fleet.nodes} - {node.id for node in nodes}:
                self.counts.node_left(id_)
            self.fleet.nodes = nodes
            self.doors.follow(nodes)

    def _news(self, node: str, news: dict[str, Any]) -> None:
        for facts in news["facts"]:
            self.counts.add(facts, node)
        for process in news["gone"]:
            self.counts.left(process)
        for report in news["reports"]:
            self.roster.take(report)


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("a task of the control plane failed", exc_info=error)
