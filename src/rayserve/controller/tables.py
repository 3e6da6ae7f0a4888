"""What routers are told: desired state and ready replicas become packed tables.

    mark() on each change ──► stamp grows ──► doors ask for current(since) ──► bytes: all, or what changed since

Marks between two builds cost nothing, so a burst of changes becomes one table. Rows of records that
nobody replaced are the same objects as before: a change of one endpoint among 1,000 builds one row.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from rayserve.config import BackendConfig, EndpointConfig, backend_row, endpoint_options
from rayserve.controller.bell import Bell
from rayserve.controller.checkpoint import Ledger
from rayserve.controller.roster import Roster
from rayserve.controller.state import BackendRecord, Desired, EndpointRecord
from rayserve.model.packed import Stamp, pack_endpoint, pack_table
from rayserve.model.spec import Traits
from rayserve.model.table import Backend, Endpoint, Replica, RoutingTable, Traffic

__all__ = ["ALL_METHODS", "APPS", "Tables", "methods_of", "row_of"]

APPS: Final = frozenset({"asgi", "wsgi"})
_KEPT_GONE: Final = 1_000
ALL_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class _Row(NamedTuple):
    """What became of an endpoint's record; `version` is that of the first table with it."""

    record: EndpointRecord
    mounted: bool
    endpoint: Endpoint
    packed: msgspec.Raw
    version: int


class Tables:
    """Builds the newest table when asked for it."""

    def __init__(self, ledger: Ledger, roster: Roster, bell: Bell) -> None:
        """Build tables of what `ledger` wants and `roster` has."""
        self._ledger = ledger
        self._roster = roster
        self._bell = bell
        self._version = 0
        self._table: RoutingTable | None = None
        self._endpoints: dict[str, _Row] = {}
        self._gone: dict[str, int] = {}  # name → version of the first table without it
        self._known_from = 0  # who has an older table gets a whole one: we forgot what went before
        self._backends: dict[str, tuple[BackendRecord, tuple[Replica, ...], Backend]] = {}

    @property
    def stamp(self) -> Stamp:
        """Of the newest table, built or not."""
        return (self._ledger.state.epoch, self._version)

    def mark(self) -> Stamp:
        """Note that routers must hear of a change; return the stamp of the table that will hold it."""
        self._version += 1
        self._bell.ring()
        return self.stamp

    def current(self, since: Stamp = (-1, -1)) -> tuple[Stamp, bytes]:
        """Return the newest table, packed, and its stamp.

        Args:
            since: stamp of the table that the reader has; if it is one of ours, the changes since are all it gets.
        """
        table = self.build()
        rows = self._endpoints
        if since[0] != table.epoch or since[1] < self._known_from:
            return table.stamp, pack_table(table, [rows[one.name].packed for one in table.endpoints])
        version = since[1]
        changed = [row.packed for row in rows.values() if row.version > version]
        gone = [name for name, gone_at in self._gone.items() if gone_at > version]
        return table.stamp, pack_table(table, changed, since, gone)

    def build(self) -> RoutingTable:
        """Return the newest table, the same until the next mark."""
        if self._table is None or self._table.stamp != self.stamp:
            state = self._ledger.state
            epoch, version = self.stamp
            self._table = RoutingTable(
                instance=state.instance,
                epoch=epoch,
                version=version,
                endpoints=self._endpoint_rows(state),
                backends=self._backend_rows(state),
                draining=self._roster.leaving(state),
                closing=state.closing,
            )
        return self._table

    def _endpoint_rows(self, state: Desired) -> tuple[Endpoint, ...]:
        old, self._endpoints = self._endpoints, {}
        apps = {tag for tag, backend in state.backends.items() if backend.traits and backend.traits.kind in APPS}
        for name, record in state.endpoints.items():
            mounted = bool(apps) and not apps.isdisjoint(record.weights)
            row = old.get(name)
            if row is None or row.record is not record or row.mounted != mounted:
                endpoint = _endpoint_row(record, mounted)
                row = _Row(record, mounted, endpoint, pack_endpoint(endpoint), self._version)
            self._endpoints[name] = row
        self._gone.update(dict.fromkeys(old.keys() - self._endpoints.keys(), self._version))
        if len(self._gone) > _KEPT_GONE:
            self._gone, self._known_from = {}, self._version
        return tuple(self._endpoints[name].endpoint for name in sorted(self._endpoints))

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
