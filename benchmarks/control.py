"""How long the verbs take: `create_backend` of one replica, `set_traffic` with 10 endpoints and with 1,000."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import rayserve as serve
from benchmarks.bench import Bench, say
from benchmarks.figures import Figure, Result
from benchmarks.subjects import noop

__all__ = ["measure"]

_FEW, _MANY = 10, 1_000


def measure(bench: Bench) -> Result:
    """Measure both; the many endpoints are removed with the instance."""
    creations = [_timed(partial(serve.create_backend, f"made-{number}", noop)) for number in range(3)]
    repeats = 20 if bench.quick else 60
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(_make_endpoint, range(_FEW)))
        few = median(_switches(repeats))
        say(f"making {_MANY - _FEW} endpoints more")
        list(threads.map(_make_endpoint, range(_FEW, _MANY)))
    many = median(_switches(repeats))
    figures = [
        Figure(
            "create_backend of one replica", max(creations), " s", "≤", 2, f"the slowest of {len(creations)}"
        ),
        Figure(f"set_traffic with {_FEW} endpoints", few * 1e3, " ms", "≤", 20, f"median of {repeats}"),
        Figure(
            f"set_traffic with {_MANY:,} endpoints ÷ with {_FEW}", many / few, " ×", "≤", 1.5,
            f"{many * 1e3:.1f} ms beside {few * 1e3:.1f} ms",
        ),
    ]  # fmt: skip
    return Result(figures)


def _make_endpoint(number: int) -> None:
    serve.create_endpoint(f"endpoint-{number}", f"/route/{number}", backend="made-0")


def _switches(repeats: int) -> list[float]:
    """Return how long each of some changes of one endpoint's traffic took, in seconds."""
    splits = ({"made-0": 0.5, "made-1": 0.5}, {"made-0": 0.9, "made-1": 0.1})
    return [_timed(partial(serve.set_traffic, "endpoint-5", splits[number % 2])) for number in range(repeats)]


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
