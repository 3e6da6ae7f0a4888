"""Watches, from the I/O thread, whether an event loop still turns; names the code that blocks it in the log.

begin() ─► I/O thread: every 0.2 s, while calls run: ask the loop for a sign of life ─► none for 1 s ─► log its stack
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

__all__ = ["LoopWatch"]

_log = logging.getLogger("rayserve.user")
_LOOK_S: Final = 0.2
_BLOCKED_S: Final = 1.0
_OURS: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep


class LoopWatch:
    """The watch over one loop; it costs nothing while no calls run.

    Attributes:
        watching: somebody looks; `begin` need not be called.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, io_loop: asyncio.AbstractEventLoop, busy: Callable[[], bool]
    ) -> None:
        """Watch over `loop` from `io_loop`.

        Args:
            loop: runs async user code.
            io_loop: runs on another thread.
            busy: whether calls run now.
        """
        self._loop = loop
        self._io_loop = io_loop
        self._busy = busy
        self._thread = 0
        self.watching = False
        self._asked = 0.0  # when the loop was asked; 0.0 once it answered
        self._told = False

    def begin(self) -> None:
        """Hear that a call begins; called on the loop."""
        if not self.watching:
            self.watching = True
            self._thread = threading.get_ident()
            self._io_loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        now = time.monotonic()
        if self._asked:
            if now - self._asked > _BLOCKED_S and not self._told:
                self._told = True
                self._tell()
        elif self._loop.is_closed():
            return
        elif self._busy():
            self._told = False
            self._asked = now
            self._loop.call_soon_threadsafe(self._answer)
        else:
            self.watching = False
            if not self._busy():  # else a call began just now, and saw that we watched
                return
            self.watching = True
        self._io_loop.call_later(_LOOK_S, self._look)

    def _answer(self) -> None:
        self._asked = 0.0

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return
        stack = traceback.extract_stack(frame)
        ours = max((index for index, entry in enumerate(stack) if entry.filename.startswith(_OURS)), default=-1)
        user = stack[ours + 1 :] or stack[-1:]
        _log.warning(
            "%s (%s:%d) has blocked the event loop for over %g s, and all calls of this replica with it; "
            "await something that does not block, or make the handler a plain def:\n%s",
            user[0].name,
            user[0].filename,
            user[0].lineno or 0,
            _BLOCKED_S,
            "".join(traceback.format_list(user)),
        )
