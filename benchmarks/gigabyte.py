"""1 GiB streamed in, and 1 GiB streamed out: how much any process of the instance grows, and how fast it went.

client in a process of its own ── 1 GiB ──► ingress ──► replica reads request.stream
                               ◄── 1 GiB ── ingress ◄── replica yields
"""

from __future__ import annotations

import http.client
import multiprocessing
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import flask

import rayserve as serve
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Result
from benchmarks.processes import Watch, title

__all__ = ["measure"]

_MIB = 2**20
_GIB = 2**30


def taken(request: flask.Request) -> dict[str, int]:
    """Read the body as it arrives; answer its length."""
    size = 0
    while piece := request.stream.read(_MIB):
        size += len(piece)
    return {"bytes": size}


def given() -> Iterator[bytes]:
    """Answer 1 GiB."""
    piece = bytes(_MIB)
    for _ in range(_GIB // _MIB):
        yield piece


def _send(url: str) -> None:
    """Send 1 GiB, in a process of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    piece = bytes(_MIB)
    body = (piece for _ in range(_GIB // _MIB))
    connection.request("POST", "/taken", body, {"Content-Length": str(_GIB)})
    answer = connection.getresponse().read()
    if answer != b'{"bytes":%d}' % _GIB:
        raise RuntimeError(f"1 GiB in was answered {answer!r}")


def _receive(url: str) -> None:
    """Receive 1 GiB, in a process of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", "/given")
    response = connection.getresponse()
    size = 0
    while piece := response.read(_MIB):
        size += len(piece)
    if size != _GIB:
        raise RuntimeError(f"1 GiB out was {size} bytes")


def measure(bench: Bench) -> Result:
    """Move both gigabytes while watching the memory of every process of the instance."""
    serve.create_backend("taken", taken, config={"stream_request": True})
    serve.create_endpoint("taken", "/taken", methods=["POST"], backend="taken", config={"max_body_bytes": _GIB})
    serve.create_backend("given", given)
    serve.create_endpoint("given", "/given", backend="given")
    figures = [_growth(bench, "1 GiB in", _send), _growth(bench, "1 GiB out", _receive)]
    for name in ("taken", "given"):
        serve.delete_endpoint(name)
        serve.delete_backend(name)
    return Result(figures)


def _growth(bench: Bench, what: str, client: Callable[[str], None]) -> Figure:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(abs, (0,))  # it has started
        with Watch(bench.processes()) as watch:
            began = time.monotonic()
            pool.apply(client, (bench.url,))
            took_s = time.monotonic() - began
    largest = max(watch.growth_bytes, key=lambda pid: watch.growth_bytes[pid])
    name = title(largest).removeprefix("ray::") or "it is gone"
    detail = f"{name}; {_GIB / _MIB / took_s:,.0f} MiB/s"
    return Figure(
        f"{what}: growth of the process that grows most", watch.growth_bytes[largest] / _MIB, " MiB", "≤", 64, detail
    )
