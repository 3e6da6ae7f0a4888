"""What to do next: desired state and what is seen become actions. Pure; time is an argument.

    plan(desired, seen, nodes, now, holds) ──► [Start(tag, node) | Drain(replica) | Kill(replica)]

Start and Drain change the desired state first (a new record, a record told to leave); Kill ends a
process and then removes its record. Also here: how long a crash loop is held back, whether replicas
fit at all, and in which order backends go when everything stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from rayserve.cluster.nodes import Node
from rayserve.controller.state import BackendRecord, Desired, ReplicaRecord, outdated, replicas_of

__all__ = [
    "Action", "Drain", "Kill", "Seen", "Start", "Trouble",
    "after_failure", "demand_of", "due", "plan", "shortage", "usable", "waves",
]  # fmt: skip

STARTING, READY, DRAINING, OVER = "starting", "ready", "draining", "over"

_STABLE_S: Final = 30.0  # a replica that was ready so long and dies is no crash loop
_ONE_INCIDENT_S: Final = 0.5  # deaths this close together count as one
_MAX_BACKOFF_S: Final = 30.0


class Seen(NamedTuple):
    """What is known of one replica: its phase, and since when it is in it."""

    phase: str
    since: float


class Start(NamedTuple):
    """Start one more replica of `tag` on `node`."""

    tag: str
    node: str


class Drain(NamedTuple):
    """Tell a replica to leave."""

    replica: str


class Kill(NamedTuple):
    """End a replica's process and forget it."""

    replica: str


Action = Start | Drain | Kill


class Trouble(NamedTuple):
    """A backend's recent failures: how many in a row, the last one's time, no start before `until`."""

    failures: int
    last: float
    until: float


def after_failure(trouble: Trouble | None, now: float, ready_s: float) -> Trouble:
    """Return a backend's trouble after one more of its replicas ended unasked.

    The first replacement is immediate; after that starts are 1, 2, 4 … 30 s apart, until a replica holds out.

    Args:
        trouble: what it was before.
        now: the time.
        ready_s: how long that replica had been ready; 0 if it never was.
    """
    if trouble is None or ready_s >= _STABLE_S:
        return Trouble(1, now, now)
    if now - trouble.last < _ONE_INCIDENT_S:
        return trouble
    failures = trouble.failures + 1
    return Trouble(failures, now, now + min(_MAX_BACKOFF_S, 2.0 ** min(failures - 2, 5)))


def plan(
    desired: Desired,
    seen: Mapping[str, Seen],
    nodes: Sequence[Node],
    now: float,
    holds: Mapping[str, Trouble] = MappingProxyType({}),
    homes: Collection[str] | None = None,
) -> list[Action]:
    """Return what brings the replicas nearer to what is desired.

    Args:
        desired: what should be.
        seen: replica id → what is known of it; one not listed was just asked for.
        nodes: the living ones; `resources` is what we may use there, with what we use already.
        now: the time, on the scale of `seen` and `holds`.
        holds: tag → trouble; no start before its `until`.
        homes: ids of the nodes that replicas may be started on; None: all.
    """
    living = {node.id for node in nodes}
    actions: list[Action] = []
    for record in desired.replicas.values():
        phase, since = seen.get(record.id, Seen(STARTING, now))
        expired = record.drain_s is not None and (phase == STARTING or now >= since + record.drain_s)
        if phase == OVER or record.node not in living or expired:
            actions.append(Kill(record.id))
    if desired.closing:
        return actions
    killed = {action.replica for action in actions if isinstance(action, Kill)}
    open_to_us = [node for node in nodes if homes is None or node.id in homes]
    room = _Room(open_to_us, [r for r in desired.replicas.values() if r.id not in killed])
    for tag, backend in desired.backends.items():
        wanted = int(backend.config["num_replicas"])
        fresh = [record for record in replicas_of(desired, tag) if record.id not in killed]
        missing = wanted - len(fresh)
        held = tag in holds and holds[tag].until > now
        placed: list[str] = []
        if missing < 0:
            actions += _victims(fresh, seen, -missing)
        elif not held:
            demand = demand_of(backend.actor_options)
            placed = [node for node in (room.take(tag, demand) for _ in range(missing)) if node is not None]
            actions += [Start(tag, node) for node in placed]
        old = [record for record in outdated(desired, tag) if record.id not in killed]
        if old:
            ready = sum(_phase(record, seen) == READY for record in fresh)
            leaving = any(record.tag == tag and record.drain_s is not None for record in desired.replicas.values())
            # They serve until as many others do. Where these find no room, one at a time makes some.
            stuck = missing > 0 and not placed and ready == len(fresh) and not leaving and not held
            actions += _victims(old, seen, min(len(old), max(len(old) + ready - wanted, stuck)))
    return actions


def _phase(record: ReplicaRecord, seen: Mapping[str, Seen]) -> str:
    return seen[record.id].phase if record.id in seen else STARTING


def _victims(mine: Sequence[ReplicaRecord], seen: Mapping[str, Seen], count: int) -> list[Action]:
    """Return how to be rid of `count` replicas: those still starting first, then the youngest."""
    starting = {record.id for record in mine if _phase(record, seen) == STARTING}
    order = sorted(mine, key=lambda record: (record.id in starting, record.born), reverse=True)
    return [Kill(record.id) if record.id in starting else Drain(record.id) for record in order[:count]]


def due(desired: Desired, seen: Mapping[str, Seen], now: float, holds: Mapping[str, Trouble]) -> float | None:
    """Return when `plan` must look again though nothing happened, None for never."""
    ends = [
        seen[record.id].since + record.drain_s
        for record in desired.replicas.values()
        if record.drain_s is not None and record.id in seen
    ]
    retries = [trouble.until for tag, trouble in holds.items() if tag in desired.backends and trouble.until > now]
    return min(ends + retries, default=None)


def demand_of(actor_options: Mapping[str, Any]) -> dict[str, float]:
    """Return the resources one replica holds, in Ray's words, without zeros."""
    words = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    demand = {word: float(actor_options.get(option) or 0) for option, word in words.items()}
    demand.update({name: float(amount) for name, amount in (actor_options.get("resources") or {}).items()})
    return {name: amount for name, amount in demand.items() if amount > 0}


class _Room:
    """What is free on each node while replicas are being placed."""

    def __init__(self, nodes: Sequence[Node], records: Iterable[ReplicaRecord]) -> None:
        self.free = {node.id: dict(node.resources) for node in nodes}
        self.all: Counter[str] = Counter()
        self.of_tag: Counter[tuple[str, str]] = Counter()
        for record in records:
            if record.node in self.free:
                self._put(record.node, record.tag, record.demand)

    def _put(self, node: str, tag: str, demand: Mapping[str, float]) -> None:
        free = self.free[node]
        for name, amount in demand.items():
            free[name] = free.get(name, 0.0) - amount
        self.all[node] += 1
        self.of_tag[node, tag] += 1

    def take(self, tag: str, demand: Mapping[str, float]) -> str | None:
        """Place one replica: the node with the fewest of this backend, then with the fewest in all."""
        able = [node for node, free in self.free.items() if _has(free, demand)]
        if not able:
            return None
        node = min(able, key=lambda node: (self.of_tag[node, tag], self.all[node], node))
        self._put(node, tag, demand)
        return node


def _has(free: Mapping[str, float], demand: Mapping[str, float]) -> bool:
    # Ray counts in steps of 1/10,000, so a smaller lack is a rounding error of ours.
    return all(free.get(name, 0.0) + 1e-4 >= amount for name, amount in demand.items())


def usable(node: Node, free: Mapping[str, float], records: Iterable[ReplicaRecord]) -> Node:
    """Return a node with the resources that nobody else holds.

    What is neither free nor ours is somebody else's. Ray's view may lag behind our own records, so those count.

    Args:
        node: with all it has.
        free: what Ray says is free there.
        records: our replicas, on any node.
    """
    ours: Counter[str] = Counter()
    for record in records:
        if record.node == node.id:
            ours.update(record.demand)  # adds: it is a Counter
    return replace(
        node,
        resources={
            name: amount - max(0.0, amount - free.get(name, 0.0) - ours[name])
            for name, amount in node.resources.items()
        },
    )


def shortage(desired: Desired, nodes: Sequence[Node], backend: BackendRecord) -> str:
    """Return "" if the replicas a backend lacks can be placed, else what is missing and how many fit.

    Those that they replace make room for them.
    """
    demand = demand_of(backend.actor_options)
    wanted = int(backend.config["num_replicas"])
    placed = len(replicas_of(desired, backend.tag))
    replaced = {record.id for record in outdated(desired, backend.tag)}
    room = _Room(nodes, [record for id_, record in desired.replicas.items() if id_ not in replaced])
    while placed < wanted and room.take(backend.tag, demand) is not None:
        placed += 1
    if placed >= wanted:
        return ""
    best = {name: max((free.get(name, 0.0) for free in room.free.values()), default=0.0) for name in demand}
    lacking = [name for name, amount in demand.items() if best[name] < amount] or list(demand)
    needs = ", ".join(f"{name} {amount:g}" for name, amount in demand.items())
    most = ", ".join(f"{name} {best[name]:g}" for name in lacking)
    return (
        f'Cannot scale backend "{backend.tag}" to {wanted} replica{"s" if wanted != 1 else ""}: each needs {needs} '
        f"on one node; {placed} of {wanted} fit, then the most left on any of {len(nodes)} "
        f"node{'s' if len(nodes) != 1 else ''} is {most}; free some, add a node, or ask for less"
    )


def waves(tags: Collection[str], calls: Collection[tuple[str, str]]) -> list[list[str]]:
    """Return the order in which backends stop: callers before those they call, in groups that go together.

    Args:
        tags: all backends.
        calls: (caller, callee) pairs as counted by the callers' handles. Those that call in a circle go together, last.
    """
    left, order = set(tags), []
    while left:
        called = {callee for caller, callee in calls if caller in left and caller != callee}
        group = sorted(left - called) or sorted(left)
        order.append(group)
        left -= set(group)
    return order
