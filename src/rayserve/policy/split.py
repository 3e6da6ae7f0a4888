"""Which backend answers: an endpoint's weights, and a draw or a shard key, become a tag.

    weights ──► check_weights (once, where set_traffic is called)
            └─► Splitter (once per table) ──► choose(draw) | choose_by_key(key) per request

A key's backend depends on nothing but the key and the weights: no process, order or start changes it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate
from numbers import Real

from rayserve.errors import InvalidTypeError, InvalidValueError

__all__ = ["SUM_TOLERANCE", "Splitter", "check_weights", "split", "split_by_key"]

# Thirds written as 0.333333 differ from 1 by 1e-6 and a rounding error: they must pass.
SUM_TOLERANCE = 1e-6
_ROUNDING = 1e-12

# Half a step below 2**52 is still exact in a double, so a hash never rounds up to 1, whose logarithm is 0.
_HASH_BITS = 52
_HASH_RANGE = float(2**_HASH_BITS)


def check_weights(weights: object) -> dict[str, float]:
    """Return the weights as plain floats, in the order given, without those of zero.

    Args:
        weights: a mapping of backend tag → share of the requests.

    Raises:
        InvalidTypeError: not a mapping, a tag that is not a str, a weight that is not a number.
        InvalidValueError: a weight below 0 or not finite, or a sum off 1 by more than `SUM_TOLERANCE`.
    """
    if not isinstance(weights, Mapping):
        raise InvalidTypeError(f"traffic must be a mapping of backend tag to weight, got {type(weights).__name__}")
    checked: dict[str, float] = {}
    for tag, weight in weights.items():
        if not isinstance(tag, str):
            raise InvalidTypeError(f"traffic must name backends by their tag, got {tag!r} ({type(tag).__name__})")
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise InvalidTypeError(
                f'the weight of backend "{tag}" must be a number, got {weight!r} ({type(weight).__name__})'
            )
        try:
            share = float(weight)
        except OverflowError:
            share = math.inf
        if not 0 <= share < math.inf:  # also false for NaN
            raise InvalidValueError(f'the weight of backend "{tag}" must be a finite number of 0 to 1, got {weight!r}')
        checked[tag] = share
    total = math.fsum(checked.values())
    if not abs(total - 1.0) <= SUM_TOLERANCE + _ROUNDING:
        said = f"the sum of these is {total:.9g}" if checked else "there are none, so their sum is 0"
        hint = "; write shares, 0.7 for 70 percent" if math.isclose(total, 100.0) else ""
        raise InvalidValueError(f"the weights of a traffic split must sum to 1; {said}: {checked}{hint}")
    return {tag: weight for tag, weight in checked.items() if weight > 0}


class Splitter:
    """A traffic split made ready for many draws.

    The tags are sorted first, so that every process gives the same draw to the same backend.
    """

    __slots__ = ("_bounds", "_only", "_shares", "_tags")

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Make ready for `weights`, which `check_weights` let pass; their sum is taken as the whole.

        Raises:
            InvalidValueError: no backend has a weight above zero.
        """
        shares = sorted((tag, weight) for tag, weight in weights.items() if weight > 0)
        if not shares:
            raise InvalidValueError("a traffic split needs at least one backend with a weight above 0")
        whole = math.fsum(weight for _, weight in shares)
        self._tags = [tag for tag, _ in shares]
        self._only = self._tags[0] if len(shares) == 1 else None
        # Upper bounds of all shares but the last, so that no rounding can leave a draw without a backend.
        self._bounds = [bound / whole for bound in accumulate(weight for _, weight in shares[:-1])]
        self._shares = [(tag, tag.encode("utf-8", "surrogatepass"), weight) for tag, weight in shares]

    def choose(self, draw: float) -> str:
        """Return the backend of one request.

        Args:
            draw: uniform in [0, 1).
        """
        if self._only is not None:
            return self._only
        return self._tags[bisect_right(self._bounds, draw)]

    def choose_by_key(self, key: str) -> str:
        """Return the backend of a shard key: weighted rendezvous hashing.

        Each backend scores `-weight / ln(hash(key, tag))`, the highest takes the key (Thaler and Ravishankar 1998; the
        weighted form: Schindelhauer and Schomaker 2005). Scores keep their order when all weights are multiplied by the
        same factor: if one weight grows and the others keep their proportions, keys only move to it.
        """
        if self._only is not None:
            return self._only
        # A tag holds no NUL (check_name), so key and tag cannot run into each other.
        seed = blake2b(key.encode("utf-8", "surrogatepass") + b"\0", digest_size=8)
        best, highest = "", -1.0
        for tag, encoded, weight in self._shares:
            hashed = seed.copy()
            hashed.update(encoded)
            point = ((int.from_bytes(hashed.digest(), "big") >> (64 - _HASH_BITS)) + 0.5) / _HASH_RANGE
            score = -weight / math.log(point)
            if score > highest:
                best, highest = tag, score
        return best


def split(weights: Mapping[str, float], draw: float) -> str:
    """Return the backend of one request; for more than one draw keep a `Splitter`.

    Args:
        weights: as `check_weights` returned them.
        draw: uniform in [0, 1).
    """
    return Splitter(weights).choose(draw)


def split_by_key(weights: Mapping[str, float], key: str) -> str:
    """Return the backend of a shard key; for more than one key keep a `Splitter`."""
    return Splitter(weights).choose_by_key(key)
