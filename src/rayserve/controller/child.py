"""One child process from spawn to exit, on a thread of its own.

    spawn ──► on_up ── first line of stdout is "ready" ──► on_ready ── exit ──► on_down

Everything that blocks is done here; the callbacks run on the event loop. A thread and not asyncio's own subprocess
support, since the doorkeeper's loop lives inside a Ray worker, where neither SIGCHLD nor a fork is ours alone.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import rayserve
from rayserve import settings

__all__ = ["Child"]

log = logging.getLogger("rayserve.doorkeeper")

_LOG_BYTES = 16 * 2**20
_COULD_NOT_SPAWN = -1000


@dataclass(frozen=True)
class Child:
    """What to run and whom to tell.

    Attributes:
        command: program and arguments.
        stdin: what it reads first; its stdin then stays open for as long as this process lives.
        pass_fd: a descriptor that it inherits under the same number.
        log_path: where its stderr goes, and its stdout after the first line.
        on_up: called with the process.
        on_ready: called after its first line, if that is "ready".
        on_down: called once with its exit code, always last.
    """

    command: Sequence[str]
    stdin: bytes
    pass_fd: int
    log_path: Path
    on_up: Callable[[subprocess.Popen[bytes]], None]
    on_ready: Callable[[], None]
    on_down: Callable[[int], None]

    def start(self, name: str) -> None:
        """Spawn it on a new thread called `name`; the callbacks run on the running loop."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(loop,), name=name, daemon=True).start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        code = _COULD_NOT_SPAWN
        try:
            _rotate(self.log_path)
            with self.log_path.open("ab", buffering=0) as log_file:
                code = self._live(loop, log_file)
        except OSError:
            log.exception("cannot run %s", " ".join(self.command))
        finally:
            loop.call_soon_threadsafe(self.on_down, code)

    def _live(self, loop: asyncio.AbstractEventLoop, log_file: IO[bytes]) -> int:
        with subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file,
            pass_fds=(self.pass_fd,), env=_environment(),
        ) as child:  # fmt: skip
            loop.call_soon_threadsafe(self.on_up, child)
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(self.stdin)
                child.stdin.flush()
            except BrokenPipeError:
                pass  # it died before it read; `wait` tells how
            for line in child.stdout:
                if line == b"ready\n":
                    loop.call_soon_threadsafe(self.on_ready)
                else:
                    log_file.write(line)
            return child.wait()


def _environment() -> dict[str, str]:
    """Return an environment in which the child finds this very package."""
    root = Path(rayserve.__file__).parent.parent if rayserve.__file__ else None
    # Not for site-packages: in PYTHONPATH it would come before the standard library.
    if root is None or root.name in ("site-packages", "dist-packages"):
        return settings.environment()
    return settings.environment(PYTHONPATH=settings.python_path(root))


def _rotate(path: Path) -> None:
    """Begin a new log file when the old one is large; one old one is kept."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
