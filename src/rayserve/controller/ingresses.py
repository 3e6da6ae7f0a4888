"""Ingress processes: started, watched, started again.

    IngressKeeper.start() ──► python -m rayserve.ingress ── "ready" ──► serving ── exit ──► again, after a pause
                              stdin: settings, then EOF = die · socket: inherited · stderr, stdout: its log file

While an ingress is dead its socket goes on queueing connections, so the first restart comes at once; a crash loop
slows down. What blocks is done by child.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayserve.controller.child import Child
from rayserve.errors import ClusterError

__all__ = ["COMMAND", "IngressKeeper"]

log = logging.getLogger("rayserve.doorkeeper")

# -P: the user's working directory must not shadow modules of the standard library.
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "rayserve.ingress")

_PAUSE_S = 0.05
_PAUSE_MAX_S = 5.0
_STEADY_S = 5.0  # alive for so long: the next death is no crash loop
_READY_WITHIN_S = 30.0
_HOPELESS_DEATHS = 3  # before it was ever ready
_TAIL_BYTES = 2000


class IngressKeeper:
    """Keeps one ingress process alive on one socket.

    Attributes:
        index: its number on this node.
        pid: of the present process, 0 between two.
        state: "starting" | "ready" | "waiting to restart" | "stopped".
        restarts: deaths so far.
    """

    def __init__(
        self, index: int, sock: socket.socket, told: dict[str, Any], log_path: Path, command: Sequence[str] = COMMAND
    ) -> None:
        """Prepare; `start` starts.

        Args:
            index: its number on this node.
            sock: the listening socket, kept open by the caller.
            told: settings for its stdin, without `fd`, `index` and `process`.
            log_path: where its stderr and stdout go.
            command: what to run.
        """
        self.index = index
        self.pid = 0
        self.state = "starting"
        self.restarts = 0
        self._sock, self._told, self._log_path, self._command = sock, told, log_path, tuple(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._ready_once: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin to keep it alive, on the running loop."""
        loop = asyncio.get_running_loop()
        self._ready_once = loop.create_future()
        self._task = loop.create_task(self._keep(), name=f"ingress-{self.index}")

    async def ready(self) -> None:
        """Wait until it accepts for the first time.

        Raises:
            ClusterError: it died again and again, or did not come up in time; the message ends with its log's.
        """
        assert self._ready_once is not None
        try:
            await asyncio.wait_for(asyncio.shield(self._ready_once), _READY_WITHIN_S)
        except TimeoutError as error:
            raise self._hopeless(f"was not ready after {_READY_WITHIN_S:g} s") from error

    def kill(self) -> None:
        """End the present process at once; the next one starts."""
        if self._child is not None:
            self._child.kill()

    async def stop(self, grace_s: float) -> None:
        """Let it drain for at most `grace_s` seconds, then end it; it does not come back."""
        self._stopping = True
        if self._task is None:
            return
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
        elif self.state == "waiting to restart":
            self._task.cancel()
        await asyncio.wait([self._task], timeout=grace_s)
        self.kill()
        await asyncio.wait([self._task])
        self.state = "stopped"

    def facts(self) -> dict[str, Any]:
        """Return index, pid, state and restarts, for status."""
        return {"index": self.index, "pid": self.pid, "state": self.state, "restarts": self.restarts}

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while not self._stopping:
            born = loop.time()
            code = await self._live_once()
            if self._stopping:
                break
            self.restarts += 1
            self.state = "waiting to restart"
            pause_s = 0.0 if loop.time() - born > _STEADY_S else min(max(2 * pause_s, _PAUSE_S), _PAUSE_MAX_S)
            log.warning("ingress %d ended with %s; starting it again in %.2f s", self.index, code, pause_s)
            ready_once = self._ready_once
            if ready_once is not None and not ready_once.done() and self.restarts >= _HOPELESS_DEATHS:
                ready_once.set_exception(self._hopeless(f"died {self.restarts} times, last with {code}"))
            await asyncio.sleep(pause_s)

    async def _live_once(self) -> int:
        """Run one process from spawn to exit; return its exit code."""
        loop = asyncio.get_running_loop()
        self.state = "starting"
        ended: asyncio.Future[int] = loop.create_future()

        def up(child: subprocess.Popen[bytes]) -> None:
            self._child, self.pid = child, child.pid
            if self._stopping:  # asked while it was being spawned
                child.kill()

        def ready() -> None:
            self.state = "ready"
            log.info("ingress %d is ready, process %d", self.index, self.pid)
            watchdog.cancel()
            if self._ready_once is not None and not self._ready_once.done():
                self._ready_once.set_result(None)

        def down(code: int) -> None:
            if not ended.done():
                ended.set_result(code)

        watchdog = loop.call_later(_READY_WITHIN_S, self.kill)
        child = Child(self._command, self._settings_line(), self._sock.fileno(), self._log_path, up, ready, down)
        child.start(f"ingress-{self.index}")
        try:
            return await ended
        finally:
            watchdog.cancel()
            self._child, self.pid = None, 0

    def _settings_line(self) -> bytes:
        told = {
            **self._told,
            "fd": self._sock.fileno(),
            "index": self.index,
            "process": f"ingress-{self.index}:{secrets.token_hex(4)}",
        }
        return json.dumps(told).encode() + b"\n"

    def _hopeless(self, what: str) -> ClusterError:
        return ClusterError(
            f"ingress {self.index} {what}; its log {self._log_path} ends with:\n{_tail(self._log_path)}"
        )


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
    except FileNotFoundError:
        return "(nothing)"
