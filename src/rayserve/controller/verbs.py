"""Commands carried out: saved first, then done, answered when true everywhere.

    run(command) ──► known id? its first outcome ── else ──► apply + save ──► published ──► Outcome
                                                    └─ create_backend, update_backend_config: `rollouts`

Commands on one name run one after the other, others side by side.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from rayserve.controller.changes import apply
from rayserve.controller.checkpoint import Ledger
from rayserve.controller.commands import Command, CreateBackend, UpdateBackendConfig, subject_of
from rayserve.controller.doors import Doors
from rayserve.controller.outcome import Outcome, outcome_of
from rayserve.controller.rollouts import Rollouts
from rayserve.controller.state import remember
from rayserve.controller.tables import Tables

__all__ = ["Verbs"]

_log = logging.getLogger(__name__)
_KEPT_CANCELS: Final = 100


class Verbs:
    """Carries out commands."""

    def __init__(self, ledger: Ledger, tables: Tables, doors: Doors, rollouts: Rollouts) -> None:
        """No command runs yet; `resume` takes up those that a crash interrupted."""
        self._ledger = ledger
        self._tables = tables
        self._doors = doors
        self._rollouts = rollouts
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, command: Command) -> Outcome:
        """Carry out a command, or wait for or repeat the outcome it had."""
        task = self._running.get(command.id)
        if task is None:
            known = self._ledger.state.outcomes.get(command.id)
            if known is not None:
                await self._doors.published()
                return known
            if command.id in self._cancelled:
                return Outcome("CallCancelledError", "the command was cancelled before it arrived")
            work = partial(self._carry_out, command)
            task = self._begin(command.id, subject_of(command), work, type(command).__name__)
        return await asyncio.shield(task)

    def resume(self) -> None:
        """Go on with what a crash interrupted; its caller asks again with the same id."""
        for tag, backend in self._ledger.state.backends.items():
            if backend.pending:
                id_ = backend.pending
                self._begin(id_, f"backend {tag}", partial(self._rollouts.finish_create, tag, id_))
            elif backend.prior is not None:
                id_ = backend.prior.command
                self._begin(id_, f"backend {tag}", partial(self._rollouts.resume_update, tag, id_))

    async def cancel(self, command: str) -> None:
        """Undo a command that is still running; returns when nothing of it is left. One that is over stays."""
        self._cancelled[command] = None
        while len(self._cancelled) > _KEPT_CANCELS:
            self._cancelled.popitem(last=False)
        task = self._running.get(command)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Cancel whatever runs, and wait until it is undone."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(
        self, id_: str, subject: str, work: Callable[[], Awaitable[None]], kind: str = "Resumed"
    ) -> asyncio.Task[Outcome]:
        lock = self._locks.get(subject) or self._locks.setdefault(subject, asyncio.Lock())

        async def one_after_the_other() -> Outcome:
            try:
                async with lock:
                    await work()
                outcome = Outcome()
            except (asyncio.CancelledError, Exception) as error:
                outcome = outcome_of(error)
            finally:
                del self._running[id_]
            if outcome.error:
                _log.warning("%s, %s: %s: %s", kind, subject, outcome.error, outcome.text)
            else:
                _log.info("%s, %s: done", kind, subject)
            return outcome

        task = asyncio.get_running_loop().create_task(one_after_the_other(), name=f"command {id_}")
        self._running[id_] = task
        return task

    async def _carry_out(self, command: Command) -> None:
        match command:
            case CreateBackend():
                await self._rollouts.create(command)
            case UpdateBackendConfig():
                await self._rollouts.update(command)
            case _:
                await self._ledger.commit(lambda state: remember(apply(state, command), command.id, Outcome()))
                await self._doors.published(self._tables.mark())
