"""A thread stays awake for the next call only where the last ones came soon and nearly alone."""

import pytest

from rayserve.replica.vigil import FEW, REST, SLEPT_S, VIGIL_S, Vigil


def waited(vigil: Vigil, seconds: float, calls: int = 1) -> Vigil:
    vigil.begin(10.0)
    vigil.end(10.0 + seconds, calls)
    return vigil


def is_kept(vigil: Vigil, after_s: float = 0.0) -> bool:
    vigil.begin(20.0)
    return vigil.lasts(20.0 + after_s)


def test_the_first_wait_is_slept_through() -> None:
    assert not is_kept(Vigil())


@pytest.mark.parametrize("calls", [1, FEW])
def test_a_short_wait_for_few_calls_makes_the_next_a_vigil(calls: int) -> None:
    assert is_kept(waited(Vigil(), SLEPT_S * 0.9, calls))


@pytest.mark.parametrize(("seconds", "calls"), [(SLEPT_S * 1.1, 1), (VIGIL_S / 2, FEW + 1), (VIGIL_S / 2, 0)])
def test_a_long_wait_many_calls_or_none_make_no_vigil(seconds: float, calls: int) -> None:
    assert not is_kept(waited(Vigil(), seconds, calls))


def test_vigils_go_on_while_calls_come_during_them() -> None:
    vigil = waited(Vigil(), VIGIL_S / 2)
    for _ in range(100):
        assert is_kept(waited(vigil, VIGIL_S / 2))


def test_a_vigil_is_short() -> None:
    vigil = waited(Vigil(), VIGIL_S / 2)
    assert is_kept(vigil, VIGIL_S * 0.9)
    assert not is_kept(vigil, VIGIL_S * 1.1)


def slept_through(vigil: Vigil) -> int:
    """Return how many short waits pass until a vigil is kept again."""
    waits = 0
    while not is_kept(vigil):
        waited(vigil, SLEPT_S * 0.9)
        waits += 1
    return waits


@pytest.mark.parametrize(("seconds", "calls"), [(VIGIL_S * 1.1, 1), (3600.0, 1), (VIGIL_S / 2, FEW + 1)])
def test_after_each_vigil_in_vain_twice_as_many_short_waits_are_slept_through(seconds: float, calls: int) -> None:
    vigil = waited(Vigil(), VIGIL_S / 2)
    assert [slept_through(waited(vigil, seconds, calls)) for _ in range(7)] == [1, 2, 4, 8, REST, REST, REST]


def test_a_rewarded_vigil_ends_the_long_rests() -> None:
    vigil = waited(Vigil(), VIGIL_S / 2)
    for _ in range(5):
        slept_through(waited(vigil, 1.0))
    assert slept_through(waited(waited(vigil, VIGIL_S / 2), 1.0)) == 1


def test_a_client_that_takes_longer_costs_few_vigils() -> None:
    """Each of its requests comes just too late for a vigil, and soon enough to make one look worth while."""
    vigil, kept = Vigil(), 0
    for _ in range(1000):
        kept += is_kept(vigil)
        waited(vigil, SLEPT_S * 0.9)
    assert 0 < kept < 1000 // REST + 5
