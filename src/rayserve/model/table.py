"""The routing table: one immutable snapshot of who answers what.

    controller ── RoutingTable ──► doorkeeper (per node) ── same bytes ──► every router of the node

A table is always whole; a router swaps one for the next between two events of its loop, so a
request sees exactly one of them. `(epoch, version)` orders tables: the epoch grows each time the
controller starts, the version with each change within it.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "Backend", "BatchRule", "Endpoint", "EndpointOptions", "Replica", "RoutingTable", "TableReader", "Traffic",
    "decode_table", "encode_table", "join_table", "pack_endpoint",
]  # fmt: skip


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


class _Wire(msgspec.Struct):
    """A table as it travels, its endpoints not yet decoded."""

    instance: str
    epoch: int = 0
    version: int = 0
    endpoints: list[msgspec.Raw] = []
    backends: tuple[Backend, ...] = ()
    draining: tuple[str, ...] = ()
    closing: bool = False


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Wire)
_ENDPOINT = msgspec.msgpack.Decoder(Endpoint)


def encode_table(table: RoutingTable) -> bytes:
    """Return the table as msgpack, the form in which it travels and is stored."""
    return _ENCODER.encode(table)


def pack_endpoint(endpoint: Endpoint) -> msgspec.Raw:
    """Return an endpoint as it stands in an encoded table; made once per change, used in every table."""
    return msgspec.Raw(_ENCODER.encode(endpoint))


def join_table(table: RoutingTable, endpoints: list[msgspec.Raw]) -> bytes:
    """Return `table` encoded, with packed endpoints in place of its own."""
    return _ENCODER.encode(
        _Wire(table.instance, table.epoch, table.version, endpoints, table.backends, table.draining, table.closing)
    )


class TableReader:
    """Decodes one table after the other; an endpoint whose bytes did not change stays the same object.

    So with 1,000 endpoints a change to one costs each router little more than with ten.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Endpoint] = {}

    def read(self, data: bytes) -> RoutingTable:
        """Return the table in `data`.

        Raises:
            msgspec.MsgspecError: `data` is not a table.
        """
        wire = _DECODER.decode(data)
        before, known = self._known, {}
        for raw in wire.endpoints:
            packed = bytes(raw)
            known[packed] = before.get(packed) or _ENDPOINT.decode(packed)
        self._known = known
        return RoutingTable(
            wire.instance, wire.epoch, wire.version, tuple(known.values()), wire.backends, wire.draining, wire.closing
        )


def decode_table(data: bytes) -> RoutingTable:
    """Return the table in `data`; a router that reads many uses a `TableReader`.

    Raises:
        msgspec.MsgspecError: `data` is not a table.
    """
    return TableReader().read(data)
