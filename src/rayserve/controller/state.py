"""The desired state: one frozen value that says what should be, whole at any moment.

    commands.apply(state, command) ──► new state ──► ledger (checkpoint, then in force)

Nothing here is edited in place; each function returns a new value that shares what did not change,
so writers of tables and checkpoints recognise unchanged rows by identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from rayserve.controller.outcome import Outcome
from rayserve.model.spec import CodeSpec, Traits
from rayserve.model.table import Replica

__all__ = [
    "BackendRecord",
    "Desired",
    "EndpointRecord",
    "Prior",
    "ReplicaRecord",
    "blobs_of",
    "drain",
    "outdated",
    "put_backend",
    "put_endpoint",
    "put_replicas",
    "remember",
    "replicas_of",
    "staying",
    "without",
]

V = TypeVar("V")

KEPT_OUTCOMES: Final = 1_000


class EndpointRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What clients call.

    Attributes:
        name: its key.
        route: as given; None: by handle only.
        methods: as given, upper-case; None: chosen by what its backends are.
        config: what its `EndpointConfig` has other than the defaults, plain.
        weights: backend tag → share; empty until traffic is set.
        shadows: backend tag → share of requests copied to it.
    """

    name: str
    route: str | None
    methods: tuple[str, ...] | None
    config: dict[str, Any]
    weights: dict[str, float] = {}
    shadows: dict[str, float] = {}


class Prior(msgspec.Struct, frozen=True):
    """What a backend goes back to if the update under way fails.

    Attributes:
        command: id of the update.
        config: the settings before it.
        user_config: the hash before it.
        generation: the generation before it.
    """

    command: str
    config: dict[str, Any]
    user_config: str
    generation: int = 0


class BackendRecord(msgspec.Struct, frozen=True):
    """What answers.

    Attributes:
        tag: its key.
        code: where its code comes from.
        config: a `BackendConfig`, plain, without `user_config`.
        actor_options: `ray_actor_options`, checked.
        revision: unique for ever; a new one with each change of the settings.
        user_config: (revision, hash) of the blob; revision 0: none was ever set.
        traits: what the code turned out to be; None until a replica loaded it.
        pending: id of the `create_backend` under way, "" once it succeeded.
        prior: set while an update is under way.
        generation: of the replicas that can go on with these settings; others are replaced.
    """

    tag: str
    code: CodeSpec
    config: dict[str, Any]
    actor_options: dict[str, Any]
    revision: int
    user_config: tuple[int, str] = (0, "")
    traits: Traits | None = None
    pending: str = ""
    prior: Prior | None = None
    generation: int = 0


class ReplicaRecord(msgspec.Struct, frozen=True):
    """One process that runs, or is about to run, a backend's code.

    Attributes:
        id: unique for ever, `tag#6hex`; a replacement gets a new one.
        tag: whose code it runs.
        node: Ray's id of the node it was placed on.
        born: order of birth.
        demand: resources it holds, in Ray's words.
        at: its address, set when it finished loading.
        drain_s: set when it must leave: seconds it gets for that.
        generation: its backend's when it was born.
    """

    id: str
    tag: str
    node: str
    born: int
    demand: dict[str, float] = {}
    at: Replica | None = None
    drain_s: float | None = None
    generation: int = 0


class Desired(msgspec.Struct, frozen=True):
    """All of it; the one value that is checkpointed.

    Attributes:
        instance: the instance's name.
        http: settings of `serve.init`, plain.
        secret: key of the handshake between nodes.
        epoch: grows with each start of the controller.
        serial: last number given out as a revision or birth.
        endpoints: by name.
        backends: by tag.
        replicas: by id; also those that leave.
        outcomes: of the last commands, by command id, oldest first.
        ports: node id → HTTP port in use there, kept when its doorkeeper is replaced.
        closing: `shutdown` was called.
    """

    instance: str
    http: dict[str, Any] = {}
    secret: bytes = b""
    epoch: int = 0
    serial: int = 0
    endpoints: dict[str, EndpointRecord] = {}
    backends: dict[str, BackendRecord] = {}
    replicas: dict[str, ReplicaRecord] = {}
    outcomes: dict[str, Outcome] = {}
    ports: dict[str, int] = {}
    closing: bool = False


def without(mapping: Mapping[str, V], *keys: str) -> dict[str, V]:
    """Return a copy of `mapping` that lacks `keys`."""
    return {key: value for key, value in mapping.items() if key not in keys}


def put_endpoint(state: Desired, record: EndpointRecord) -> Desired:
    """Return `state` with this endpoint in place of the one of its name."""
    return replace(state, endpoints={**state.endpoints, record.name: record})


def put_backend(state: Desired, record: BackendRecord) -> Desired:
    """Return `state` with this backend in place of the one of its tag."""
    return replace(state, backends={**state.backends, record.tag: record})


def put_replicas(state: Desired, records: Iterable[ReplicaRecord]) -> Desired:
    """Return `state` with these replicas in place of those of their ids."""
    return replace(state, replicas={**state.replicas, **{record.id: record for record in records}})


def staying(state: Desired, tag: str) -> list[ReplicaRecord]:
    """Return the replicas of a backend that have not been told to leave, oldest first."""
    return [record for record in state.replicas.values() if record.tag == tag and record.drain_s is None]


def replicas_of(state: Desired, tag: str) -> list[ReplicaRecord]:
    """Return the replicas of a backend that are meant to stay, oldest first."""
    generation = state.backends[tag].generation
    return [record for record in staying(state, tag) if record.generation == generation]


def outdated(state: Desired, tag: str) -> list[ReplicaRecord]:
    """Return the replicas of a backend that serve until others have taken their place, oldest first."""
    generation = state.backends[tag].generation
    return [record for record in staying(state, tag) if record.generation != generation]


def drain(state: Desired, tags: Iterable[str]) -> Desired:
    """Return `state` with all replicas of these backends told to leave, each in its backend's `drain_timeout_s`."""
    leaving = [
        replace(record, drain_s=float(state.backends[tag].config["drain_timeout_s"]))
        for tag in tags
        for record in staying(state, tag)
    ]
    return put_replicas(state, leaving) if leaving else state


def remember(state: Desired, command: str, outcome: Outcome) -> Desired:
    """Return `state` with the outcome of a command, and the oldest forgotten beyond `KEPT_OUTCOMES`."""
    outcomes = {**state.outcomes, command: outcome}
    while len(outcomes) > KEPT_OUTCOMES:
        del outcomes[next(iter(outcomes))]
    return replace(state, outcomes=outcomes)


def blobs_of(state: Desired) -> set[str]:
    """Return the hashes of all blobs that `state` names."""
    named = set()
    for record in state.backends.values():
        named |= {record.code.blob, record.code.init, record.user_config[1]}
        if record.prior is not None:
            named.add(record.prior.user_config)
    return named - {""}
