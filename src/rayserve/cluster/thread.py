"""A thread that stays: for work that must not die with its caller, and for waits that need an end.

Ray's processes die with the *thread* that called `ray.init` (the kernel's parent-death signal counts
threads, not processes), and Ray's questions to its control store have no time-out. So both run on
kept threads, and callers wait for the answer as long as they like.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["KeptThread"]

T = TypeVar("T")


class KeptThread:
    """One daemon thread, started on first use, that runs what it is given one after the other."""

    def __init__(self, name: str) -> None:
        """Name the thread; nothing starts yet."""
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, work: Callable[[], T], timeout_s: float | None = None) -> T:
        """Return what `work()` returns on the kept thread, or raise what it raises.

        Raises:
            TimeoutError: no answer within `timeout_s`. Work not begun is dropped, so calls behind a
                stuck one do not pile up; work begun goes on, and its result is lost.
        """
        future = self.post(work)
        try:
            return future.result(timeout_s)
        except BaseException:  # a time-out, or Ctrl-C while waiting
            future.cancel()
            raise

    def post(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work` behind what is queued already; return at once with the promise of its result."""
        future: Future[T] = Future()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # not alive: this is a forked child
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
        self._work.put((future, work))
        return future

    def _serve(self) -> None:
        while True:
            future, work = self._work.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # it belongs to the caller, SystemExit included
                future.set_exception(error)
            del future, work  # or the last result would live until the next call
