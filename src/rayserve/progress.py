"""Long calls tell a terminal how far they are; in a pipe or a log they say nothing.

with shown("starting backend", poll): … blocks …      poll() ──► (2, 4), asked from a thread of its own
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["shown"]

_log = logging.getLogger(__name__)
_FIRST_S: Final = 0.2  # what ends sooner shows nothing
_EVERY_S: Final = 0.3

Poll = Callable[[], tuple[int, int]]


@contextmanager
def shown(text: str, poll: Poll | None = None) -> Iterator[None]:
    """Show `text` on the terminal's stderr while the body runs.

    Args:
        text: what is going on, e.g. `starting backend "resnet"`.
        poll: returns how many of how many are done; called on another thread, its errors end the counting only.
    """
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    painter = threading.Thread(target=_paint, args=(text, poll, over), name="rayserve-progress", daemon=True)
    painter.start()
    try:
        yield
    finally:
        over.set()
        painter.join()


def _paint(text: str, poll: Poll | None, over: threading.Event) -> None:
    if over.wait(_FIRST_S):
        return
    from rich.console import Console  # 30 ms, and only for a human

    with Console(stderr=True).status(text) as status:
        while not over.wait(_EVERY_S):
            if poll is None:
                continue
            try:
                done, wanted = poll()
            except Exception as error:
                _log.debug("progress of %s is not known: %s", text, error)
                poll = None
                continue
            if wanted:
                status.update(f"{text}: {done} of {wanted} ready")
