"""The board: shared memory in which a replica notes what it has started, readable after its death.

    router: open(call) ─► slot ─► OPEN says it        replica: note(slot, stream) ─► user code
    router: link lost ─► started(slot, stream)? ─► the retry table

A router must know, for a call that may not run twice, whether user code saw it. On one node a store to
shared memory says so; it costs a tenth of a microsecond, where a frame costs a system call, a wake-up of
the router and a third more latency. Across nodes the STARTED frame does the same.
"""

from __future__ import annotations

import mmap
import os
import secrets
from struct import Struct
from typing import Final

__all__ = ["SLOTS", "Board"]

SLOTS: Final = 65535  # one per call in flight on a link; slot 0 means "none"
_ENTRY: Final = Struct("<I")
_SIZE: Final = (SLOTS + 1) * _ENTRY.size  # sparse: only pages that are touched take memory


class Board:
    """One link's shared memory; the router makes it, the replica opens it."""

    __slots__ = ("_free", "_map", "_next", "name")

    def __init__(self, name: str, memory: mmap.mmap) -> None:
        """Wrap mapped memory; use `make` or `open`."""
        self.name = name
        self._map = memory
        self._free: list[int] = []
        self._next = 1

    @classmethod
    def make(cls, folder: str) -> Board:
        """Make a new board in `folder`, which only this user can enter.

        Raises:
            OSError: it cannot be made.
        """
        name = f"b-{secrets.token_hex(8)}"
        return cls(name, _mapped(os.path.join(folder, name), os.O_CREAT | os.O_EXCL))

    @classmethod
    def open(cls, folder: str, name: str) -> Board:
        """Open the board `name` that a router made, and take its name away.

        Raises:
            OSError, ValueError: there is none, or it is not a board.
        """
        if not name.startswith("b-") or os.path.basename(name) != name:
            raise ValueError(f"no board is called {name!r}")
        path = os.path.join(folder, name)
        board = cls(name, _mapped(path, os.O_NOFOLLOW))
        os.unlink(path)
        return board

    def take(self) -> int:
        """Return a slot for a call; 0 if all are taken."""
        if self._free:
            return self._free.pop()
        slot = self._next
        if slot > SLOTS:
            return 0
        self._next = slot + 1
        return slot

    def give_back(self, slot: int) -> None:
        """Free the slot of a call that has ended."""
        self._free.append(slot)

    def note(self, slot: int, stream: int) -> None:
        """Say that user code is entered for `stream`."""
        _ENTRY.pack_into(self._map, slot * 4, stream)

    def started(self, slot: int, stream: int) -> bool:
        """Return whether user code was entered for `stream`."""
        return bool(_ENTRY.unpack_from(self._map, slot * 4)[0] == stream)

    def close(self) -> None:
        """Unmap the memory."""
        self._map.close()


def _mapped(path: str, flags: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        if flags & os.O_CREAT:
            os.ftruncate(descriptor, _SIZE)
        elif os.fstat(descriptor).st_size != _SIZE:
            raise ValueError(f"{path} is not a board")
        return mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
