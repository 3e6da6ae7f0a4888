"""Whole tables as they travel, for tests that publish one or read one."""

from __future__ import annotations

from rayserve.model.packed import TableReader, pack_endpoint, pack_table
from rayserve.model.table import RoutingTable

__all__ = ["decode_table", "encode_table"]


def encode_table(table: RoutingTable) -> bytes:
    """Return the whole table, packed."""
    return pack_table(table, [pack_endpoint(endpoint) for endpoint in table.endpoints])


def decode_table(data: bytes) -> RoutingTable:
    """Return the table in `data`, which must be whole."""
    return TableReader().read(data)
