"""The stage all benchmarks share: one instance on a Ray of its own, the peers, and how long to measure.

opened(quick) ─► Ray, RayServe, uvicorn, gunicorn ─► Bench ─► measure(bench) of each module ─► all stopped
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import ray

import rayserve as serve
from benchmarks import load
from benchmarks.bare import Bare
from benchmarks.figures import Figure, Row, interleaved, ratio
from benchmarks.peers import Subject, peers
from benchmarks.processes import cpu_s, descendants, title

__all__ = ["RAYSERVE", "Bench", "Sample", "Samples", "compared", "opened", "rows_of", "say"]

RAYSERVE = "rayserve"
_INSTANCE = "bench"
_MARKS = {
    "ingress": "-m rayserve.ingress",
    "controller": "ray::rayserve::controller",
    "doorkeeper": "ray::rayserve::doorkeeper",
    "replica": "ray::rayserve::replica",
}
_WARM_UP_S = 1
_FORMATS = {"rate": "{:,.0f}/s", "cpu_us": "{:.1f} µs", "p50_ms": "{:.3f} ms", "p99_ms": "{:.3f} ms"}


class Sample(NamedTuple):
    """One round of one subject.

    Attributes:
        rate: requests per second.
        cpu_us: server CPU per request, in µs.
        p50_ms: median latency.
        p99_ms: latency that 1 % exceeded.
    """

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


Samples = Mapping[str, Sequence[Sample]]


@dataclass
class Bench:
    """What a benchmark needs.

    Attributes:
        quick: fewer and shorter rounds.
        url: of the instance.
        peers: name → server.
        actors: handles of bare Ray actors, which live as long as these; `bare_actors` starts them.
    """

    quick: bool
    url: str
    peers: Mapping[str, Subject]
    actors: list[Any] = field(default_factory=list)

    def processes(self, *kinds: str) -> set[int]:
        """Return the pids of the instance's processes of these kinds; without any, of all.

        Args:
            kinds: "ingress", "controller", "doorkeeper", "replica".
        """
        marks = tuple(_MARKS[kind] for kind in kinds or _MARKS)
        return {pid for pid in descendants(os.getpid()) if any(mark in title(pid) for mark in marks)}

    def bare_actors(self, count: int) -> set[int]:
        """Return the pids of `count` bare Ray actors; those that are not there yet are started."""
        while len(self.actors) < count:
            remote: Any = ray.remote(Bare)  # its type depends on how it is called
            self.actors.append(remote.options(num_cpus=0).remote())
        ray.get([actor.ping.remote() for actor in self.actors])
        return {pid for pid in descendants(os.getpid()) if title(pid).startswith("ray::Bare")}

    def samples(
        self, request: load.Request, subjects: Sequence[str], connections: int, rounds: int, seconds: int
    ) -> dict[str, list[Sample]]:
        """Load each subject in turn; note what it answered and what CPU that took. All our processes count."""
        ours = Subject(RAYSERVE, self.url, tuple(sorted(self.processes())))
        found = {name: ours if name == RAYSERVE else self.peers[name] for name in subjects}
        for subject in found.values():
            load.run(subject.url, request, connections, _WARM_UP_S)

        def one(name: str) -> Sample:
            subject = found[name]
            before = cpu_s(subject.pids)
            seen = load.run(subject.url, request, connections, seconds)
            used_s = cpu_s(subject.pids) - before
            return Sample(seen.rate, used_s * 1e6 / seen.requests, seen.p50_ms, seen.p99_ms)

        return interleaved(subjects, rounds, one)


def compared(what: str, samples: Samples, name: str, peer: str, bound: str, target: float) -> Figure:
    """Return the figure "ours ÷ the peer's" of one number of the samples.

    Args:
        what: said in front of the peer's name.
        samples: of both.
        name: a field of `Sample`.
        peer: name of the other subject.
        bound: "≤" or "≥".
        target: what the ratio must reach.
    """
    ours, theirs = _column(samples, RAYSERVE, name), _column(samples, peer, name)
    detail = _FORMATS[name].format(median(ours)) + " beside " + _FORMATS[name].format(median(theirs))
    return Figure(f"{what} ÷ {peer}'s", ratio(ours, theirs), " ×", bound, target, detail)


def rows_of(what: str, samples: Samples) -> list[Row]:
    """Return the medians of each subject's rounds."""
    return [
        Row(what, name, tuple(text.format(median(_column(samples, name, one))) for one, text in _FORMATS.items()))
        for name in samples
    ]


def _column(samples: Samples, subject: str, name: str) -> list[float]:
    return [getattr(sample, name) for sample in samples[subject]]


@contextmanager
def opened(quick: bool) -> Iterator[Bench]:
    """Start everything on loopback, on a Ray of its own; stop it afterwards."""
    with peers() as others:
        instance = serve.init(_INSTANCE, http_port=0, ray_address="local", ray_init_kwargs={"log_to_driver": False})
        try:
            yield Bench(quick, str(instance.url), others)
        finally:
            serve.shutdown()


def say(text: str) -> None:
    """Tell on stderr what is being measured; stdout is for the result."""
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
