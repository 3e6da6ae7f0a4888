"""What a benchmark says: rows of measurements, and figures held against what they must reach.

rounds of subjects ─► interleaved ─► {subject: [Sample, …]} ─► ratio (median of the rounds' ratios) ─► Figure
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

__all__ = ["Figure", "Result", "Row", "interleaved", "ratio"]

T = TypeVar("T")

_HOLDS: Mapping[str, Callable[[float, float], bool]] = {"≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class Figure:
    """One figure with its target.

    Attributes:
        what: what was measured.
        value: the measurement.
        unit: behind the number, e.g. `×` or ` ms`.
        bound: "≤" or "≥".
        target: what it must reach.
        detail: the measurements it was computed from.
    """

    what: str
    value: float
    unit: str
    bound: str
    target: float
    detail: str

    @property
    def met(self) -> bool:
        """Whether it reached its target."""
        return _HOLDS[self.bound](self.value, self.target)


@dataclass(frozen=True)
class Row:
    """The medians of one subject under one load.

    Attributes:
        what: the load.
        subject: who answered.
        values: requests/s, server CPU per request, p50 and p99, in this order.
    """

    what: str
    subject: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What one benchmark brings."""

    figures: Sequence[Figure]
    rows: Sequence[Row] = ()


def interleaved(subjects: Sequence[str], rounds: int, measure: Callable[[str], T]) -> dict[str, list[T]]:
    """Measure each subject once per round, in turn, so that a machine that drifts does so for all of them.

    Every other round goes backwards: then none is always the first.
    """
    samples: dict[str, list[T]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name in subjects if number % 2 == 0 else reversed(subjects):
            samples[name].append(measure(name))
    return samples


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the rounds of ours ÷ theirs."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))
