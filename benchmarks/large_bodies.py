"""1 MiB bodies from 16 connections, answered with their length: the rate, and whether any process grows."""

from __future__ import annotations

import rayserve as serve
from benchmarks.bench import RAYSERVE, Bench, compared, rows_of
from benchmarks.figures import Figure, Result
from benchmarks.load import Request
from benchmarks.peers import UVICORN
from benchmarks.processes import Watch
from benchmarks.subjects import size

__all__ = ["measure"]

_MIB = 2**20
_REQUEST = Request("/size", bytes(_MIB), "application/octet-stream")


def measure(bench: Bench) -> Result:
    """Measure the rate while watching the memory of every process of the instance."""
    serve.create_backend("size", size)
    serve.create_endpoint("size", "/size", methods=["POST"], backend="size")
    with Watch(bench.processes()) as watch:
        samples = bench.samples(dict.fromkeys((UVICORN, RAYSERVE), _REQUEST), 16, *((3, 1) if bench.quick else (5, 2)))
    largest = max(watch.growth_bytes, key=lambda pid: watch.growth_bytes[pid])
    growth = Figure(
        "1 MiB bodies: growth of the process that grows most",
        watch.growth_bytes[largest] / _MIB,
        " MiB",
        "≤",
        64,
        bench.kind(largest),
    )
    rate = compared("1 MiB bodies, 16 connections: requests/s", samples, "rate", UVICORN, "≥", 0.6)
    return Result([rate, growth], rows_of("1 MiB bodies, 16 connections", samples))
