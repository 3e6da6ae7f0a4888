"""What an instance costs while nobody asks: its CPU beyond that of as many bare Ray actors."""

from __future__ import annotations

import time

import rayserve as serve
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Result
from benchmarks.processes import cpu_s
from benchmarks.subjects import noop

__all__ = ["measure"]

_SETTLE_S = 3.0  # facts of the last calls still travel


def measure(bench: Bench) -> Result:
    """Compare the whole instance, two replicas included, with bare actors over the same seconds."""
    serve.create_backend("idle", noop, config={"num_replicas": 2})
    serve.create_endpoint("idle", "/idle", backend="idle")
    actors = 4  # controller, doorkeeper and two replicas; the ingress is no actor
    bare = bench.bare_actors(actors)
    time.sleep(_SETTLE_S)
    ours = bench.processes()
    if len(ours) != actors + 1:
        raise RuntimeError(f"expected {actors + 1} processes of the instance, found {len(ours)}")
    before, bare_before, began = cpu_s(ours), cpu_s(bare), time.monotonic()
    time.sleep(6 if bench.quick else 20)
    took_s = time.monotonic() - began
    percent = (cpu_s(ours) - before) / took_s * 100
    bare_percent = (cpu_s(bare) - bare_before) / took_s * 100 * actors / len(bare)
    detail = f"{percent:.2f} % of a core beside {bare_percent:.2f} %, over {took_s:.0f} s"
    what = f"idle: CPU of the instance (2 replicas) beyond {actors} bare Ray actors"
    return Result([Figure(what, percent - bare_percent, " % of a core", "≤", 2, detail)])
