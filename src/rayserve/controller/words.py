"""What `serve.status()` says: per endpoint, backend and node one line of words. Pure.

state, lives, doors, counts, now ──► {"instance", "endpoints": {name: words}, "backends": …, "nodes": …}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayserve.controller.counts import Counts
from rayserve.controller.doors import OPEN, Door
from rayserve.controller.plan import DRAINING, READY, STARTING, Trouble
from rayserve.controller.roster import Roster
from rayserve.controller.state import BackendRecord, Desired, EndpointRecord, outdated, replicas_of
from rayserve.controller.tables import APPS, methods_of

__all__ = ["backend_words", "door_words", "endpoint_words", "progress", "status"]


def status(
    state: Desired,
    roster: Roster,
    doors: Mapping[str, Door],
    counts: Counts,
    holds: Mapping[str, Trouble],
    now: float,
) -> dict[str, Any]:
    """Return the state of everything in words, by name."""
    waiting: dict[str, int] = {}
    for row in counts.rows():
        key = f"backend {row.backend}" if row.backend else f"endpoint {row.endpoint}"
        waiting[key] = waiting.get(key, 0) + row.waiting
    return {
        "instance": state.instance,
        "endpoints": {
            name: endpoint_words(state, record, waiting.get(f"endpoint {name}", 0))
            for name, record in sorted(state.endpoints.items())
        },
        "backends": {
            tag: backend_words(state, record, roster, holds.get(tag), waiting.get(f"backend {tag}", 0), now)
            for tag, record in sorted(state.backends.items())
        },
        "nodes": {id_[:8]: door_words(door) for id_, door in sorted(doors.items())},
    }


def endpoint_words(state: Desired, record: EndpointRecord, waiting: int) -> str:
    """Return what an endpoint does, e.g. `GET /classify: 70% to "v1", 30% to "v2"`."""
    mounted = any(
        backend.traits is not None and backend.traits.kind in APPS
        for backend in (state.backends[tag] for tag in record.weights)
    )
    where = f"{','.join(methods_of(record, mounted))} {record.route}" if record.route else "by handle only"
    if not record.weights:
        queue = f" ({waiting} wait)" if waiting else ""
        return f'{where}: no traffic yet, requests wait{queue}; call set_traffic("{record.name}", …)'
    shares = [f'{weight:.4g} to "{tag}"' for tag, weight in record.weights.items()]
    shares += [f'{share:.4g} copied to "{tag}"' for tag, share in record.shadows.items()]
    return f"{where}: {', '.join(shares)}"


def backend_words(
    state: Desired, record: BackendRecord, roster: Roster, trouble: Trouble | None, waiting: int, now: float
) -> str:
    """Return how a backend's replicas are, e.g. `1 of 2 replicas ready, 1 starts`."""
    fresh, old = replicas_of(state, record.tag), outdated(state, record.tag)
    phases = [roster.lives[one.id].phase for one in fresh if one.id in roster.lives]
    drains = sum(
        one.tag == record.tag and one.drain_s is not None and roster.lives[one.id].phase in (READY, DRAINING)
        for one in state.replicas.values()
        if one.id in roster.lives
    )
    wanted = record.config["num_replicas"]
    said = [f"{phases.count(READY)} of {wanted} replica{'s' if wanted != 1 else ''} ready"]
    if starting := phases.count(STARTING):
        said.append(f"{starting} start{'s' if starting == 1 else ''}")
    if old:
        said.append(f"{len(old)} with the settings before serve{'s' * (len(old) == 1)} until then")
    if drains:
        said.append(f"{drains} finish{'es' if drains == 1 else ''} what was accepted and leave{'s' * (drains == 1)}")
    missing = wanted - len(fresh)
    if missing > 0 and trouble is not None and trouble.until > now:
        said.append(f"{missing} held back for {trouble.until - now:.0f} s after {trouble.failures} failures")
    elif missing > 0:
        said.append(f"{missing} wait{'s' if missing == 1 else ''} for room in the cluster")
    if record.pending:
        said.append("being created")
    if record.prior is not None:
        said.append("being updated")
    if waiting:
        said.append(f"{waiting} call{'s' if waiting != 1 else ''} wait{'s' if waiting == 1 else ''} in line")
    failure = roster.failures.get(record.tag)
    if failure is not None and (missing > 0 or starting):
        said.append(f"last failure: {_last_line(failure.text)}")
    return ", ".join(said)


def door_words(door: Door) -> str:
    """Return how a node's doorkeeper and ingresses are."""
    if door.state != OPEN:
        why = f": {_last_line(str(door.failure))}" if door.failure is not None else ""
        return f"{door.state}{why}"
    where = f"open at {door.url_host}:{door.port}" if door.url_host else "open, without HTTP"
    unready = [one for one in door.ingresses if one["state"] != "ready"]
    return where + "".join(f", ingress {one['index']} is {one['state']}" for one in unready)


def progress(state: Desired, roster: Roster, tag: str) -> tuple[int, int]:
    """Return how many replicas of a backend are ready, and how many are wanted; (0, 0) for an unknown one."""
    record = state.backends.get(tag)
    if record is None:
        return (0, 0)
    lives = (roster.lives.get(one.id) for one in replicas_of(state, tag))
    return (sum(life is not None and life.phase == READY for life in lives), record.config["num_replicas"])


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "unknown"
