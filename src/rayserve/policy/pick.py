"""Which replica takes a call: the least busy of those with room.

    candidates (one per replica, kept by the router) + a draw ──► one of them, or None: the call waits

Up to `SCAN_UP_TO` candidates all are looked at; beyond that two drawn at random, which spreads load nearly as
well at a constant price (Mitzenmacher 2001). The scan starts at a drawn place, so that equals share evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["SCAN_UP_TO", "Candidate", "pick"]

SCAN_UP_TO = 8


class Candidate(Protocol):
    """What `pick` looks at.

    Attributes:
        in_flight: calls the replica has now, as far as this process knows.
        limit: calls it may have at once.
        open: a call can be sent to it now (connected, not draining, link not congested).
        suspect: it has been silent for a while; picked only if no other has room.
    """

    # Read-only here, so that attributes, slots and properties all fit.
    @property
    def in_flight(self) -> int:
        """Calls it has now."""

    @property
    def limit(self) -> int:
        """Calls it may have."""

    @property
    def open(self) -> bool:
        """Whether a call can be sent to it now."""

    @property
    def suspect(self) -> bool:
        """Whether it is picked last."""


C = TypeVar("C", bound=Candidate)


def pick(candidates: Sequence[C], draw: float) -> C | None:
    """Return the candidate to send the next call to; None if none is open and has room.

    Args:
        candidates: in any order; the same sequence each time costs nothing to pass.
        draw: uniform in [0, 1).
    """
    count = len(candidates)
    if count == 1:
        only = candidates[0]
        return only if only.open and only.in_flight < only.limit else None
    place = draw * count
    first = int(place)
    if 2 < count <= SCAN_UP_TO:
        return _scan(candidates, first)
    if count == 0:
        return None
    # The fraction left over is a second draw, and stepping over the first makes the two different.
    second = int((place - first) * (count - 1))
    if second >= first:
        second += 1
    one, two = candidates[first], candidates[second]
    one_fits = one.open and one.in_flight < one.limit and not one.suspect
    two_fits = two.open and two.in_flight < two.limit and not two.suspect
    if one_fits:
        return two if two_fits and two.in_flight < one.in_flight else one
    return two if two_fits else _scan(candidates, first)


def _scan(candidates: Sequence[C], start: int) -> C | None:
    """Return the least busy with room, looking from `start` round; a suspect only if all with room are."""
    best: C | None = None
    best_suspect: C | None = None
    least = least_suspect = 0
    count = len(candidates)
    for index in range(start - count, start):  # negative indices wrap round
        candidate = candidates[index]
        in_flight = candidate.in_flight
        if not candidate.open or in_flight >= candidate.limit:
            continue
        if candidate.suspect:
            if best_suspect is None or in_flight < least_suspect:
                best_suspect, least_suspect = candidate, in_flight
        elif best is None or in_flight < least:
            best, least = candidate, in_flight
    return best_suspect if best is None else best
