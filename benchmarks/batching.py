"""Batches of a handler that takes 1 ms whatever their size: the rate beside the best that can be, and their size.

What "the best that can be" means is said in BENCHMARKS.md. A random forest shows a real model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import rayserve as serve
from benchmarks.bench import Bench, Samples, column, rows_of
from benchmarks.figures import Figure, Result, Row, ratio
from benchmarks.handlers import NAP_S, Forest, batch_noop, napping
from benchmarks.load import Request
from benchmarks.metrics import total
from benchmarks.subjects import noop

__all__ = ["measure"]

_SIZE = 32
_CONFIG = {"max_batch_size": _SIZE}
_NOOP, _NAPPING, _SINGLE = "rayserve, batched noop", "rayserve, batches of 1 ms", "rayserve, noop"


def measure(bench: Bench) -> Result:
    """Measure the rate and the size of batches, then what a lone request waits, then the forest."""
    _serve("batched", batch_noop, _CONFIG)
    _serve("napping", napping, _CONFIG)
    _serve("single", noop, {})
    rounds, seconds = (3, 1) if bench.quick else (4, 2)
    many = bench.samples(
        {_NOOP: Request("/batched", b""), _NAPPING: Request("/napping", b"")}, 64, rounds, seconds, kinds=("replica",)
    )
    calls, batches = total(("rayserve_batch_size_sum", "rayserve_batch_size_count"), backend="napping")
    one = bench.samples({_SINGLE: Request("/single", b""), _NOOP: Request("/batched", b"")}, 1, rounds, 1)
    figures = [
        _beside_the_best(many),
        Figure("batches of 1 ms: mean size", calls / batches, "", "≥", 24, f"{batches:,.0f} batches, by /metrics"),
        _waited(one),
    ]
    rows = rows_of("64 connections; CPU of the replica", many) + rows_of("noop, 1 connection", one)
    return Result(figures, rows + _forest(bench, rounds))


def _serve(name: str, handler: Callable[..., Any], config: dict[str, Any]) -> None:
    serve.create_backend(name, handler, config=config)
    serve.create_endpoint(name, f"/{name}", methods=["POST"], backend=name)


def _beside_the_best(samples: Samples) -> Figure:
    """Return the rate beside the best that can be, round by round."""
    rates, noop_rates = column(samples, _NAPPING, "rate"), column(samples, _NOOP, "rate")
    own_us = column(samples, _NOOP, "cpu_us")
    nap_s = _nap_s()
    best = [min(rate, _SIZE / (nap_s + _SIZE * us / 1e6)) for rate, us in zip(noop_rates, own_us, strict=True)]
    detail = (
        f"{median(rates):,.0f}/s beside {median(best):,.0f}/s; a nap takes {nap_s * 1e3:.2f} ms, a noop "
        f"{median(own_us):.1f} µs of the replica, {median(noop_rates):,.0f} of them fit into a second"
    )
    what = "batches of 1 ms, 64 connections: requests/s ÷ the best possible"
    return Figure(what, ratio(rates, best), " ×", "≥", 0.9, detail)


def _waited(samples: Samples) -> Figure:
    """Return what a lone request waits for others; a few µs go into making a batch of it."""
    batched, singles = column(samples, _NOOP, "p50_ms"), column(samples, _SINGLE, "p50_ms")
    waited_ms = median(mine - other for mine, other in zip(batched, singles, strict=True))
    detail = f"{median(batched):.3f} ms beside {median(singles):.3f} ms"
    return Figure("1 connection: p50 of a batched noop beyond a single one's", waited_ms, " ms", "≤", 0.05, detail)


def _forest(bench: Bench, rounds: int) -> list[Row]:
    """Return what a random forest does in batches."""
    _serve("forest", Forest, {"max_batch_size": 64})
    row = Request("/forest", json.dumps([number % 17 for number in range(64)]).encode())
    return rows_of("random forest, digits, 128 connections", bench.samples({"rayserve": row}, 128, rounds, 1))


def _nap_s() -> float:
    """Return how long a nap of 1 ms takes here."""
    took_s = []
    for _ in range(200):
        began = time.perf_counter()
        time.sleep(NAP_S)
        took_s.append(time.perf_counter() - began)
    return median(took_s)
