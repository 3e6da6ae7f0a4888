"""What is known of each replica just now: in memory only, found out anew after a restart.

fleet (load, run, end) ──► Life ──► plan (Seen), tables (ready, leaving), verbs (applied, failures)
reports of replicas ──────► Life.applied, Life.complaint
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from rayserve.cluster.actors import Actor
from rayserve.controller.plan import DRAINING, OVER, READY, STARTING, Seen
from rayserve.controller.state import Desired, ReplicaRecord
from rayserve.model.facts import Report
from rayserve.model.table import Replica

__all__ = ["Failure", "Life", "Roster"]


@dataclass(frozen=True)
class Failure:
    """Why a replica did not become ready.

    Attributes:
        kind: as `Loaded.kind`, or "died".
        text: the user's traceback, or what happened.
    """

    kind: str
    text: str


@dataclass(eq=False)
class Life:
    """One replica, seen from here.

    Attributes:
        id: its id.
        tag: its backend.
        since: when it entered its phase, on the event loop's clock.
        phase: one of `plan`'s four.
        at: its address, once ready.
        pid: its process id, once ready.
        applied: newest `user_config` revision it has.
        complaint: (revision, traceback) of the last `user_config` it could not take.
        actor: its process.
        task: what waits for its end.
    """

    id: str
    tag: str
    since: float
    phase: str = STARTING
    at: Replica | None = None
    pid: int = 0
    applied: int = 0
    complaint: tuple[int, str] = (0, "")
    actor: Actor | None = None
    task: asyncio.Task[None] | None = None

    def enter(self, phase: str, now: float) -> None:
        """Change the phase."""
        self.phase, self.since = phase, now


@dataclass
class Roster:
    """All lives by replica id, and why a backend's last replica failed to start."""

    lives: dict[str, Life] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def seen(self) -> dict[str, Seen]:
        """Return what `plan` needs."""
        return {life.id: Seen(life.phase, life.since) for life in self.lives.values()}

    def ready(self, state: Desired) -> dict[str, tuple[Replica, ...]]:
        """Return tag → ready replicas that stay, oldest first."""
        found: dict[str, list[Replica]] = {}
        for id_, record in state.replicas.items():
            life = self.lives.get(id_)
            if record.drain_s is None and life is not None and life.phase == READY and life.at is not None:
                found.setdefault(record.tag, []).append(life.at)
        return {tag: tuple(replicas) for tag, replicas in found.items()}

    def leaving(self, state: Desired) -> tuple[str, ...]:
        """Return the ids of living replicas that must take no new call, sorted."""
        return tuple(
            sorted(
                id_
                for id_, record in state.replicas.items()
                if record.drain_s is not None and id_ in self.lives and self.lives[id_].phase in (READY, DRAINING)
            )
        )

    def admit(self, record: ReplicaRecord, now: float) -> Life:
        """Add a replica that is about to start, or is found again."""
        life = self.lives[record.id] = Life(record.id, record.tag, now, at=record.at)
        return life

    def over(self, replica: str) -> bool:
        """Return whether a replica's process has ended, or never was."""
        life = self.lives.get(replica)
        return life is None or life.phase == OVER

    def take(self, report: Report) -> None:
        """Note what a replica did with a `user_config`; reports may come twice or late."""
        life = self.lives.get(report.replica)
        if life is None:
            return
        if report.error:
            life.complaint = max(life.complaint, (report.revision, report.error))
        else:
            life.applied = max(life.applied, report.revision)
