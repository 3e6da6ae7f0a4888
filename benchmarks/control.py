"""How long the verbs take: `create_backend` of one replica, `set_traffic` with 10 endpoints and with 1,000."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import rayserve as serve
from benchmarks.bench import Bench, say
from benchmarks.figures import Figure, Result, interleaved, ratio
from benchmarks.subjects import noop

__all__ = ["measure"]

_FEW, _MANY = 10, 1_000
_SPLITS = ({"made-0": 0.5, "made-1": 0.5}, {"made-0": 0.9, "made-1": 0.1})


def measure(bench: Bench) -> Result:
    """Measure both; the endpoints that are left are removed with the instance."""
    creations = [_timed(partial(serve.create_backend, f"made-{number}", noop)) for number in range(3)]
    rounds, repeats = (2, 20) if bench.quick else (4, 30)
    with ThreadPoolExecutor(8) as threads:
        took = interleaved(("few", "many"), rounds, partial(_switches, threads, repeats))
    few, many = median(took["few"]), median(took["many"])
    figures = [
        Figure(
            "create_backend of one replica", max(creations), " s", "≤", 2, f"the slowest of {len(creations)}"
        ),
        Figure(
            f"set_traffic with {_FEW} endpoints", few * 1e3, " ms", "≤", 20,
            f"{rounds} rounds, in each the median of {repeats}",
        ),
        Figure(
            f"set_traffic with {_MANY:,} endpoints ÷ with {_FEW}", ratio(took["many"], took["few"]), " ×", "≤", 1.5,
            f"{many * 1e3:.1f} ms beside {few * 1e3:.1f} ms",
        ),
    ]  # fmt: skip
    return Result(figures)


def _switches(threads: ThreadPoolExecutor, repeats: int, many: str) -> float:
    """Return the median of how long some changes of one endpoint's traffic took, in seconds.

    Args:
        threads: make and delete endpoints until there are as many as asked for.
        repeats: how many changes.
        many: "many" or "few" endpoints.
    """
    wanted, present = _MANY if many == "many" else _FEW, len(serve.list_endpoints())
    if wanted != present:
        say(f"from {present} to {wanted} endpoints")
    list(threads.map(_make_endpoint, range(present, wanted)))
    list(threads.map(_delete_endpoint, range(wanted, present)))
    return median(_timed(partial(serve.set_traffic, "endpoint-5", _SPLITS[turn % 2])) for turn in range(repeats))


def _make_endpoint(number: int) -> None:
    serve.create_endpoint(f"endpoint-{number}", f"/route/{number}", backend="made-0")


def _delete_endpoint(number: int) -> None:
    serve.delete_endpoint(f"endpoint-{number}")


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
