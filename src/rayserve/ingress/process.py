"""What an ingress process does about itself: its priority, its parent, its standard streams.

It is the grandchild of Ray's raylet, which starts workers at nice 15, first in line for the kernel's
out-of-memory killer and deaf to Ctrl-C; children inherit all three. An ingress is a server, not a batch job.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["adopt_priorities", "announce_ready", "exit_when_stdin_closes"]

_OOM_SCORE = Path("/proc/self/oom_score_adj")
_RAYS_OOM_SCORE = "1000"


def adopt_priorities() -> None:
    """Take normal priority and signals back, as far as this user may.

    Lowering nice or the OOM score needs privilege; on a Ray that we started both are normal already.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    with suppress(PermissionError, FileNotFoundError):  # there is no such file on macOS
        if _OOM_SCORE.read_text().strip() == _RAYS_OOM_SCORE:
            _OOM_SCORE.write_text("0")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def exit_when_stdin_closes(loop: asyncio.AbstractEventLoop) -> None:
    """Leave at once when the doorkeeper is gone: its end of our stdin closes however it dies.

    Call it after the settings line was read. Nothing is drained: without a doorkeeper no table comes any more.
    """
    descriptor = sys.stdin.fileno()
    os.set_blocking(descriptor, False)

    def readable() -> None:
        try:
            if os.read(descriptor, 4096):
                return  # nothing more is ever sent; ignore it
        except BlockingIOError:
            return
        os._exit(0)

    loop.add_reader(descriptor, readable)


def announce_ready() -> None:
    """Tell the doorkeeper that this process accepts, then send stdout where stderr goes, to the log file."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
