"""Streams: 16 clients that take 100 small chunks again and again, and how soon after its `yield` the first arrives."""

from __future__ import annotations

import re
import socket
import time
from statistics import median, quantiles
from urllib.parse import urlsplit

import rayserve as serve
from benchmarks.bench import RAYSERVE, Bench, compared, rows_of
from benchmarks.figures import Figure, Result
from benchmarks.handlers import stamped, stamped_async
from benchmarks.load import Request
from benchmarks.peers import UVICORN
from benchmarks.subjects import CHUNK, CHUNKS, hundred

__all__ = ["measure"]

_STAMP = re.compile(rb"yielded at (\d+)\n")
_END = b"\r\n0\r\n\r\n"
_TIMEOUT_S = 10.0


def measure(bench: Bench) -> Result:
    """Measure both; wrk counts whole answers, and what it received is held against what they must have been."""
    for name, handler in (("hundred", hundred), ("stamped", stamped), ("stamped-async", stamped_async)):
        serve.create_backend(name, handler)
        serve.create_endpoint(name, f"/{name}", methods=["POST"], backend=name)
    request = Request("/hundred", b"", least_bytes=CHUNKS * len(CHUNK))
    samples = bench.samples(dict.fromkeys((UVICORN, RAYSERVE), request), 16, *((3, 1) if bench.quick else (4, 2)))
    what = f"streams of {CHUNKS} chunks, 16 clients"
    figures = [compared(f"{what}: chunks/s", samples, "rate", UVICORN, "≥", 1.0)]
    for name, kind in (("stamped", "sync"), ("stamped-async", "async")):
        delays_ms = _delays_ms(bench.url, f"/{name}", 100 if bench.quick else 200)
        detail = f"99 % of {len(delays_ms)} within {quantiles(delays_ms, n=100)[-1]:.2f} ms"
        figures.append(
            Figure(f"first chunk of a {kind} generator after its yield: p50", median(delays_ms), " ms", "≤", 1, detail)
        )
    return Result(figures, rows_of(what, samples))


def _delays_ms(url: str, path: str, count: int) -> list[float]:
    """Return how long the first chunk of each of some streams, one after the other, took from its `yield` to here."""
    at = urlsplit(url)
    question = f"POST {path} HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Length: 0\r\n\r\n".encode()
    delays_ms = []
    with socket.create_connection((str(at.hostname), at.port or 80), _TIMEOUT_S) as client:
        for _ in range(count):
            client.sendall(question)
            seen = b""
            while (stamp := _STAMP.search(seen)) is None:
                seen += _received(client)
                now_ns = time.monotonic_ns()
            delays_ms.append((now_ns - int(stamp[1])) / 1e6)
            while not seen.endswith(_END):
                seen += _received(client)
            if not seen.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{path} answered {seen[:200]!r}")
    return delays_ms


def _received(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise RuntimeError("the connection was closed in the middle of a stream")
    return data
