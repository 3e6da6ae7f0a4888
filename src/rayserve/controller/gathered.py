"""What came up from the routers of one node and waits for the controller.

    Hub ── facts, reports, departures ──► Gathered ──► watch(cursor): what is new since then

Facts are cumulative, so only each process's newest are kept; reports are all kept, up to a limit. A cursor is an
opaque word; one from an earlier life of the doorkeeper, or "", gets everything.
"""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from typing import Any

from rayserve.model.facts import Facts, Report

__all__ = ["Gathered"]

_KEPT_REPORTS = 1000
_KEPT_GONE = 256


class Gathered:
    """Facts and reports in the order of their arrival; no I/O, no clock."""

    def __init__(self) -> None:
        """Start empty, with a life of its own."""
        self._life = secrets.token_hex(4)
        self._number = itertools.count(1)
        self._last = 0
        self._facts: dict[str, tuple[int, Facts]] = {}
        self._gone: dict[str, int] = {}
        self._reports: deque[tuple[int, Report]] = deque(maxlen=_KEPT_REPORTS)

    @property
    def cursor(self) -> str:
        """The cursor of one who knows everything."""
        return f"{self._life}:{self._last}"

    def add_facts(self, facts: Facts) -> None:
        """Replace the process's earlier facts."""
        self._facts[facts.process] = (self._next(), facts)

    def add_report(self, report: Report) -> None:
        """Add a report."""
        self._reports.append((self._next(), report))

    def left(self, process: str) -> None:
        """Note that a process's connection ended; its last facts stay readable for a while."""
        self._gone.pop(process, None)
        self._gone[process] = self._next()
        while len(self._gone) > _KEPT_GONE:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            self._facts.pop(oldest, None)

    def came(self, process: str) -> None:
        """Note that a process is connected (again)."""
        self._gone.pop(process, None)

    def has_reports(self, cursor: str) -> bool:
        """Return whether a report is newer than `cursor`."""
        after = self._after(cursor)
        return any(number > after for number, _ in self._reports)

    def has_news(self, cursor: str) -> bool:
        """Return whether anything is newer than `cursor`."""
        return self._last > self._after(cursor)

    def since(self, cursor: str) -> dict[str, Any]:
        """Return `{"cursor", "facts": [Facts], "reports": [Report], "gone": [process]}`, all newer than `cursor`."""
        after = self._after(cursor)
        return {
            "cursor": self.cursor,
            "facts": [facts for number, facts in self._facts.values() if number > after],
            "reports": [report for number, report in self._reports if number > after],
            "gone": [process for process, number in self._gone.items() if number > after],
        }

    def _next(self) -> int:
        self._last = next(self._number)
        return self._last

    def _after(self, cursor: str) -> int:
        life, _, number = cursor.partition(":")
        return int(number) if life == self._life and number.isdecimal() else 0
