"""Counts of all processes, present and past, in sums that never go down.

    doorkeepers' watch ── Facts (cumulative per process) ──► Counts ──► snapshot, who calls whom

A process that left may come back (its feed was cut for a moment), so its last counts stay apart for a while; those of
the longest gone, and of one that began again at zero under its old name, are added to the retired ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from rayserve.model.facts import BatchFacts, Facts, Row

__all__ = ["Counts"]

_KEPT_GONE: Final = 256


class Counts:
    """The newest facts of each process, and the sum of those that will not come back."""

    def __init__(self) -> None:
        """Count from zero."""
        self._present: dict[str, Facts] = {}
        self._nodes: dict[str, str] = {}  # of the present ones
        self._gone: dict[str, Facts] = {}
        self._retired: dict[tuple[str, str], Row] = {}
        self._retired_batches: dict[str, BatchFacts] = {}

    def add(self, facts: Facts, node: str) -> None:
        """Take the newest counts of a process on `node`."""
        old = self._present.pop(facts.process, None) or self._gone.pop(facts.process, None)
        if old is not None and _size(facts) < _size(old):
            self._retire(old)
        self._present[facts.process] = facts
        self._nodes[facts.process] = node

    def left(self, process: str) -> None:
        """Note that a process is not connected any more."""
        self._nodes.pop(process, None)
        facts = self._present.pop(process, None)
        if facts is None:
            return
        self._gone[process] = facts
        if len(self._gone) > _KEPT_GONE:
            self._retire(self._gone.pop(next(iter(self._gone))))

    def node_left(self, node: str) -> None:
        """Note that a node is gone, and all its processes with it."""
        for process in [process for process, where in self._nodes.items() if where == node]:
            self.left(process)

    def rows(self) -> list[Row]:
        """Return one row per (endpoint, backend), summed over all processes; sorted."""
        sums: dict[tuple[str, str], Row] = {}
        for row in self._retired.values():
            _add(sums, row, present=False)
        for facts in self._gone.values():
            for row in facts.rows:
                _add(sums, row, present=False)
        for facts in self._present.values():
            for row in facts.rows:
                _add(sums, row, present=True)
        return [sums[key] for key in sorted(sums)]

    def batches(self) -> list[BatchFacts]:
        """Return one row per backend, summed over its replicas; sorted."""
        sums: dict[str, BatchFacts] = {}
        kept = [facts.batches for facts in (*self._gone.values(), *self._present.values())]
        for batches in (self._retired_batches.values(), *kept):
            for batch in batches:
                _add_batch(sums, batch)
        return [sums[tag] for tag in sorted(sums)]

    def calls(self) -> set[tuple[str, str]]:
        """Return the (caller, callee) pairs of backends whose replicas made calls through handles."""
        return {
            (facts.process.partition("#")[0], row.backend)
            for facts in self._present.values()
            if facts.kind == "replica"
            for row in facts.rows
            if row.backend
        }

    def snapshot(self) -> dict[str, Any]:
        """Return all sums as plain data."""
        return {
            "rows": [msgspec.to_builtins(row) for row in self.rows()],
            "batches": [msgspec.to_builtins(batch, str_keys=True) for batch in self.batches()],
            "connections": sum(facts.connections for facts in self._present.values()),
            "processes": sorted(self._present),
        }

    def _retire(self, facts: Facts) -> None:
        for row in facts.rows:
            _add(self._retired, row, present=False)
        for batch in facts.batches:
            _add_batch(self._retired_batches, batch)


def _size(facts: Facts) -> int:
    return sum(row.assigned + row.answered + row.left + sum(row.failed.values()) for row in facts.rows)


def _add(sums: dict[tuple[str, str], Row], row: Row, *, present: bool) -> None:
    """Add a row; what is in flight or waiting counts only while its process is there."""
    key = (row.endpoint, row.backend)
    into = sums.setdefault(key, Row(row.endpoint, row.backend))
    into.assigned += row.assigned
    into.answered += row.answered
    into.retried += row.retried
    into.left += row.left
    into.latency_sum_s += row.latency_sum_s
    into.failed = _sum(into.failed, row.failed)
    into.statuses = _sum(into.statuses, row.statuses)
    longer, shorter = sorted((into.latency, row.latency), key=len, reverse=True)
    into.latency = [a + b for a, b in zip(longer, [*shorter, *[0] * len(longer)], strict=False)]
    if present:
        into.in_flight += row.in_flight
        into.waiting += row.waiting


def _add_batch(sums: dict[str, BatchFacts], batch: BatchFacts) -> None:
    into = sums.setdefault(batch.backend, BatchFacts(batch.backend, ""))
    into.sizes = _sum(into.sizes, batch.sizes)
    into.released = _sum(into.released, batch.released)


def _sum(one: dict[Any, int], other: dict[Any, int]) -> dict[Any, int]:
    """Return the sums per key; a new dict, so that shared defaults stay empty."""
    keys: Iterable[Any] = one.keys() | other.keys()
    return {key: one.get(key, 0) + other.get(key, 0) for key in keys}
