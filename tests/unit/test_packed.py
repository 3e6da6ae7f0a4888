"""Tables on their way: whoever reads changes has, after each, the very table that was sent whole."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tables import decode_table, encode_table

from rayserve.model.packed import (
    Latest,
    MissedTable,
    TableReader,
    pack_endpoint,
    pack_table,
)
from rayserve.model.table import Backend, Endpoint, Replica, RoutingTable, Traffic

_NAMES = st.sampled_from("abcdef")
_ENDPOINTS = st.dictionaries(_NAMES, st.integers(0, 2), max_size=6)
BACKENDS = (Backend("x", 3, (Replica("x#1", "n", "/s"),)), Backend("y", 4))


def table(version: int, weights: dict[str, int]) -> RoutingTable:
    endpoints = tuple(
        Endpoint(name, f"/{name}", ("GET",), Traffic({"xyz"[which]: 1.0})) for name, which in sorted(weights.items())
    )
    return RoutingTable("shop", 1, version, endpoints, BACKENDS, ("x#0",))


def changes(old: RoutingTable, new: RoutingTable) -> bytes:
    """Return what changed from one table to another, packed."""
    before = {one.name: one for one in old.endpoints}
    changed = [pack_endpoint(one) for one in new.endpoints if before.get(one.name) != one]
    gone = sorted(before.keys() - {one.name for one in new.endpoints})
    return pack_table(new, changed, old.stamp, gone)


@given(st.lists(_ENDPOINTS, min_size=1, max_size=8), st.data())
def test_readers_that_miss_tables_end_with_the_table_that_was_sent(
    history: list[dict[str, int]], data: st.DataObject
) -> None:
    tables = [table(version, weights) for version, weights in enumerate(history)]
    latest, every, some, had = Latest(), TableReader(), TableReader(), (-1, -1)
    assert latest.take(encode_table(tables[0]))
    assert every.read(latest.after((-1, -1))) == tables[0]
    for old, new in itertools.pairwise(tables):
        assert latest.take(changes(old, new))
        assert every.read(latest.after(old.stamp)) == new
        if data.draw(st.booleans()):
            assert some.read(latest.after(had)) == new
            had = new.stamp
        assert decode_table(latest.after((-1, -1))) == new


def test_an_endpoint_that_did_not_change_stays_the_same_object() -> None:
    reader = TableReader()
    first = reader.read(encode_table(table(1, {"a": 0, "b": 0})))
    by_changes = reader.read(changes(table(1, {"a": 0, "b": 0}), table(2, {"a": 1, "b": 0})))
    whole = reader.read(encode_table(table(3, {"a": 1, "b": 0})))
    assert first.endpoints[1] is by_changes.endpoints[1] is whole.endpoints[1]
    assert by_changes.endpoints[0].traffic == Traffic({"y": 1.0})
    assert whole.endpoints[0] is by_changes.endpoints[0]


def test_changes_hold_what_changed_and_no_more() -> None:
    old, new = table(1, {"a": 0, "b": 0}), table(2, {"a": 1, "b": 0})
    latest = Latest()
    latest.take(encode_table(old))
    latest.take(changes(old, new))
    assert b"/a" in latest.after(old.stamp)
    assert b"/b" not in latest.after(old.stamp)
    assert b"/b" in latest.after((-1, -1))


def test_changes_to_another_table_are_refused_and_change_nothing() -> None:
    latest, reader = Latest(), TableReader()
    old = encode_table(table(1, {"a": 0}))
    latest.take(old)
    reader.read(old)
    unfit = changes(table(2, {"a": 0}), table(3, {"a": 1}))
    assert not latest.take(unfit)
    assert (latest.stamp, latest.after((-1, -1))) == ((1, 1), old)
    with pytest.raises(MissedTable, match=r"since table \(1, 2\) do not fit table \(1, 1\)"):
        reader.read(unfit)
    assert reader.read(changes(table(1, {"a": 0}), table(4, {"a": 2}))).version == 4


def test_an_older_table_is_not_taken() -> None:
    latest = Latest()
    assert latest.after((-1, -1)) == b""
    assert latest.take(encode_table(table(5, {})))
    assert not latest.take(encode_table(table(5, {"a": 0})))
    assert not latest.take(encode_table(table(4, {"a": 0})))
    assert latest.stamp == (1, 5)


@pytest.mark.parametrize("noise", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa5epoch\xa1x"])
def test_what_is_no_table_is_refused(noise: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        Latest().take(noise)
    with pytest.raises(msgspec.MsgspecError):
        TableReader().read(noise)
