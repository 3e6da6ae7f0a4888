"""Which replica takes a call."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.policy.pick import SCAN_UP_TO, pick


@dataclass(eq=False)
class Place:
    in_flight: int = 0
    limit: int = 8
    open: bool = True
    suspect: bool = False

    @property
    def fits(self) -> bool:
        return self.open and self.in_flight < self.limit


_PLACES = st.builds(
    Place, in_flight=st.integers(0, 4), limit=st.integers(0, 4), open=st.booleans(), suspect=st.booleans()
)
_DRAWS = st.floats(0, 1, exclude_max=True)


@given(st.lists(_PLACES, max_size=40), _DRAWS)
def test_only_a_candidate_with_room_is_picked_and_none_only_if_there_is_none(places: list[Place], draw: float) -> None:
    picked = pick(places, draw)
    assert (picked is None) == (not any(place.fits for place in places))
    assert picked is None or picked.fits


@given(st.lists(_PLACES, max_size=40), _DRAWS)
def test_a_suspect_is_picked_only_if_no_other_has_room(places: list[Place], draw: float) -> None:
    picked = pick(places, draw)
    if picked is not None and picked.suspect:
        assert not any(place.fits and not place.suspect for place in places)


@given(st.lists(_PLACES, min_size=1, max_size=SCAN_UP_TO), _DRAWS)
def test_of_few_the_least_busy_is_picked(places: list[Place], draw: float) -> None:
    picked = pick(places, draw)
    if picked is not None:
        rivals = [place for place in places if place.fits and place.suspect == picked.suspect]
        assert picked.in_flight == min(place.in_flight for place in rivals)


@pytest.mark.parametrize("count", [2, 3, 8, 9, 50])
def test_equals_share_evenly(count: int) -> None:
    draw = random.Random(count).random
    places = [Place() for _ in range(count)]
    taken = Counter(id(pick(places, draw())) for _ in range(count * 1000))
    assert len(taken) == count
    assert all(800 < times < 1200 for times in taken.values())


@pytest.mark.parametrize("count", [9, 20])
def test_of_many_two_different_ones_are_compared(count: int) -> None:
    # One idle among the busy, wherever it is: two different draws find it with chance 2/n exactly.
    steps = 10 * count * (count - 1)
    for index in range(count):
        places = [Place(in_flight=1) for _ in range(count)]
        places[index].in_flight = 0
        found = sum(pick(places, (step + 0.5) / steps) is places[index] for step in range(steps))
        assert found == 2 * steps // count


@pytest.mark.parametrize("count", [2, 3, SCAN_UP_TO])
def test_of_few_the_only_idle_one_is_always_found(count: int) -> None:
    for index in range(count):
        places = [Place(in_flight=1) for _ in range(count)]
        places[index].in_flight = 0
        assert all(pick(places, (step + 0.5) / 100) is places[index] for step in range(100))


@pytest.mark.parametrize("count", [2, 3, 9])
def test_a_busy_replica_goes_before_an_idle_suspect(count: int) -> None:
    for index in range(count):
        places = [Place(suspect=True) for _ in range(count)]
        places[index] = Place(in_flight=7)
        assert all(pick(places, (step + 0.5) / 100) is places[index] for step in range(100))


def test_load_stays_even_over_many_replicas() -> None:
    draw = random.Random(3).random
    places = [Place(limit=1000) for _ in range(50)]
    for _ in range(5_000):
        picked = pick(places, draw())
        assert picked is not None
        picked.in_flight += 1
    # One random choice would leave a spread near 50; of two it is a handful (log log n).
    assert max(place.in_flight for place in places) - min(place.in_flight for place in places) <= 10


def test_every_slot_is_filled_before_a_call_waits() -> None:
    draw = random.Random(5).random
    places = [Place(limit=3) for _ in range(20)]
    while (picked := pick(places, draw())) is not None:
        picked.in_flight += 1
    assert [place.in_flight for place in places] == [3] * 20
