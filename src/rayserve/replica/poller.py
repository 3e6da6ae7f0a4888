"""Which sockets are ready: epoll spoken to directly where there is one, else what the standard library chooses.

    watch(fd, heard) ─► wait ─► heard(READ | WRITE) for each that is ready, on the thread that waits

`selectors` builds a list of named tuples for every wait; for one small request that is a tenth of the replica's work.
"""

from __future__ import annotations

import select
import selectors
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["READ", "WRITE", "EpollPoller", "Poller", "SelectorPoller", "new_poller"]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

Heard = Callable[[int], None]


class Poller(Protocol):
    """A set of descriptors, each with the function that hears of it."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `wait` would not wait."""

    def watch(self, fd: int, heard: Heard) -> None:
        """Have `heard` called with what `fd` is ready for; at first only when it can be read."""

    def change(self, fd: int, events: int) -> None:
        """Wait for `events`, READ or READ | WRITE, from now on; from any thread.

        Raises:
            OSError: it is not watched.
        """

    def forget(self, fd: int) -> None:
        """Watch `fd` no more; harmless if it is not watched."""

    def wait(self, timeout_s: float | None) -> None:
        """Wait for something, so many seconds at most (None: for as long as it takes), and tell those concerned."""

    def close(self) -> None:
        """Let the set go; the descriptors stay open."""


class SelectorPoller:
    """A `Poller` for any system."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """Return the set's own descriptor."""
        return self._selector.fileno()

    def watch(self, fd: int, heard: Heard) -> None:
        """Add a descriptor."""
        self._selector.register(fd, READ, heard)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events."""
        try:
            self._selector.modify(fd, events, self._selector.get_key(fd).data)
        except (KeyError, ValueError):
            raise OSError(f"descriptor {fd} is not watched") from None

    def forget(self, fd: int) -> None:
        """Take a descriptor out."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def wait(self, timeout_s: float | None) -> None:
        """Wait and tell."""
        for key, events in self._selector.select(timeout_s):
            if key.fd in self._selector.get_map():  # else forgotten while those before it were told
                key.data(events)

    def close(self) -> None:
        """Let the set go."""
        self._selector.close()


class EpollPoller:
    """A `Poller` for Linux."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._heard: dict[int, Heard] = {}
        # Any other event (a hang-up, an error) is news for whoever reads and for whoever writes.
        self._events = {select.EPOLLIN: READ, select.EPOLLOUT: WRITE}

    def fileno(self) -> int:
        """Return the set's own descriptor."""
        return self._epoll.fileno()

    def watch(self, fd: int, heard: Heard) -> None:
        """Add a descriptor."""
        self._epoll.register(fd, select.EPOLLIN)
        self._heard[fd] = heard

    def change(self, fd: int, events: int) -> None:
        """Wait for other events."""
        if fd not in self._heard:
            raise OSError(f"descriptor {fd} is not watched")
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if events & WRITE else select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Take a descriptor out."""
        if self._heard.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, timeout_s: float | None) -> None:
        """Wait and tell."""
        for fd, events in self._epoll.poll(timeout_s):
            heard = self._heard.get(fd)
            if heard is not None:  # else forgotten while those before it were told
                heard(self._events.get(events, READ | WRITE))

    def close(self) -> None:
        """Let the set go."""
        self._epoll.close()


def new_poller() -> Poller:
    """Return the best poller that this system has."""
    return EpollPoller() if hasattr(select, "epoll") else SelectorPoller()
