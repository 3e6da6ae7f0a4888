"""What routers are told: desired state and ready replicas become packed tables.

    mark() on each change ──► stamp grows ──► doors ask for current(since) ──► bytes: all, or what changed since

Marks between two builds cost nothing, so a burst of changes becomes one table. Records that nobody replaced are the
same objects as before: a change of one endpoint among 1,000 packs one.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Final

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
_KEPT: Final = 1_000  # changes remembered; who missed more gets the whole table
ALL_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class Tables:
    """Builds the newest table when asked for it."""

    def __init__(self, ledger: Ledger, roster: Roster, bell: Bell) -> None:
        """Build tables of what `ledger` wants and `roster` has."""
        self._ledger = ledger
        self._roster = roster
        self._bell = bell
        self._version = 0
        self._rest: RoutingTable | None = None  # the table but for its endpoints
        self._records: dict[str, EndpointRecord] = {}
        self._apps: set[str] = set()
        self._packed: dict[str, msgspec.Raw] = {}
        self._log: deque[tuple[int, str]] = deque(maxlen=_KEPT)  # table version, endpoint that changed or went with it
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
        rest, packed = self._build(), self._packed
        log, (epoch, version) = self._log, since
        if epoch != rest.epoch or (len(log) == _KEPT and version < log[0][0]):
            return rest.stamp, pack_table(rest, [packed[name] for name in sorted(packed)])
        names = {name for _, name in takewhile(lambda change: change[0] > version, reversed(log))}
        gone = [name for name in names if name not in packed]
        return rest.stamp, pack_table(rest, [packed[name] for name in names if name in packed], since, gone)

    def _build(self) -> RoutingTable:
        """Return the newest table without its endpoints, which are in `_packed`; the same until the next mark."""
        if self._rest is None or self._rest.stamp != self.stamp:
            state = self._ledger.state
            epoch, version = self.stamp
            self._pack_endpoints(state)
            self._rest = RoutingTable(
                instance=state.instance,
                epoch=epoch,
                version=version,
                backends=self._backend_rows(state),
                draining=self._roster.leaving(state),
                closing=state.closing,
            )
        return self._rest

    def _pack_endpoints(self, state: Desired) -> None:
        """Pack the endpoints that are not what they were; with 1,000 of them, looking must cost little."""
        apps = {tag for tag, backend in state.backends.items() if backend.traits and backend.traits.kind in APPS}
        old, self._records = self._records if apps == self._apps else {}, state.endpoints
        self._apps = apps
        for name in [name for name, record in state.endpoints.items() if old.get(name) is not record]:
            record = state.endpoints[name]
            self._packed[name] = pack_endpoint(_endpoint_row(record, not apps.isdisjoint(record.weights)))
            self._log.append((self._version, name))
        for name in self._packed.keys() - state.endpoints.keys():
            del self._packed[name]
            self._log.append((self._version, name))

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
