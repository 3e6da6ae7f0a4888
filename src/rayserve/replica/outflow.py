"""A body on its way out: DATA frames under the router's credit.

    push(parts) ─► held ─► pump ─► DATA ≤ 64 KiB … ─► link          WINDOW ─► grant(bytes) ─► pump
                     └─ empty again ─► whoever makes the body goes on

Used for large answers, which are pushed whole, and for streams, whose maker waits until what it pushed
has left: a slow client pauses the generator, and memory stays flat. Any thread may push, grant or drop.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from rayserve.wire.codec import CREDIT, END, MAX_DATA, Violation, data_header
from rayserve.wire.link import Link

__all__ = ["Outflow"]

_MOST_CREDIT: Final = 1 << 30
_SMALL: Final = 4096  # up to this it is cheaper to copy bytes than to send them beside their header


class Outflow:
    """The body of one answer.

    Attributes:
        over: its last frame was sent, or it was dropped.
        ended: its maker has pushed the last bytes.
    """

    __slots__ = (
        "_credit", "_held", "_link", "_load", "_lock", "_seal", "_size", "_stream", "_wake", "ended", "over",
    )  # fmt: skip

    def __init__(self, link: Link, stream: int, load: Callable[[], int], seal: Callable[[], bool]) -> None:
        """Start with the credit every stream begins with.

        Args:
            link: where it goes.
            stream: its stream there.
            load: returns what each frame says of the replica's load.
            seal: called just before the frame that carries END is made; False says that the call has ended already.
        """
        self._link = link
        self._stream = stream
        self._load = load
        self._seal = seal
        self._held: deque[memoryview] = deque()
        self._size = 0
        self._credit = CREDIT
        self.ended = False
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self.over = False

    def push(self, parts: Sequence[bytes | memoryview], end: bool = False) -> bool:
        """Add bytes, and say with `end` that they are the last; return whether all of them left.

        Frames are queued on the link; the caller flushes it.
        """
        with self._lock:
            if self.over:
                return True
            if not (end or self._size) and len(parts) == 1 and self._send_at_once(parts[0]):
                return True
            for part in parts:
                view = memoryview(part).cast("B")
                if len(view):
                    self._held.append(view)
                    self._size += len(view)
            self.ended = self.ended or end
            self._pump()
            return not self._size

    def grant(self, size: int) -> None:
        """Take `size` bytes of credit from the router, and send on what was held back.

        Raises:
            Violation: no router may grant that much.
        """
        with self._lock:
            if self._credit + size > _MOST_CREDIT:
                raise Violation(f"credit of {size} bytes for stream {self._stream}")
            self._credit += size
            if not self.over:
                self._pump()
            wake = self._wake if not self._size else None
            if wake is not None:
                self._wake = None
        if wake is not None:
            wake()

    def drop(self) -> None:
        """Forget what was held back: nobody wants it. The end frame is still owed."""
        with self._lock:
            self._held.clear()
            self._size = 0
            self.over = True
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    @property
    def clear(self) -> bool:
        """Whether nothing is held back: the maker may go on."""
        return self.over or not self._size

    def when_clear(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called once when nothing is held back; False if that is so already."""
        with self._lock:
            if self.over or not self._size:
                return False
            self._wake = wake
            return True

    def _send_at_once(self, part: bytes | memoryview) -> bool:
        """Send small bytes with nothing before them as one frame; False if that is not what they are."""
        if not isinstance(part, bytes) or not 0 < len(part) <= min(_SMALL, self._credit):
            return False
        self._credit -= len(part)
        self._link.send(data_header(self._stream, 0, len(part), self._load()) + part)
        return True

    def _pump(self) -> None:
        while self._size and self._credit:
            pieces = self._take()
            last = self.ended and not self._size
            self._send(pieces, last)
        if self.ended and not self._size and not self.over:
            self._send([], True)

    def _take(self) -> list[memoryview]:
        """Return the next pieces, at most one DATA frame and never more than the credit."""
        room = min(MAX_DATA, self._credit)
        pieces = []
        while room and self._held:
            part = self._held.popleft()
            if len(part) > room:
                self._held.appendleft(part[room:])
                part = part[:room]
            pieces.append(part)
            room -= len(part)
            self._size -= len(part)
            self._credit -= len(part)
        return pieces

    def _send(self, pieces: list[memoryview], last: bool) -> None:
        if last:
            self.over = True
            if not self._seal():
                return
        size = sum(len(piece) for piece in pieces)
        self._link.send_all([data_header(self._stream, END if last else 0, size, self._load()), *pieces])
