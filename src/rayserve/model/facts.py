"""What routers count and replicas report, on its way up: router → doorkeeper → controller.

Counts are cumulative per process, so a repeat harms nothing and a lost message costs nothing.
"""

from __future__ import annotations

import msgspec

__all__ = ["BUCKETS_S", "BatchFacts", "Facts", "Report", "Row"]

# Upper bounds of the latency histogram in seconds; the last, unwritten bucket is +Inf.
BUCKETS_S: tuple[float, ...] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


class Row(msgspec.Struct):
    """Counts of one (endpoint, backend) in one process; each is "" where none was known or chosen.

    Attributes:
        assigned: calls given to a replica (each attempt counts).
        answered: calls that got an answer from user code, of any status.
        failed: reason → calls that ended with an error of ours.
        statuses: status class ("2xx") → answers.
        latency: one count per bucket of `BUCKETS_S`, plus the last for +Inf.
        latency_sum_s: sum of all latencies in seconds.
        in_flight: on a replica now.
        waiting: in a line now.
        retried: attempts beyond the first.
        left: answers that had begun when their caller gave them up.
    """

    endpoint: str
    backend: str
    assigned: int = 0
    answered: int = 0
    failed: dict[str, int] = {}
    statuses: dict[str, int] = {}
    latency: list[int] = []
    latency_sum_s: float = 0.0
    in_flight: int = 0
    waiting: int = 0
    retried: int = 0
    left: int = 0


class BatchFacts(msgspec.Struct):
    """Batches of one replica: how many of each size, and why each was released.

    Attributes:
        sizes: size → batches.
        released: "full" | "idle" | "timeout" | "deadline" → batches.
    """

    backend: str
    replica: str
    sizes: dict[int, int] = {}
    released: dict[str, int] = {}


class Facts(msgspec.Struct):
    """All counts of one process since it started.

    Attributes:
        process: a name unique per process life, e.g. `ingress-0:1234` or `replica resnet#a1:77`.
        kind: "ingress" | "handle" | "replica".
        rows: one per (endpoint, backend) seen.
        batches: of a replica process.
        connections: open client connections (ingress).
    """

    process: str
    kind: str
    rows: list[Row] = []
    batches: list[BatchFacts] = []
    connections: int = 0


class Report(msgspec.Struct):
    """What one replica did with one `user_config` revision.

    Attributes:
        replica: its id.
        revision: the `user_config` revision it now has, or tried to get.
        error: "" or the user's traceback.
    """

    replica: str
    revision: int
    error: str = ""
