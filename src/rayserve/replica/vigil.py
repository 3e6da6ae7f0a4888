"""Whether to stay awake for the next call: falling asleep and being woken costs more than many a call.

    begin ─► lasts? look again, and give way to whoever wants the core ─► end(calls that came)
                └► no: sleep ────────────────────────────────────────────►┘

On a virtual machine the wake-up of a thread on another core takes about 20 µs, a small call less than that. So a
vigil is kept where the last wait was short, as when a few clients send one request after the other; with many calls
at a time the wake-up is shared. After vigils in vain, one behind the other, more and more waits are slept through. The
time is an argument.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FEW", "REST", "SLEPT_S", "VIGIL_S", "Vigil"]

VIGIL_S: Final = 0.00015  # more than an answer takes to a client on the same machine, and its next request back
SLEPT_S: Final = 0.0003  # how long that may take where everybody sleeps and has to be woken
FEW: Final = 4  # calls that came at once; more share the price of a wake-up
REST: Final = 16  # short waits that are slept through, at most, after vigils in vain


class Vigil:
    """One thread's waits for calls, and what they say about the next."""

    __slots__ = ("_pause", "_rest", "_since", "_soon")

    def __init__(self) -> None:
        """Begin without experience: the first wait is slept through."""
        self._since = 0.0
        self._soon = False
        self._rest = 0  # short waits still to be slept through
        self._pause = 1  # as many after the next vigil in vain

    def begin(self, now: float) -> None:
        """Hear that there is nothing to do; `now` in seconds, monotonic."""
        self._since = now

    def lasts(self, now: float) -> bool:
        """Return whether to look again, rather than to sleep."""
        return self._soon and now - self._since < VIGIL_S

    def end(self, now: float, calls: int) -> None:
        """Hear that the wait is over, and how many calls ended it."""
        short = 0 < calls <= FEW and now - self._since < (VIGIL_S if self._soon else SLEPT_S)
        if not self._soon:
            self._rest -= short
            self._soon = short and self._rest <= 0
        elif short:
            self._pause = 1
        else:
            self._soon = False
            self._rest, self._pause = self._pause, min(2 * self._pause, REST)
