"""Traffic splits: which weights can be, and where a draw or a shard key goes."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.policy.split import Splitter, check_weights, split, split_by_key


def test_case_21_weights_come_back_as_floats_without_zeros() -> None:
    assert check_weights({"a": 1, "b": 0, "c": 0.0}) == {"a": 1.0}
    assert check_weights({"a": Fraction(1, 4), "b": np.float32(0.75)}) == {"a": 0.25, "b": 0.75}
    assert all(type(weight) is float for weight in check_weights({"a": True + 0, "b": 0}).values())


@pytest.mark.parametrize("count", [3, 6, 7, 9, 11])
def test_case_21_rounded_shares_pass(count: int) -> None:
    check_weights({str(index): round(1 / count, 7) for index in range(count)})


def test_case_21_three_times_a_third_to_six_places_passes() -> None:
    check_weights({"a": 0.333333, "b": 0.333333, "c": 0.333333})


@pytest.mark.parametrize(
    ("weights", "total"),
    [({"a": 0.5}, "0.5"), ({"a": 0.7, "b": 0.4}, "1.1"), ({}, "0"), ({"a": 0}, "0"), ({"a": 1.00001}, "1.00001"),
     ({"a": 5}, "5")],
)  # fmt: skip
def test_case_21_a_sum_other_than_one_is_a_value_error_with_the_sum(weights: dict[str, float], total: str) -> None:
    with pytest.raises(InvalidValueError, match=r"must sum to 1; .*\b" + at_end(total)):
        check_weights(weights)


def at_end(total: str) -> str:
    return total.replace(".", r"\.") + r"($|:)"


def test_case_21_percentages_are_told_apart() -> None:
    with pytest.raises(InvalidValueError, match=r"the sum of these is 100: .*write shares, 0\.7 for 70 percent"):
        check_weights({"a": 70, "b": 30})


@pytest.mark.parametrize("weight", [-0.1, -1, math.nan, math.inf, -math.inf, 10**400])
def test_case_21_a_negative_or_infinite_weight_is_a_value_error(weight: Any) -> None:
    with pytest.raises(InvalidValueError, match='weight of backend "a" must be a finite number'):
        check_weights({"a": weight, "b": 1})


@pytest.mark.parametrize(
    "weights", [None, [("a", 1.0)], "a", {"a": "1"}, {"a": True}, {"a": None}, {1: 1.0}, {"a": 1j}]
)
def test_case_21_wrong_types_are_type_errors(weights: Any) -> None:
    with pytest.raises(InvalidTypeError):
        check_weights(weights)


def test_case_21_seventy_thirty_over_ten_thousand_requests() -> None:
    draw = random.Random(7).random
    splitter = Splitter({"a": 0.7, "b": 0.3})
    taken = sum(splitter.choose(draw()) == "a" for _ in range(10_000))
    assert abs(taken - 7000) < 5 * math.sqrt(10_000 * 0.7 * 0.3)  # five standard deviations


def test_a_draw_at_an_edge_has_one_backend() -> None:
    splitter = Splitter({"b": 0.5, "a": 0.5})
    assert [splitter.choose(draw) for draw in (0.0, 0.4999, 0.5, math.nextafter(1, 0))] == ["a", "a", "b", "b"]


def test_the_sum_of_the_weights_is_the_whole() -> None:
    splitter = Splitter({"a": 1, "b": 3})
    assert [splitter.choose(draw) for draw in (0.24, 0.26, 0.99)] == ["a", "b", "b"]


def test_one_backend_needs_no_draw() -> None:
    assert split({"a": 1.0}, 0.99) == split_by_key({"a": 1.0}, "key") == "a"


def test_a_split_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        Splitter({})


_WEIGHTS = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=8),
    st.floats(0.001, 1.0),
    min_size=1,
    max_size=6,
).map(lambda shares: {tag: share / math.fsum(shares.values()) for tag, share in shares.items()})
_DRAWS = st.floats(0, 1, exclude_max=True)


@given(_WEIGHTS, _DRAWS, st.text(max_size=10))
def test_every_process_gives_the_same_draw_and_key_to_the_same_backend(
    weights: dict[str, float], draw: float, key: str
) -> None:
    other_order = dict(reversed(weights.items()))
    assert split(weights, draw) == split(other_order, draw) in weights
    assert split_by_key(weights, key) == split_by_key(other_order, key) in weights


@given(_WEIGHTS)
def test_each_backend_gets_its_share_of_evenly_spread_draws(weights: dict[str, float]) -> None:
    splitter = Splitter(weights)
    counts = dict.fromkeys(weights, 0)
    for step in range(1000):
        counts[splitter.choose((step + 0.5) / 1000)] += 1
    assert all(abs(counts[tag] - 1000 * weight) <= 1 for tag, weight in weights.items())


def test_case_23_keys_spread_by_weight() -> None:
    weights = {"a": 0.7, "b": 0.2, "c": 0.1}
    splitter = Splitter(weights)
    counts = dict.fromkeys(weights, 0)
    for number in range(10_000):
        counts[splitter.choose_by_key(f"user-{number}")] += 1
    for tag, weight in weights.items():
        assert abs(counts[tag] - 10_000 * weight) < 5 * math.sqrt(10_000 * weight * (1 - weight))


def test_case_23_a_key_keeps_its_backend_across_restarts() -> None:
    # Written down once: a change here moves every user's session to another backend.
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    expected = {"": "a", "user-1": "c", "user-2": "b", "user-3": "b", "größe": "b", "42": "a"}
    assert {key: split_by_key(weights, key) for key in expected} == expected


@given(weights=_WEIGHTS, grown=st.integers(0, 5), share=st.floats(0.01, 0.99), base=st.integers(0, 10**6))
def test_case_23_when_one_weight_grows_keys_only_move_to_it(
    weights: dict[str, float], grown: int, share: float, base: int
) -> None:
    assume(len(weights) > 1)
    tag = sorted(weights)[grown % len(weights)]
    before = weights[tag]
    after = before + (1 - before) * share
    others = (1 - after) / (1 - before)
    new = {name: after if name == tag else weight * others for name, weight in weights.items()}
    old_split, new_split = Splitter(weights), Splitter(new)
    for number in range(100):
        key = f"{base}-{number}"
        was, now = old_split.choose_by_key(key), new_split.choose_by_key(key)
        assert now in (was, tag)


@given(weights=_WEIGHTS, base=st.integers(0, 10**6))
def test_case_23_a_new_backend_only_takes_keys_and_one_that_goes_only_gives_its_own(
    weights: dict[str, float], base: int
) -> None:
    assume("new" not in weights)
    with_new = {**{tag: weight * 0.8 for tag, weight in weights.items()}, "new": 0.2}
    old_split, new_split = Splitter(weights), Splitter(with_new)
    for number in range(100):
        key = f"{base}-{number}"
        assert new_split.choose_by_key(key) in (old_split.choose_by_key(key), "new")
