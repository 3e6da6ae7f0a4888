"""POST {"x": 1} → {"y": 2}: the whole path with one sync replica, from 64 connections and from one."""

from __future__ import annotations

import rayserve as serve
from benchmarks.bench import RAYSERVE, Bench, compared, rows_of
from benchmarks.figures import Result
from benchmarks.load import Request
from benchmarks.peers import GUNICORN, UVICORN
from benchmarks.subjects import double

__all__ = ["measure"]

_REQUEST = Request("/double", b'{"x": 1}')


def measure(bench: Bench) -> Result:
    """Measure throughput and cost at 64 connections, then latency at one."""
    serve.create_backend("double", double)
    serve.create_endpoint("double", "/double", methods=["POST"], backend="double")
    rounds, seconds = (3, 2) if bench.quick else (5, 3)
    many = bench.samples(dict.fromkeys((UVICORN, RAYSERVE, GUNICORN), _REQUEST), 64, rounds, seconds)
    varied = bench.samples(dict.fromkeys((UVICORN, RAYSERVE), _REQUEST._replace(vary=True)), 64, 3, 2)
    one = bench.samples(dict.fromkeys((UVICORN, RAYSERVE), _REQUEST), 1, rounds, 2)
    figures = [
        compared("64 connections: server CPU per request", many, "cpu_us", UVICORN, "≤", 1.5),
        compared("64 connections: requests/s", many, "rate", UVICORN, "≥", 0.6),
        compared("64 connections: requests/s", many, "rate", GUNICORN, "≥", 6.0),
        compared("1 connection: p50", one, "p50_ms", UVICORN, "≤", 2.0),
    ]
    rows = rows_of("small JSON, 64 connections", many)
    rows += rows_of("small JSON, 64 connections, each head another", varied)
    return Result(figures, rows + rows_of("small JSON, 1 connection", one))
