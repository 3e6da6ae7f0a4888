"""Async code: a noop by HTTP, the same behind a backend that calls it, and calls from that backend by themselves."""

from __future__ import annotations

from statistics import median

import rayserve as serve
from benchmarks.bench import RAYSERVE, Bench, compared, rows_of
from benchmarks.figures import Figure, Result
from benchmarks.handlers import Caller, async_noop
from benchmarks.load import Request
from benchmarks.peers import UVICORN
from benchmarks.processes import cpu_s

__all__ = ["measure"]

_CHAIN = "rayserve, chain of two"
_BODY = b'{"x": 1}'
_IN_FLIGHT = 64


def measure(bench: Bench) -> Result:
    """Measure by HTTP first, then by handle; the loop that calls runs inside the backend and times itself."""
    serve.create_backend("noop", async_noop)
    serve.create_endpoint("noop", "/noop", methods=["POST"], backend="noop")
    serve.create_backend("chain", Caller, "noop")
    serve.create_endpoint("chain", "/chain", methods=["POST"], backend="chain")
    requests = {UVICORN: Request("/double", _BODY), RAYSERVE: Request("/noop", _BODY), _CHAIN: Request("/chain", _BODY)}
    samples = bench.samples(requests, 64, *((3, 1) if bench.quick else (4, 2)))
    figures = [
        compared("async noop, 64 connections: server CPU per request", samples, "cpu_us", UVICORN, "≤", 1.3),
        compared("chain of two, 64 connections: CPU per request", samples, "cpu_us", RAYSERVE, "≤", 1.6, ours=_CHAIN),
        *_by_handle(bench, 3 if bench.quick else 4),
    ]
    return Result(figures, rows_of("async noop, 64 connections", samples))


def _by_handle(bench: Bench, rounds: int) -> list[Figure]:
    """Measure calls by handle: many at once, and one after the other."""
    caller = serve.get_handle("chain")
    together, in_turn = (caller.options(method_name=name) for name in ("together", "in_turn"))
    together.remote(_IN_FLIGHT, 1.0).result()
    replicas = bench.processes("replica")
    rates, costs_us, p50s_us = [], [], []
    for _ in range(rounds):
        before = cpu_s(replicas)
        done, took_s = together.remote(_IN_FLIGHT, 1.0).result()
        rates.append(done / took_s)
        costs_us.append((cpu_s(replicas) - before) * 1e6 / done)
        p50s_us.append(in_turn.remote(0.5).result() * 1e6)
    many = f"the median of {rounds} rounds; {median(costs_us):.1f} µs of CPU per call, both sides"
    return [
        Figure(f"async handle calls, {_IN_FLIGHT} in flight", median(rates), "/s", "≥", 15_000, many),
        Figure("async handle calls, one at a time: p50", median(p50s_us), " µs", "≤", 150, f"of {rounds} rounds"),
    ]
