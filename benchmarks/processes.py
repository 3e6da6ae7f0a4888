"""What processes used, from /proc: CPU time, resident and proportional memory, and whose child is whose.

descendants(pid) ─► pids ─► titles ─► cpu_s, rss_bytes, pss_bytes
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["Watch", "cpu_s", "descendants", "pss_bytes", "rss_bytes", "title"]

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> set[int]:
    """Return the pids of all children of `pid`, and of theirs."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    left = [pid]
    while left:
        mine = children.get(left.pop(), [])
        found.update(mine)
        left += mine
    return found


def title(pid: int) -> str:
    """Return what `ps` shows of a process, "" if it is gone."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds (user and system) that processes used since each started; 10 ms is the grain.

    Raises:
        RuntimeError: one is gone, so a difference would be wrong.
    """
    total = 0
    for pid in pids:
        fields = _stat(pid)
        if not fields:
            raise RuntimeError(f"process {pid} died during the benchmark; see the logs of the instance")
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 if it is gone."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, with each shared page divided by the number of its sharers."""
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss line; the kernel is older than 4.14")


class Watch:
    """Looks at the resident memory of processes all the while and keeps the most it saw; use with `with`."""

    def __init__(self, pids: Iterable[int], every_s: float = 0.05) -> None:
        """Note where they begin."""
        self._first = {pid: rss_bytes(pid) for pid in pids}
        self._most = dict(self._first)
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._every_s):
            for pid, most in self._most.items():
                self._most[pid] = max(most, rss_bytes(pid))

    @property
    def growth_bytes(self) -> Mapping[int, int]:
        """By how much each process was larger at its largest than at the beginning."""
        return {pid: most - self._first[pid] for pid, most in self._most.items()}


def _stat(pid: int) -> list[str]:
    """Return the fields after the command's name (state first), [] if the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
