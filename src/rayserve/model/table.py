"""The routing table: one immutable snapshot of who answers what.

    controller ── RoutingTable ──► doorkeeper (per node) ──► every router of the node        how it travels: `packed`

A table is always whole; a router swaps one for the next between two events of its loop, so a
request sees exactly one of them. `(epoch, version)` orders tables: the epoch grows each time the
controller starts, the version with each change within it.
"""

from __future__ import annotations

import msgspec

__all__ = ["Backend", "BatchRule", "Endpoint", "EndpointOptions", "Replica", "RoutingTable", "Traffic", "changed"]


class Traffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an endpoint's requests are shared out.

    Attributes:
        weights: backend tag → share; shares are > 0 and sum to 1.
        shadows: backend tag → share of requests copied to it, answers dropped.
    """

    weights: dict[str, float] = {}
    shadows: dict[str, float] = {}


class EndpointOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data plane's view of `EndpointConfig`; see there for meaning and units."""

    timeout_s: float = 60.0
    max_body_bytes: int = 64 * 2**20
    retry: str = "idempotent"
    call_methods: tuple[str, ...] | bool | None = None
    allow_pin: bool = False
    expose_backend: bool = True
    debug: bool = False


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What clients call.

    Attributes:
        name: its key for traffic and handles.
        route: exact path, template (`/items/{id}`) or mount (`/prefix/*`); None: by handle only.
        methods: upper-case HTTP methods.
        traffic: None until traffic was set for the first time.
        options: limits and switches.
    """

    name: str
    route: str | None
    methods: tuple[str, ...]
    traffic: Traffic | None = None
    options: EndpointOptions = EndpointOptions()


class BatchRule(msgspec.Struct, frozen=True):
    """How a replica gathers batches.

    Attributes:
        max_size: calls per batch, at most.
        wait_s: how long an idle replica waits for a batch to fill; 0 takes what is there.
        concurrent: batches running at once (async handlers).
    """

    max_size: int = 1
    wait_s: float = 0.0
    concurrent: int = 1


class Replica(msgspec.Struct, frozen=True):
    """One running copy of a backend.

    Attributes:
        id: unique for ever, e.g. `resnet#a1b2c3`; a replacement gets a new one.
        node: Ray's node id (hex).
        unix: path of its unix socket, for routers on the same node.
        host: address for routers on other nodes.
        port: TCP port there; 0 if it only listens on the unix socket.
    """

    id: str
    node: str
    unix: str
    host: str = ""
    port: int = 0


class Backend(msgspec.Struct, frozen=True, omit_defaults=True):
    """What answers: a revision of user code and its running replicas.

    Attributes:
        tag: its name.
        revision: grows when its code or settings change.
        replicas: the ready ones, in a stable order.
        max_concurrent_queries: admitted per replica, at most; never exceeded.
        max_queued: length of the line in front of it, per router.
        max_concurrency: threads for sync code.
        batch: batching rule, already merged with the defaults.
        user_config: (revision, hash) of the blob for `reconfigure`; revision 0: none was ever set.
        drain_timeout_s: seconds a draining replica gets.
        stream_request: request bodies reach the handler as they arrive.
        app: "" | "asgi" | "wsgi".
        schema: of its typed methods, see `rayserve.method_schema`; b"" if there are none.
    """

    tag: str
    revision: int
    replicas: tuple[Replica, ...] = ()
    max_concurrent_queries: int = 8
    max_queued: int = 1000
    max_concurrency: int = 1
    batch: BatchRule = BatchRule()
    user_config: tuple[int, str] = (0, "")
    drain_timeout_s: float = 30.0
    stream_request: bool = False
    app: str = ""
    schema: bytes = b""


class RoutingTable(msgspec.Struct, frozen=True):
    """One whole snapshot.

    Attributes:
        instance: the instance's name.
        epoch: grows with each start of the controller.
        version: grows with each change within an epoch.
        endpoints: all of them, sorted by name.
        backends: all of them, sorted by tag.
        draining: ids of replicas that must take no new call and leave.
        closing: the whole instance is shutting down: new calls are refused with `draining`.
    """

    instance: str
    epoch: int = 0
    version: int = 0
    endpoints: tuple[Endpoint, ...] = ()
    backends: tuple[Backend, ...] = ()
    draining: tuple[str, ...] = ()
    closing: bool = False

    @property
    def stamp(self) -> tuple[int, int]:
        """`(epoch, version)`, the order of tables."""
        return (self.epoch, self.version)


def changed(before: tuple[Endpoint, ...], after: tuple[Endpoint, ...]) -> list[tuple[Endpoint, Endpoint]] | None:
    """Return the endpoints that are other objects than before, each with the one in whose place it stands.

    None: there are other names than before. A `packed.TableReader` keeps what did not change, so this is the quick way
    to what did.
    """
    if len(before) != len(after):
        return None
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old is not new]
    return pairs if all(old.name == new.name for old, new in pairs) else None
