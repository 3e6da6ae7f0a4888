"""What /metrics is made of: the controller's counts at one moment, with the names that exist then.

controller: metrics_snapshot() + endpoint names, plain data ──► Snapshot ──► metrics
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rayserve.model.facts import BatchFacts, Row

__all__ = ["Snapshot"]


class Snapshot(msgspec.Struct, frozen=True):
    """Sums over all processes.

    Attributes:
        instance: the instance's name.
        endpoints: names of all endpoints that exist.
        replicas: tag of each backend that exists → (replicas ready, replicas wanted).
        rows: counts per (endpoint, backend); may name some that exist no longer.
        batches: counts per backend; as `rows`.
        connections: open client connections of all ingresses.
    """

    instance: str
    endpoints: frozenset[str] = frozenset()
    replicas: dict[str, tuple[int, int]] = {}
    rows: list[Row] = []
    batches: list[BatchFacts] = []
    connections: int = 0

    @classmethod
    def of(cls, plain: Mapping[str, Any], endpoints: frozenset[str]) -> Snapshot:
        """Return the snapshot in the controller's `metrics_snapshot()`.

        Args:
            plain: as the controller gives it; keys that are of no use here are ignored.
            endpoints: names of all endpoints.

        Raises:
            msgspec.ValidationError: it has another form.
        """
        return msgspec.convert({**plain, "endpoints": endpoints}, cls, strict=False)
