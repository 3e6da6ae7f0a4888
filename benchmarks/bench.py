"""The stage all benchmarks share: one instance on a Ray of its own, the peers, and how long to measure.

opened(quick) ─► Ray, RayServe, uvicorn, gunicorn ─► Bench ─► measure(bench) of each module ─► all stopped
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

__all__ = ["RAYSERVE", "Bench", "Sample", "Samples", "column", "compared", "opened", "rows_of", "say"]

RAYSERVE = "rayserve"
_INSTANCE = "bench"
_MARKS = {
    "ingress": "-m rayserve.ingress",
    "controller": "ray::rayserve::controller",
    "doorkeeper": "ray::rayserve::doorkeeper",
    "replica": "ray::rayserve::replica",
}
_WARM_UP_S = 1
_CLEAR_S = 30.0
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
Client = Callable[[str, load.Request, int, float], load.Load]  # url, request, connections, seconds


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

    def kind(self, pid: int) -> str:
        """Return what one of the instance's processes is, by the same words."""
        shown = title(pid)
        return next((kind for kind, mark in _MARKS.items() if mark in shown), "it is gone")

    def bare_actors(self, count: int) -> set[int]:
        """Return the pids of `count` bare Ray actors; those that are not there yet are started."""
        while len(self.actors) < count:
            remote: Any = ray.remote(Bare)  # its type depends on how it is called
            self.actors.append(remote.options(num_cpus=0).remote())
        ray.get([actor.ping.remote() for actor in self.actors])
        return {pid for pid in descendants(os.getpid()) if title(pid).startswith("ray::Bare")}

    def samples(
        self,
        requests: Mapping[str, load.Request],
        connections: int,
        rounds: int,
        seconds: int,
        *,
        kinds: Sequence[str] = (),
        run: Client = load.run,
    ) -> dict[str, list[Sample]]:
        """Load each subject in turn; note what it answered and what CPU that took.

        Args:
            requests: subject → what it is asked. A name that is no peer's is the instance's.
            connections: open at once.
            rounds: how often each subject has its turn.
            seconds: how long a turn is.
            kinds: of the instance's processes whose CPU counts; all of them unless given.
            run: sends the requests.
        """
        ours = Subject(RAYSERVE, self.url, tuple(sorted(self.processes(*kinds))))
        for name, request in requests.items():
            run(self.peers.get(name, ours).url, request, connections, _WARM_UP_S)

        def one(name: str) -> Sample:
            subject = self.peers.get(name, ours)
            before = cpu_s(subject.pids)
            seen = run(subject.url, requests[name], connections, seconds)
            used_s = cpu_s(subject.pids) - before
            return Sample(seen.rate, used_s * 1e6 / seen.requests, seen.p50_ms, seen.p99_ms)

        return interleaved(tuple(requests), rounds, one)

    def clear(self) -> None:
        """Delete every endpoint and backend and wait for their processes to end: idle ones cost a little, too."""
        for endpoint in serve.list_endpoints():
            serve.delete_endpoint(endpoint)
        for tag in serve.list_backends():
            serve.delete_backend(tag)
        until = time.monotonic() + _CLEAR_S
        while self.processes("replica"):
            if time.monotonic() > until:
                raise RuntimeError(f"replicas are still there {_CLEAR_S:.0f} s after their backends were deleted")
            time.sleep(0.05)


def compared(
    what: str, samples: Samples, name: str, peer: str, bound: str, target: float, *, ours: str = RAYSERVE
) -> Figure:
    """Return the figure "ours ÷ the peer's" of one number of the samples.

    Args:
        what: said in front of the peer's name.
        samples: of both.
        name: a field of `Sample`.
        peer: name of the other subject.
        bound: "≤" or "≥".
        target: what the ratio must reach.
        ours: name of our subject.
    """
    mine, theirs = column(samples, ours, name), column(samples, peer, name)
    detail = _FORMATS[name].format(median(mine)) + " beside " + _FORMATS[name].format(median(theirs))
    return Figure(f"{what} ÷ {peer}'s", ratio(mine, theirs), " ×", bound, target, detail)


def rows_of(what: str, samples: Samples) -> list[Row]:
    """Return the medians of each subject's rounds."""
    return [
        Row(what, name, tuple(text.format(median(column(samples, name, one))) for one, text in _FORMATS.items()))
        for name in samples
    ]


def column(samples: Samples, subject: str, name: str) -> list[float]:
    """Return one number of each round of a subject."""
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
