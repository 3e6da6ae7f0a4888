"""The folder that one instance has on one node: sockets, logs, the admin token.

<base>/<instance>-<node id, 8 hex>/    mode 0700
    lock          held by the living doorkeeper; free: the folder is stale
    feed.sock     doorkeeper ⇄ routers              r-<id>.sock   one per replica
    admin.token   mode 0600                         logs/         kept when all else goes
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import IO

from rayserve import settings
from rayserve.errors import ClusterError, InvalidValueError

__all__ = ["RunDir"]

# A unix socket's path ends at 107 bytes (macOS 103); the longest file name in here must fit behind the folder's.
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_LONGEST_NAME = "/r-0123456789abcdef.sock"

# Folders of instances that are gone keep their logs; so many of them stay.
_KEPT_STALE = 5


class RunDir:
    """One claimed run directory.

    Attributes:
        path: the folder.
        inherited: a doorkeeper of the same instance and node was here before and did not clean up.
    """

    def __init__(self, path: Path, lock: IO[str], inherited: bool) -> None:
        """Use `claim` instead."""
        self.path = path
        self.inherited = inherited
        self._lock = lock

    @property
    def logs(self) -> Path:
        """Where log files go."""
        return self.path / "logs"

    @classmethod
    def claim(cls, instance: str, node: str, base: Path) -> RunDir:
        """Create the folder, or take it over from a dead predecessor; and clear what other dead ones left.

        Sockets of replicas stay where they are: replicas outlive a doorkeeper.

        Raises:
            InvalidValueError: its path is too long for sockets.
            ClusterError: it cannot be created, or its doorkeeper lives.
        """
        path = base / f"{instance}-{node[:8]}"
        if len(os.fsencode(path)) + len(_LONGEST_NAME) > _SOCKET_PATH_BYTES:
            raise InvalidValueError(
                f'the run directory "{path}" is too long for its sockets; '
                "choose a shorter instance name or RAYSERVE_DIR"
            )
        settings.private_dir(base)
        settings.private_dir(path)
        lock = _lock(path)
        if lock is None:
            raise ClusterError(f'another doorkeeper of instance "{instance}" holds "{path}"; shut that instance down')
        claimed = cls(path, lock, inherited=(path / "feed.sock").exists())
        claimed.logs.mkdir(mode=0o700, exist_ok=True)
        _clear_stale(instance, base)
        return claimed

    def release(self) -> None:
        """Remove everything but the logs and let go of the folder."""
        _clear(self.path)
        self._lock.close()


def _lock(path: Path) -> IO[str] | None:
    """Return the folder's lock, None if a living process holds it; the kernel frees it with its holder."""
    lock = (path / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _clear_stale(instance: str, base: Path) -> None:
    """Empty the folders of dead namesakes but for their logs, and remove the oldest."""
    stale: list[tuple[float, Path]] = []
    for path in base.glob(f"{instance}-????????"):
        # Without a lock file it is no folder of a doorkeeper, or one that was cleared already.
        held = _lock(path) if (path / "lock").exists() else None
        if held is not None:
            with held:
                _clear(path)
        if not (path / "lock").exists() and path.is_dir():
            stale.append((path.stat().st_mtime, path))
    for _, path in sorted(stale, reverse=True)[_KEPT_STALE:]:
        shutil.rmtree(path, ignore_errors=True)  # two doorkeepers may clear at once


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == "logs":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
