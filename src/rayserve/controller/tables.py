"""What routers are told: desired state and ready replicas become encoded tables.

    mark() on each change ──► stamp grows ──► doors ask for current() ──► bytes, built once per stamp

Marks between two builds cost nothing, so a burst of changes becomes one table. Rows of records that
nobody replaced are the same objects as before: a change of one endpoint among 1,000 builds one row.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from rayserve.config import BackendConfig, EndpointConfig, backend_row, endpoint_options
from rayserve.controller.bell import Bell
from rayserve.controller.checkpoint import Ledger
from rayserve.controller.roster import Roster
from rayserve.controller.state import BackendRecord, Desired, EndpointRecord
from rayserve.model.spec import Traits
from rayserve.model.table import Backend, Endpoint, Replica, RoutingTable, Traffic, join_table, pack_endpoint

__all__ = ["ALL_METHODS", "APPS", "Tables", "methods_of", "row_of"]

APPS: Final = frozenset({"asgi", "wsgi"})
ALL_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class _Row(NamedTuple):
    """What became of an endpoint's record."""

    record: EndpointRecord
    mounted: bool
    endpoint: Endpoint
    packed: msgspec.Raw


class Tables:
    """Builds the newest table when asked for it."""

    def __init__(self, ledger: Ledger, roster: Roster, bell: Bell) -> None:
        """Build tables of what `ledger` wants and `roster` has."""
        self._ledger = ledger
        self._roster = roster
        self._bell = bell
        self._version = 0
        self._built: tuple[tuple[int, int], bytes] = ((-1, -1), b"")
        self._endpoints: dict[str, _Row] = {}
        self._backends: dict[str, tuple[BackendRecord, tuple[Replica, ...], Backend]] = {}

    @property
    def stamp(self) -> tuple[int, int]:
        """Of the newest table, built or not."""
        return (self._ledger.state.epoch, self._version)

    def mark(self) -> tuple[int, int]:
        """Note that routers must hear of a change; return the stamp of the table that will hold it."""
        self._version += 1
        self._bell.ring()
        return self.stamp

    def current(self) -> tuple[tuple[int, int], bytes]:
        """Return the newest table, encoded, and its stamp."""
        if self._built[0] != self.stamp:
            rows = self._endpoint_rows(self._ledger.state)
            self._built = (self.stamp, join_table(self._rest(), [row.packed for row in rows]))
        return self._built

    def build(self) -> RoutingTable:
        """Return the table for the present state."""
        return replace(self._rest(), endpoints=tuple(row.endpoint for row in self._endpoint_rows(self._ledger.state)))

    def _rest(self) -> RoutingTable:
        """Return the table without its endpoints."""
        state = self._ledger.state
        epoch, version = self.stamp
        return RoutingTable(
            instance=state.instance,
            epoch=epoch,
            version=version,
            backends=self._backend_rows(state),
            draining=self._roster.leaving(state),
            closing=state.closing,
        )

    def _endpoint_rows(self, state: Desired) -> list[_Row]:
        old, self._endpoints = self._endpoints, {}
        apps = {tag for tag, backend in state.backends.items() if backend.traits and backend.traits.kind in APPS}
        for name, record in state.endpoints.items():
            mounted = bool(apps) and not apps.isdisjoint(record.weights)
            row = old.get(name)
            if row is None or row.record is not record or row.mounted != mounted:
                endpoint = _endpoint_row(record, mounted)
                row = _Row(record, mounted, endpoint, pack_endpoint(endpoint))
            self._endpoints[name] = row
        return [self._endpoints[name] for name in sorted(self._endpoints)]

    def _backend_rows(self, state: Desired) -> tuple[Backend, ...]:
        old, self._backends = self._backends, {}
        ready = self._roster.ready(state)
        for tag, record in state.backends.items():
            if record.traits is None or record.pending:
                continue  # no replica has loaded it yet, or it may still vanish: nobody may route to it
            replicas = ready.get(tag, ())
            found = old.get(tag)
            if found is None or found[0] is not record or found[1] != replicas:
                found = (record, replicas, row_of(record, replicas))
            self._backends[tag] = found
        return tuple(self._backends[tag][2] for tag in sorted(self._backends))


def methods_of(record: EndpointRecord, mounted: bool) -> tuple[str, ...]:
    """Return the methods an endpoint takes: those given, else all for a mounted app and GET for others."""
    return record.methods or (ALL_METHODS if mounted else ("GET",))


def _endpoint_row(record: EndpointRecord, mounted: bool) -> Endpoint:
    return Endpoint(
        name=record.name,
        route=record.route,
        methods=methods_of(record, mounted),
        traffic=Traffic(record.weights, record.shadows) if record.weights else None,
        options=endpoint_options(EndpointConfig.from_plain(record.config)),
    )


def row_of(record: BackendRecord, replicas: tuple[Replica, ...]) -> Backend:
    """Return a backend's row; before its traits are known only what a replica needs to start is right in it."""
    config = BackendConfig.from_plain(record.config)
    traits = record.traits or Traits("function")
    return backend_row(record.tag, record.revision, config, traits, record.user_config, replicas)
