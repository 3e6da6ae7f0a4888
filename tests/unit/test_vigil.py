"""A thread stays awake for the next call only where the last one came soon and nearly alone."""

import pytest

from rayserve.replica.vigil import FEW, VIGIL_S, Vigil


def waited(vigil: Vigil, seconds: float, calls: int) -> None:
    vigil.begin(10.0)
    vigil.end(10.0 + seconds, calls)


def is_kept(vigil: Vigil, after_s: float = 0.0) -> bool:
    vigil.begin(20.0)
    return vigil.lasts(20.0 + after_s)


def test_the_first_wait_is_slept_through() -> None:
    assert not is_kept(Vigil())


@pytest.mark.parametrize("calls", [1, FEW])
def test_a_short_wait_for_few_calls_makes_the_next_a_vigil(calls: int) -> None:
    vigil = Vigil()
    waited(vigil, VIGIL_S / 2, calls)
    assert is_kept(vigil)


@pytest.mark.parametrize(
    ("seconds", "calls"), [(VIGIL_S * 1.01, 1), (VIGIL_S / 2, FEW + 1), (VIGIL_S / 2, 0), (3600.0, 1)]
)
def test_a_long_wait_many_calls_or_none_end_the_vigils(seconds: float, calls: int) -> None:
    vigil = Vigil()
    waited(vigil, VIGIL_S / 2, 1)
    waited(vigil, seconds, calls)
    assert not is_kept(vigil)


def test_a_vigil_is_short() -> None:
    vigil = Vigil()
    waited(vigil, VIGIL_S / 2, 1)
    assert is_kept(vigil, VIGIL_S * 0.9)
    assert not is_kept(vigil, VIGIL_S * 1.01)


def test_one_vigil_in_vain_is_the_last() -> None:
    vigil = Vigil()
    waited(vigil, VIGIL_S / 2, 1)
    assert is_kept(vigil)
    vigil.end(20.0 + 2 * VIGIL_S, 1)
    assert not is_kept(vigil)
