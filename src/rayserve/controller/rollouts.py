"""The commands that take time: a new backend, and a backend's new settings.

    create, update ──► saved as pending ──► replicas ready, `user_config` taken ──► kept
                                        └─ failed, cancelled, too late ──► undone: as if never asked for

A crash in between leaves the pending mark; the next life of the controller goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from rayserve.cluster.nodes import Node
from rayserve.config import BackendConfig, check_against_traits
from rayserve.controller.bell import Bell
from rayserve.controller.changes import apply, discard, revert
from rayserve.controller.checkpoint import Ledger
from rayserve.controller.commands import CreateBackend, UpdateBackendConfig
from rayserve.controller.doors import Doors
from rayserve.controller.fleet import Fleet
from rayserve.controller.outcome import Outcome, outcome_of
from rayserve.controller.plan import READY, demand_of, shortage
from rayserve.controller.roster import Roster
from rayserve.controller.state import (
    BackendRecord,
    Desired,
    outdated,
    put_backend,
    remember,
    replicas_of,
)
from rayserve.controller.tables import Tables
from rayserve.errors import (
    BackendStartError,
    CannotScaleError,
    InvalidTypeError,
    InvalidValueError,
    ReconfigureError,
    StartupTimeoutError,
)

__all__ = ["Rollouts"]

_log = logging.getLogger(__name__)
_RESTORE_WITHIN_S: Final = 30.0
_BY_KIND: Final = {"type": InvalidTypeError, "value": InvalidValueError}


class Rollouts:
    """Sees backends through their changes."""

    def __init__(self, ledger: Ledger, roster: Roster, tables: Tables, doors: Doors, fleet: Fleet, bell: Bell) -> None:
        """Work on what these hold."""
        self._ledger = ledger
        self._roster = roster
        self._tables = tables
        self._doors = doors
        self._fleet = fleet
        self._bell = bell

    # -- create_backend ------------------------------------------------------------------------------

    async def create(self, command: CreateBackend) -> None:
        """Add a backend and start its replicas; returns when all are ready and every router knows."""
        tag, id_ = command.tag, command.id
        await self._undone_on_failure(self._commit_with_room(command), partial(self._undo_create, tag, id_))
        await self.finish_create(tag, id_)

    async def finish_create(self, tag: str, id_: str) -> None:
        """Do the rest of `create`, once the pending backend is saved."""

        async def see_through() -> None:
            self._fleet.forgive(tag)
            await self._in_time(tag, partial(self._created, tag))
            backend = self._ledger.state.backends[tag]
            assert backend.traits is not None
            check_against_traits(_config(backend), backend.traits, tag)
            await self._ledger.insist(lambda state: remember(_kept(state, tag), id_, Outcome()))

        await self._undone_on_failure(see_through(), partial(self._undo_create, tag, id_))
        await self._doors.published(self._tables.mark())

    async def _undo_create(self, tag: str, id_: str, outcome: Outcome) -> None:
        """Remove a backend that did not come to be; returns when none of its processes is left."""
        backend = self._ledger.state.backends.get(tag)
        if backend is None or backend.pending != id_:
            return
        await self._ledger.insist(lambda state: remember(discard(state, tag), id_, outcome))
        await self._bell.until(lambda: self._nobody(tag))
        self._fleet.forgive(tag)

    def _created(self, tag: str) -> bool | None:
        self._raise_failure(tag)
        return self._all_ready(self._ledger.state.backends[tag])

    def _nobody(self, tag: str) -> bool | None:
        return all(record.tag != tag for record in self._ledger.state.replicas.values()) or None

    # -- update_backend_config -----------------------------------------------------------------------

    async def update(self, command: UpdateBackendConfig) -> None:
        """Change a backend's settings; returns when every replica and router has them."""
        tag, id_ = command.tag, command.id
        await self._undone_on_failure(self._commit_with_room(command), partial(self._undo_update, tag, id_))
        if self._ledger.state.backends[tag].prior is None:
            await self._doors.published()  # nothing changed
            return
        await self._finish_update(tag, id_)

    async def resume_update(self, tag: str, id_: str) -> None:
        """Go on after a restart: reports may be lost, so a `user_config` goes out again under a new revision."""

        def again(state: Desired) -> Desired:
            backend, serial = state.backends[tag], state.serial + 1
            hash_ = backend.user_config[1]
            if not hash_ or backend.prior is None or backend.prior.user_config == hash_:
                return state
            return replace(put_backend(state, replace(backend, user_config=(serial, hash_))), serial=serial)

        await self._ledger.insist(again)
        await self._finish_update(tag, id_)

    async def _finish_update(self, tag: str, id_: str) -> None:
        async def see_through() -> None:
            self._fleet.forgive(tag)
            self._tables.mark()
            await self._in_time(tag, partial(self._updated, tag))
            await self._doors.published(self._tables.mark())
            await self._ledger.insist(lambda state: remember(_kept(state, tag), id_, Outcome()))

        await self._undone_on_failure(see_through(), partial(self._undo_update, tag, id_))

    async def _undo_update(self, tag: str, id_: str, outcome: Outcome) -> None:
        """Go back to the settings before a failed update, on every replica."""
        backend = self._ledger.state.backends.get(tag)
        if backend is None or backend.prior is None or backend.prior.command != id_:
            return
        await self._ledger.insist(lambda state: remember(revert(state, tag), id_, outcome))
        self._fleet.forgive(tag)
        await self._restored(tag)

    def _updated(self, tag: str) -> bool | None:
        """Return True once all replicas that serve have the settings; raise what kept one from them."""
        self._raise_failure(tag)
        backend = self._ledger.state.backends[tag]
        revision, hash_ = backend.user_config
        for record in replicas_of(self._ledger.state, tag):
            life = self._roster.lives.get(record.id)
            if life is not None and life.complaint[0] == revision and hash_:
                raise ReconfigureError(_reconfigure_text(tag, f" on replica {record.id}", life.complaint[1]))
        if outdated(self._ledger.state, tag) or not self._all_have(tag, revision if hash_ else 0):
            return None
        return self._all_ready(backend)

    def _all_have(self, tag: str, revision: int) -> bool:
        lives = (self._roster.lives.get(record.id) for record in replicas_of(self._ledger.state, tag))
        return all(life is not None and life.applied >= revision for life in lives)

    async def _restored(self, tag: str) -> None:
        """Wait until every replica has its old `user_config` again, or cannot take that either."""
        revision, hash_ = self._ledger.state.backends[tag].user_config

        def back() -> bool | None:
            lives = [self._roster.lives.get(record.id) for record in replicas_of(self._ledger.state, tag)]
            return all(life is None or max(life.applied, life.complaint[0]) >= revision for life in lives) or None

        try:
            async with asyncio.timeout(_RESTORE_WITHIN_S):
                await self._doors.published(self._tables.mark())
                if hash_:
                    await self._bell.until(back)
        except TimeoutError:
            _log.warning('not every replica of backend "%s" has its old user_config again', tag)

    # -- shared --------------------------------------------------------------------------------------

    async def _undone_on_failure(
        self, work: Coroutine[Any, Any, None], undo: Callable[[Outcome], Coroutine[Any, Any, None]]
    ) -> None:
        """Await `work`; if it fails or is cancelled, undo what it left and raise its error."""
        try:
            await work
        except BaseException as error:
            await undo(outcome_of(error))
            raise

    async def _commit_with_room(self, command: CreateBackend | UpdateBackendConfig) -> None:
        """Save a command's new state if the cluster has room for what it asks for."""
        nodes: list[Node] = []
        if self._demand(self._ledger.state, command):
            await self._doors.known()
            nodes = await self._fleet.rooms()

        def change(state: Desired) -> Desired:
            new = apply(state, command)
            if new is not state and self._demand(state, command):
                missing = shortage(new, nodes, new.backends[command.tag])
                if missing:
                    raise CannotScaleError(missing)
            return new

        await self._ledger.commit(change, command.blobs)

    def _demand(self, state: Desired, command: CreateBackend | UpdateBackendConfig) -> dict[str, float]:
        """Return the resources that each replica of the command's backend will hold."""
        if isinstance(command, CreateBackend):
            return demand_of(command.actor_options)
        backend = state.backends.get(command.tag)
        return {} if backend is None else demand_of(backend.actor_options)

    async def _in_time(self, tag: str, found: Any) -> None:
        """Wait for `found` within the backend's `startup_timeout_s`."""
        backend = self._ledger.state.backends[tag]
        seconds = float(backend.config["startup_timeout_s"])
        try:
            async with asyncio.timeout(seconds):
                await self._bell.until(found)
        except TimeoutError as error:
            ready = self._ready_of(tag)
            raise StartupTimeoutError(
                f'backend "{tag}": {ready} of {backend.config["num_replicas"]} replicas were ready after '
                f"startup_timeout_s={seconds:g}; raise it, or see the replicas' logs for what takes so long"
            ) from error

    def _ready_of(self, tag: str) -> int:
        lives = (self._roster.lives.get(record.id) for record in replicas_of(self._ledger.state, tag))
        return sum(life is not None and life.phase == READY for life in lives)

    def _all_ready(self, backend: BackendRecord) -> bool | None:
        wanted = backend.config["num_replicas"]
        return (self._ready_of(backend.tag) == wanted == len(replicas_of(self._ledger.state, backend.tag))) or None

    def _raise_failure(self, tag: str) -> None:
        """Raise why a replica of this backend could not start, if one could not."""
        failure = self._roster.failures.get(tag)
        if failure is None:
            return
        if failure.kind == "reconfigure":
            raise ReconfigureError(_reconfigure_text(tag, "", failure.text))
        kind = _BY_KIND.get(failure.kind, BackendStartError)
        raise kind(f'backend "{tag}" could not start:\n{failure.text}')


def _config(backend: BackendRecord) -> BackendConfig:
    # The user_config itself is not at hand, only whether there is one.
    return BackendConfig.from_plain(backend.config, backend.user_config[1] or None)


def _kept(state: Desired, tag: str) -> Desired:
    """Return `state` with a backend's command under way marked as done."""
    return put_backend(state, replace(state.backends[tag], pending="", prior=None))


def _reconfigure_text(tag: str, where: str, trace: str) -> str:
    return f'backend "{tag}": reconfigure failed{where} and the user_config was taken back:\n{trace}'
