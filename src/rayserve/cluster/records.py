"""Where a local Ray started by us can be found by other drivers of this user.

    the driver that starts Ray ── writes ──► <base>/ray-<pid>.json ──► read by the next `serve.init`

Ray itself leaves no such trace for an instance begun by `ray.init`. A record is a claim, not a
fact: whoever reads one proves it (connect.py) and drops it if it is stale. A lock beside the
records keeps two drivers that start at once from starting two Rays.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rayserve import settings

__all__ = ["Record", "forget", "known", "one_at_a_time", "remember"]


class Record(msgspec.Struct, frozen=True):
    """One local Ray.

    Attributes:
        address: `host:port` of its control store (GCS).
        pid: the driver that started it, and with which it ends.
        token: its callers must show Ray's token.
    """

    address: str
    pid: int
    token: bool = True


def remember(record: Record) -> None:
    """Write the record of a Ray that this process started."""
    path = _path(record.pid)
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(record))
    draft.rename(path)  # readers see all of it or nothing


def forget(record: Record) -> None:
    """Remove a record; harmless if it is gone."""
    _path(record.pid).unlink(missing_ok=True)


def known() -> list[Record]:
    """Return the records whose driver still lives, newest first; others are removed."""
    found: list[tuple[float, Record]] = []
    for path in settings.base_dir().glob("ray-*.json"):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
            written = path.stat().st_mtime
        except FileNotFoundError:
            continue  # its driver just left
        except msgspec.MsgspecError:
            path.unlink(missing_ok=True)
            continue
        if _lives(record.pid):
            found.append((written, record))
        else:
            path.unlink(missing_ok=True)
    return [record for _, record in sorted(found, key=lambda item: item[0], reverse=True)]


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the lock under which Ray is looked for and started; the kernel drops it if this process dies."""
    with (settings.private_dir(settings.base_dir()) / "ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _path(pid: int) -> Path:
    return settings.private_dir(settings.base_dir()) / f"ray-{pid}.json"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # the number was given to another user's process: ours is gone
    return True
