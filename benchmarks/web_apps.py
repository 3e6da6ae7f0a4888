"""Whole apps: a FastAPI route with a model, and a WebSocket echo; the same apps under RayServe and bare uvicorn."""

from __future__ import annotations

import rayserve as serve
from benchmarks import echo
from benchmarks.bench import RAYSERVE, Bench, compared, rows_of
from benchmarks.figures import Result
from benchmarks.load import Request
from benchmarks.peers import FASTAPI, UVICORN

__all__ = ["measure"]

_BODY = b'{"x": 1}'
_MESSAGE = b"a message of thirty-two bytes..."


def measure(bench: Bench) -> Result:
    """Measure both, with one replica each."""
    serve.create_backend("fastapi", serve.asgi("benchmarks.fastapi_app:app", lifespan="off"))
    serve.create_endpoint("fastapi", "/fastapi/*", backend="fastapi")
    serve.create_backend("echo", serve.asgi("benchmarks.subjects:echo", lifespan="off"))
    serve.create_endpoint("echo", "/echo/*", backend="echo")
    rounds, seconds = (3, 1) if bench.quick else (4, 2)
    requests = {FASTAPI: Request("/double", _BODY), RAYSERVE: Request("/fastapi/double", _BODY)}
    apps = bench.samples(requests, 64, rounds, seconds)
    requests = {UVICORN: Request("/", _MESSAGE), RAYSERVE: Request("/echo/", _MESSAGE)}
    echoes = bench.samples(requests, 16, rounds, seconds, run=echo.run)
    figures = [
        compared("FastAPI app, 64 connections: requests/s", apps, "rate", FASTAPI, "≥", 0.7),
        compared("WebSocket echo, 16 connections: messages/s", echoes, "rate", UVICORN, "≥", 0.6),
    ]
    rows = rows_of("FastAPI app, 64 connections", apps) + rows_of("WebSocket messages, 16 connections", echoes)
    return Result(figures, rows)
