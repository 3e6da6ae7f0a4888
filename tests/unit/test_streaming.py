"""When a stream on the loop lets others have their turn."""

from __future__ import annotations

import pytest

from rayserve.replica.streaming import Turn


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("rayserve.replica.streaming.time.monotonic", lambda: now[0])
    return now


def test_a_turn_ends_with_16_chunks_64_kib_or_a_millisecond(clock: list[float]) -> None:
    turn = Turn()
    assert [turn.ends(10) for _ in range(16)] == [False] * 15 + [True]
    turn.begin()
    assert [turn.ends(size) for size in (30_000, 30_000, 5_536)] == [False, False, True]
    turn.begin()
    clock[0] += 0.0009
    assert not turn.ends(1)
    clock[0] += 0.0002
    assert turn.ends(1)
