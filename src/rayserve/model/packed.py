"""Tables as they travel: whole, or as what changed since an earlier one.

    controller ── pack_endpoint, pack_table ──► Latest (doorkeeper) ── whole | changes ──► TableReader (router)

Traffic changes often, and mostly of one endpoint among many. So whoever has an earlier table gets the endpoints that
changed since; with 1,000 of them a change to one costs each process little more than with ten.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rayserve.model.table import Backend, Endpoint, RoutingTable

__all__ = ["Latest", "MissedTable", "Stamp", "TableReader", "pack_endpoint", "pack_table"]

Stamp = tuple[int, int]


class MissedTable(ValueError):
    """These are changes to a table that is not the present one; the whole table must be fetched."""


class _Packed(msgspec.Struct):
    """A table on its way; `since` is the stamp of the table that it changes, None if it is whole."""

    instance: str
    epoch: int
    version: int
    since: Stamp | None
    endpoints: list[msgspec.Raw]
    gone: tuple[str, ...]
    backends: msgspec.Raw
    draining: tuple[str, ...]
    closing: bool

    @property
    def stamp(self) -> Stamp:
        return (self.epoch, self.version)


class _Named(msgspec.Struct):
    """The part of an endpoint that tells which it is; the rest is skipped unread."""

    name: str


_ENCODER = msgspec.msgpack.Encoder()
_PACKED = msgspec.msgpack.Decoder(_Packed)
_ENDPOINT = msgspec.msgpack.Decoder(Endpoint)
_BACKENDS = msgspec.msgpack.Decoder(tuple[Backend, ...])
_NAMED = msgspec.msgpack.Decoder(_Named)


def pack_endpoint(endpoint: Endpoint) -> msgspec.Raw:
    """Return an endpoint as it stands in a packed table; made once per change, used in every table."""
    return msgspec.Raw(_ENCODER.encode(endpoint))


def pack_table(
    table: RoutingTable, endpoints: list[msgspec.Raw], since: Stamp | None = None, gone: Sequence[str] = ()
) -> bytes:
    """Return `table`, packed.

    Args:
        table: its own `endpoints` are left out.
        endpoints: in their place: all of them, sorted by name, or those that changed.
        since: stamp of the table that they changed since; None: they are all.
        gone: names of endpoints that are no more since then.
    """
    backends = msgspec.Raw(_ENCODER.encode(table.backends))
    return _ENCODER.encode(
        _Packed(
            table.instance, table.epoch, table.version, since, endpoints, tuple(gone), backends, table.draining,
            table.closing,
        )
    )  # fmt: skip


class TableReader:
    """Reads one table after the other; an endpoint that did not change stays the same object."""

    __slots__ = ("_endpoints", "_stamp")

    def __init__(self) -> None:
        """Begin without a table."""
        self._stamp: Stamp = (-1, -1)
        self._endpoints: dict[str, Endpoint] = {}

    def read(self, data: bytes) -> RoutingTable:
        """Return the table that is in force with `data`.

        Raises:
            msgspec.MsgspecError: `data` is not a packed table.
            MissedTable: it holds the changes to another table than the last one read.
        """
        packed = _PACKED.decode(data)
        if packed.since not in (None, self._stamp):
            raise MissedTable(f"changes since table {packed.since} do not fit table {self._stamp}")
        before = self._endpoints
        present, in_order = ({}, False) if packed.since is None else (before.copy(), True)
        for name in packed.gone:
            present.pop(name, None)
        for raw in packed.endpoints:
            endpoint = _ENDPOINT.decode(raw)
            known = before.get(endpoint.name)
            present[endpoint.name] = known if known == endpoint else endpoint
            in_order = in_order and known is not None
        backends = _BACKENDS.decode(packed.backends)
        self._endpoints = present if in_order else {name: present[name] for name in sorted(present)}
        self._stamp = packed.stamp
        return RoutingTable(
            packed.instance, packed.epoch, packed.version, tuple(self._endpoints.values()), backends,
            packed.draining, packed.closing,
        )  # fmt: skip


class Latest:
    """The newest table, packed, for those who have the one before and for those who have none.

    Attributes:
        stamp: of the table; (-1, -1) before the first.
    """

    __slots__ = ("_changes", "_endpoints", "_since", "_table", "_whole", "stamp")

    def __init__(self) -> None:
        """Begin without a table."""
        self.stamp: Stamp = (-1, -1)
        self._table: _Packed | None = None
        self._endpoints: dict[str, msgspec.Raw] = {}
        self._whole = b""  # made from them when somebody needs it
        self._since: Stamp = (-1, -1)
        self._changes = b""

    def take(self, data: bytes) -> bool:
        """Take a newer table and return True; one that is not newer, or does not fit, changes nothing.

        Raises:
            msgspec.MsgspecError: these bytes are no packed table.
        """
        packed = _PACKED.decode(data)
        if packed.stamp <= self.stamp or packed.since not in (None, self.stamp):
            return False
        if packed.since is None:
            self._endpoints = {}
            self._since, self._changes, self._whole = (-1, -1), b"", data
        else:
            self._since, self._changes, self._whole = packed.since, data, b""
        for name in packed.gone:
            self._endpoints.pop(name, None)
        for raw in packed.endpoints:
            self._endpoints[_NAMED.decode(raw).name] = raw
        packed.endpoints, packed.since, packed.gone = [], None, ()
        self.stamp, self._table = packed.stamp, packed
        return True

    def after(self, stamp: Stamp) -> bytes:
        """Return what brings someone up to date who has the table of `stamp`; b"" if there is no table yet."""
        if self._changes and stamp == self._since:
            return self._changes
        if not self._whole and self._table is not None:
            self._table.endpoints = [self._endpoints[name] for name in sorted(self._endpoints)]
            self._whole = _ENCODER.encode(self._table)
        return self._whole
