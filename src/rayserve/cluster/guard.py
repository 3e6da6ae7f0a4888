"""A small process that outlives a driver killed by force, and ends what Ray would leave behind for a minute.

    driver ── pipe ──► guard          driver dies ──► end of file ──► SIGKILL to the raylet's children

The kernel ends Ray's own children with the driver, but the raylet's agents first ask the dead control store (GCS)
for 60 s. After a regular shutdown nothing of them is left to kill. It holds pidfds, so a number that was given to
another process is never hit; Linux only (macOS has none, and Ray runs a reaper of its own there).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["start_guard"]

_GUARD = """
import signal, sys
sys.stdin.read()
for descriptor in map(int, sys.argv[1:]):
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def start_guard() -> subprocess.Popen[bytes] | None:
    """Watch over the Ray that this process just started; return the guard, to be killed after a regular shutdown."""
    if not sys.platform.startswith("linux"):
        return None
    descriptors = [os.pidfd_open(pid) for raylet in _children(os.getpid(), "raylet") for pid in _children(raylet)]
    try:
        # -I -S: it needs nothing but the interpreter (8 MB). A session of its own: Ctrl-C must not reach it.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, *map(str, descriptors)],
            stdin=subprocess.PIPE, pass_fds=descriptors, start_new_session=True,
        )  # fmt: skip
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _children(parent: int, name: str = "") -> list[int]:
    """Return the pids of `parent`'s children, of those called `name` only if it is given."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name) state ppid …; the name itself may hold blanks and parentheses
            before, _, after = (folder / "stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if int(after.split()[1]) == parent and name in ("", before.partition("(")[2]):
            found.append(int(folder.name))
    return found
