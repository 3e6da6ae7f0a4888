"""One instance's control plane, put together: begins, wakes up after a crash, answers, closes down.

    begin(http) ─► first state saved ─► doors open        a later life: wake() ─► state loaded, epoch + 1,
    command(…)  ─► verbs                                  replicas adopted, doors found, interrupted commands resumed
    shutdown()  ─► closing published ─► backends drain, callers before those they call ─► doors stop ─► state erased

It runs on one event loop and reaches the world through its shell only.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, Final

from msgspec.structs import replace

from rayserve.controller import words
from rayserve.controller.changes import unknown
from rayserve.controller.checkpoint import Checkpoint, again
from rayserve.controller.commands import Command
from rayserve.controller.doors import FAILED, OPEN
from rayserve.controller.outcome import Outcome
from rayserve.controller.plan import waves
from rayserve.controller.running import Running
from rayserve.controller.shell import Shell
from rayserve.controller.state import Desired, blobs_of, drain
from rayserve.controller.tables import APPS, methods_of
from rayserve.errors import ClusterError, NotRunningError

__all__ = ["Controller"]

_log = logging.getLogger(__name__)
_CLOSING_TOLD_S: Final = 5.0
_INGRESS_GRACE_S: Final = 10.0  # by then every replica has drained; what is left are slow clients


class Controller:
    """The control plane of one instance; `Running` holds its parts while there is a state."""

    def __init__(self, shell: Shell, instance: str) -> None:
        """Do nothing yet; `wake` must come first."""
        self._shell = shell
        self._instance = instance
        self._rising = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self._running: Running | None = None

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to control: `begin` was not called, failed, or `shutdown` has ended."""
        return self._running is None

    async def wake(self) -> None:
        """Take up the state that an earlier life saved, if there is one."""
        async with self._rising:
            checkpoint = Checkpoint(self._shell, self._instance)
            state = await again(checkpoint.load)
            if state is None:
                return
            state = replace(state, epoch=state.epoch + 1)
            await again(lambda: checkpoint.save(state))
            await checkpoint.collect(blobs_of(state))
            self._running = await again(lambda: Running.rise(self._shell, checkpoint, state))
        if state.closing:
            self._closing = asyncio.get_running_loop().create_task(self._shut_down())

    async def begin(self, http: dict[str, Any], node: str) -> dict[str, Any]:
        """Start the instance, or join it if it runs; return its `info` for `node`.

        Args:
            http: `http_host`, `http_port`, `options` (plain `HTTPOptions`) and `cluster` (other nodes may join).
            node: Ray's id of the caller's node.

        Raises:
            PortInUseError: the port is taken on that node.
            RayServeException: its door cannot be opened for another reason. If nothing ran before, nothing is left.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)  # the one before; this begins anew
        async with self._rising:
            if self._running is None:
                checkpoint = Checkpoint(self._shell, self._instance)
                state = Desired(self._instance, http=http, secret=secrets.token_bytes(32), epoch=1)
                await checkpoint.save(state)
                self._running = await Running.rise(self._shell, checkpoint, state)
        running = self._here()
        await running.doors.known()
        door = running.doors.doors.get(node)
        if door is None or door.state != FAILED:
            return self.info(node)
        failure = door.failure or ClusterError(f"node {node[:8]} cannot be reached")
        state = running.ledger.state
        if not state.endpoints and not state.backends and all(d.state == FAILED for d in running.doors.doors.values()):
            await self.shutdown()
        raise failure

    def info(self, node: str) -> dict[str, Any]:
        """Return what a process on `node` needs to know of this instance."""
        running = self._here()
        door = running.doors.doors.get(node)
        if door is None or door.state != OPEN or not door.url_host:
            door = next((one for one in running.doors.doors.values() if one.url_host), door)
        return {
            "name": self._instance,
            "http": running.ledger.state.http,
            "url": f"http://{door.url_host}:{door.port}" if door is not None and door.url_host else None,
            "run_dir": running.doors.doors[node].run_dir if node in running.doors.doors else "",
            "secret": running.ledger.state.secret,
        }

    async def run_dir(self, node: str) -> str:
        """Return the run directory on a node, once its doorkeeper has made it."""
        return await self._here().doors.run_dir(node)

    async def command(self, command: Command) -> Outcome:
        """Carry out a command; see `Verbs.run`."""
        running = self._here()
        if running.ledger.state.closing:
            return Outcome("NotRunningError", f'instance "{self._instance}" is shutting down')
        return await running.verbs.run(command)

    async def cancel(self, command: str) -> None:
        """Undo a command that still runs; see `Verbs.cancel`."""
        await self._here().verbs.cancel(command)

    # -- what is asked -------------------------------------------------------------------------------

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """Return name → `{"route", "methods", "traffic", "shadows"}`."""
        state = self._here().ledger.state
        apps = {tag for tag, one in state.backends.items() if one.traits is not None and one.traits.kind in APPS}
        return {
            name: {
                "route": record.route,
                "methods": list(methods_of(record, not apps.isdisjoint(record.weights))),
                "traffic": dict(record.weights),
                "shadows": dict(record.shadows),
            }
            for name, record in state.endpoints.items()
        }

    def endpoint_config(self, name: str) -> dict[str, Any]:
        """Return an endpoint's config, plain."""
        state = self._here().ledger.state
        if name not in state.endpoints:
            raise unknown(state, "endpoint", name)
        return state.endpoints[name].config

    def backends(self) -> dict[str, tuple[dict[str, Any], str]]:
        """Return tag → (config, plain; hash of its `user_config` or "") of the backends that were created."""
        state = self._here().ledger.state
        return {tag: (one.config, one.user_config[1]) for tag, one in state.backends.items() if not one.pending}

    def backend_config(self, tag: str) -> tuple[dict[str, Any], str]:
        """Return one entry of `backends`."""
        found = self.backends().get(tag)
        if found is None:
            raise unknown(self._here().ledger.state, "backend", tag)
        return found

    def progress(self, tag: str) -> tuple[int, int]:
        """Return how many replicas of a backend are ready, and how many are wanted."""
        running = self._here()
        return words.progress(running.ledger.state, running.roster, tag)

    def status(self) -> dict[str, Any]:
        """Return the state of everything, in words."""
        running = self._here()
        now = asyncio.get_running_loop().time()
        return words.status(
            running.ledger.state, running.roster, running.doors.doors, running.counts, running.fleet.holds, now
        )

    def metrics_snapshot(self) -> dict[str, Any]:
        """Return all counts, and how many replicas are ready of how many wanted, as plain data."""
        running = self._here()
        state = running.ledger.state
        return {
            **running.counts.snapshot(),
            "instance": state.instance,
            "epoch": state.epoch,
            "replicas": {tag: list(words.progress(state, running.roster, tag)) for tag in state.backends},
            "doors": {
                id_: {"state": door.state, "ingresses": door.ingresses} for id_, door in running.doors.doors.items()
            },
        }

    # -- the end -------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """Drain and end everything, erase the state; repeated calls wait for the same end."""
        if self._running is None:
            return
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._shut_down())
        await asyncio.shield(self._closing)

    async def _shut_down(self) -> None:
        running = self._here()
        await running.verbs.close()
        state = await running.ledger.insist(lambda state: replace(state, closing=True))
        try:
            async with asyncio.timeout(_CLOSING_TOLD_S):
                await running.doors.published(running.tables.mark())
        except TimeoutError:
            _log.warning("not every node heard of the shutdown in time")
        for group in waves(state.backends.keys(), running.counts.calls()):
            await running.ledger.insist(lambda state, group=group: drain(state, group))  # type: ignore[misc]
            running.tables.mark()
            await running.bell.until(lambda group=group: running.nobody(group))  # type: ignore[misc]
        await running.bell.until(lambda: not running.ledger.state.replicas or None)
        running.close()
        await running.doors.stop(_INGRESS_GRACE_S)
        await again(running.checkpoint.erase)
        self._running = self._closing = None

    def _here(self) -> Running:
        if self._running is None:
            raise NotRunningError(f'instance "{self._instance}" is not running; call serve.init() first')
        return self._running

    def close(self) -> None:
        """Stop all work without ending anything, as a crash would."""
        if self._closing is not None:
            self._closing.cancel()
        if self._running is not None:
            self._running.close()
