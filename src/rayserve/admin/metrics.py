"""Counts as Prometheus text.

    Snapshot ──► Metrics.collect ──► prometheus-client ──► bytes of /metrics

Every label value comes from a closed set: endpoints and backends that exist now, reasons, status classes, release
words. A name that no longer exists loses its series; a word from outside its set is counted as "other". So no
client can make the number of series grow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rayserve.admin.snapshot import Snapshot
from rayserve.errors import REASONS
from rayserve.model.facts import BUCKETS_S, BatchFacts, Row

__all__ = ["CONTENT_TYPE", "Metrics", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

OTHER: Final = "other"
_CANCELLED: Final = "cancelled"  # a reason that never crosses HTTP, so REASONS has no row for it
_STATUS_CLASS: Final = re.compile("[1-5]xx")
_RELEASES: Final = frozenset({"deadline", "full", "idle", "timeout"})
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def exposition(snapshot: Snapshot, version: str) -> bytes:
    """Return all metrics in Prometheus' text format 0.0.4.

    Args:
        snapshot: the counts.
        version: RayServe's own, for `rayserve_info`.
    """
    return generate_latest(Metrics(snapshot, version))


class Metrics(Collector):
    """One snapshot's metrics; built for one answer and thrown away."""

    def __init__(self, snapshot: Snapshot, version: str) -> None:
        """Keep the rows whose names exist."""
        self._snapshot = snapshot
        self._version = version
        endpoints, tags = snapshot.endpoints | {""}, snapshot.replicas.keys() | {""}
        self._rows = [row for row in snapshot.rows if row.endpoint in endpoints and row.backend in tags]
        # Rows with a backend alone say what is in flight or waiting there; the others hold counts of calls.
        self._calls = [row for row in self._rows if row.endpoint or not row.backend]
        self._batches = [batch for batch in snapshot.batches if batch.backend in snapshot.replicas]

    def collect(self) -> Iterator[Metric]:
        """Yield each metric family."""
        yield self._info()
        yield from self._counters()
        yield self._in_flight()
        yield self._waiting()
        yield self._latency()
        yield from self._batched()
        yield GaugeMetricFamily(
            "rayserve_connections", "Open client connections of all ingresses.", self._snapshot.connections
        )
        yield self._replicas()

    def _info(self) -> Metric:
        # Not label "instance": Prometheus puts the scraped address there.
        family = GaugeMetricFamily("rayserve_info", "Always 1; what runs here.", labels=["name", "version"])
        family.add_metric([self._snapshot.instance, self._version], 1)
        return family

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "rayserve_requests",
            "Calls that ended, by class of status; errors of RayServe itself included.",
            labels=["endpoint", "backend", "status"],
        )
        failures = CounterMetricFamily(
            "rayserve_failures",
            "Calls that ended with an error of RayServe, by reason; user_exception is the handler's.",
            labels=["endpoint", "backend", "reason"],
        )
        retries = CounterMetricFamily(
            "rayserve_retries", "Attempts beyond a call's first.", labels=["endpoint", "backend"]
        )
        left = CounterMetricFamily(
            "rayserve_answers_left",
            "Answers that had begun when their caller gave them up.",
            labels=["endpoint", "backend"],
        )
        for row in self._calls:
            names = [row.endpoint, row.backend]
            for status, count in sorted(_statuses(row).items()):
                requests.add_metric([*names, status], count)
            for reason, count in sorted(_folded(row.failed, REASONS.keys() | {_CANCELLED}).items()):
                failures.add_metric([*names, reason], count)
            if row.endpoint:
                retries.add_metric(names, row.retried)
            if row.backend:
                left.add_metric(names, row.left)
        yield from (requests, failures, retries, left)

    def _in_flight(self) -> Metric:
        family = GaugeMetricFamily("rayserve_in_flight", "Calls on a replica now.", labels=["backend"])
        counts = Counter(dict.fromkeys(self._snapshot.replicas, 0))
        for row in self._rows:
            if row.backend:
                counts[row.backend] += row.in_flight
        for tag, count in sorted(counts.items()):
            family.add_metric([tag], count)
        return family

    def _waiting(self) -> Metric:
        family = GaugeMetricFamily(
            "rayserve_waiting",
            "Calls in a backend's line now (endpoint empty), or at an endpoint without traffic (backend empty).",
            labels=["endpoint", "backend"],
        )
        counts: Counter[tuple[str, str]] = Counter()
        counts.update({("", tag): 0 for tag in self._snapshot.replicas})
        counts.update({(name, ""): 0 for name in self._snapshot.endpoints})
        for row in self._rows:
            counts[("", row.backend) if row.backend else (row.endpoint, "")] += row.waiting
        for names, count in sorted(counts.items()):
            if any(names):
                family.add_metric(names, count)
        return family

    def _latency(self) -> Metric:
        family = HistogramMetricFamily(
            "rayserve_request_seconds",
            "Seconds from a call's arrival at its router to the head of the answer; answered calls only.",
            labels=["endpoint", "backend"],
        )
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        for row in self._calls:
            if row.backend:
                counts = accumulate([*row.latency, *[0] * (len(bounds) - len(row.latency))])
                buckets = list(zip(bounds, counts, strict=True))
                family.add_metric([row.endpoint, row.backend], buckets, row.latency_sum_s)
        return family

    def _batched(self) -> Iterator[Metric]:
        sizes = HistogramMetricFamily("rayserve_batch_size", "Calls per batch.", labels=["backend"])
        released = CounterMetricFamily(
            "rayserve_batches_released", "Batches, by what ended their gathering.", labels=["backend", "reason"]
        )
        for batch in self._batches:
            sizes.add_metric([batch.backend], _size_buckets(batch), sum(size * n for size, n in batch.sizes.items()))
            for reason, count in sorted(_folded(batch.released, _RELEASES).items()):
                released.add_metric([batch.backend, reason], count)
        yield from (sizes, released)

    def _replicas(self) -> Metric:
        family = GaugeMetricFamily(
            "rayserve_replicas",
            "Replicas that are ready, and those wanted that are not (starting, waiting for room or failing).",
            labels=["backend", "state"],
        )
        for tag, (ready, wanted) in sorted(self._snapshot.replicas.items()):
            family.add_metric([tag, "ready"], ready)
            family.add_metric([tag, "missing"], max(wanted - ready, 0))
        return family


def _statuses(row: Row) -> Counter[str]:
    """Return all calls of a row that ended, by class of status."""
    counts: Counter[str] = Counter()
    for status, count in row.statuses.items():
        counts[status if _STATUS_CLASS.fullmatch(status) else OTHER] += count
    # A Python call that returned has no status; it is the same news as 2xx.
    counts["2xx"] += max(row.answered - sum(row.statuses.values()), 0)
    for reason, count in row.failed.items():
        # Cancelled is 499, as elsewhere; a reason that is not in the list became an internal error.
        number = 499 if reason == _CANCELLED else REASONS[reason if reason in REASONS else "internal"].status
        counts[f"{number // 100}xx"] += count
    return counts


def _folded(counts: Mapping[str, int], known: Iterable[str]) -> Counter[str]:
    folded: Counter[str] = Counter()
    allowed = set(known)
    for word, count in counts.items():
        folded[word if word in allowed else OTHER] += count
    return folded


def _size_buckets(batch: BatchFacts) -> list[tuple[str, float]]:
    """Return cumulative counts of batches by size."""
    bounds: list[tuple[str, float]] = [(str(float(bound)), bound) for bound in _SIZES]
    bounds.append(("+Inf", float("inf")))
    return [(name, sum(n for size, n in batch.sizes.items() if size <= bound)) for name, bound in bounds]
