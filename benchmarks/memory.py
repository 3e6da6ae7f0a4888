"""What a replica weighs beyond the Ray actor it is: PSS of a function backend's replica minus that of a bare actor."""

from __future__ import annotations

import urllib.request
from statistics import median

import rayserve as serve
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Result
from benchmarks.processes import pss_bytes
from benchmarks.subjects import noop

__all__ = ["measure"]

_MIB = 2**20
_ASKED = 20


def measure(bench: Bench) -> Result:
    """Compare two replicas that have answered a few requests with two bare actors."""
    bare = bench.bare_actors(2)
    serve.create_backend("weighed", noop, config={"num_replicas": 2})
    serve.create_endpoint("weighed", "/weighed", backend="weighed")
    for _ in range(_ASKED):
        urllib.request.urlopen(f"{bench.url}/weighed", timeout=10).close()
    replicas = bench.processes("replica")
    ours, theirs = (median(pss_bytes(pid) for pid in pids) / _MIB for pids in (replicas, bare))
    detail = f"PSS {ours:.1f} MiB beside {theirs:.1f} MiB"
    return Result([Figure("memory of a replica beyond a bare Ray actor", ours - theirs, " MiB", "≤", 40, detail)])
