"""What a replica actor is told when it starts, and what it says when it is ready.

    controller ── ReplicaSpec ──► replica actor.load() ── Loaded ──► controller

Blobs (code, init arguments, user_config) are named by content hash and read from the store.
"""

from __future__ import annotations

import msgspec

from rayserve.model.table import Backend

__all__ = ["CodeSpec", "Loaded", "MethodTraits", "ReplicaSpec", "Traits"]


class CodeSpec(msgspec.Struct, frozen=True):
    """Where user code comes from; exactly one of `blob` and `path` is set.

    Attributes:
        blob: content hash of a cloudpickled function or class.
        path: `"module:name"`, imported on the replica.
        init: content hash of the cloudpickled `(args, kwargs)`; "" for none.
        sys_path: the caller's import path, put in front of the replica's own.
        cwd: the caller's working directory.
    """

    blob: str = ""
    path: str = ""
    init: str = ""
    sys_path: tuple[str, ...] = ()
    cwd: str = ""


class ReplicaSpec(msgspec.Struct, frozen=True):
    """All a replica needs to start.

    Attributes:
        instance: the instance's name.
        replica: this replica's id.
        node: Ray's id of the node it was placed on.
        run_dir: the instance's run directory on that node.
        backend: the backend's row (its `replicas` are ignored).
        code: what to load.
        secret: key of the handshake between nodes.
        listen: address for routers on other nodes; "" for the unix socket only.
    """

    instance: str
    replica: str
    node: str
    run_dir: str
    backend: Backend
    code: CodeSpec
    secret: bytes = b""
    listen: str = ""


class MethodTraits(msgspec.Struct, frozen=True):
    """How one callable of the backend wants to be called.

    Attributes:
        name: "__call__" for the callable itself.
        is_async: a coroutine function or async generator.
        streams: a generator or async generator.
        wants_request: it has a required positional parameter.
        batches: decorated with `accept_batch`.
        schema: of a typed handler's parameters and result, see `rayserve.method_schema`; b"" if it is not typed.
    """

    name: str
    is_async: bool = False
    streams: bool = False
    wants_request: bool = True
    batches: bool = False
    schema: bytes = b""


class Traits(msgspec.Struct, frozen=True):
    """What the loaded code turned out to be.

    Attributes:
        kind: "function" | "class" | "asgi" | "wsgi".
        methods: callable without further permission, in definition order.
        inherited: names callable only if the endpoint's `call_methods` lists them.
        reconfigures: has a `reconfigure` method.
        threads: of a WSGI app, as `serve.wsgi` was told; 0 for other code.
    """

    kind: str
    methods: tuple[MethodTraits, ...] = ()
    inherited: tuple[str, ...] = ()
    reconfigures: bool = False
    threads: int = 0

    @property
    def is_async(self) -> bool:
        """Whether any method runs on the event loop."""
        return any(method.is_async for method in self.methods)

    @property
    def batches(self) -> bool:
        """Whether any method takes batches."""
        return any(method.batches for method in self.methods)


class Loaded(msgspec.Struct, frozen=True):
    """A replica's ready message.

    Attributes:
        replica: its id.
        pid: its process id.
        unix: its unix socket.
        host: its TCP address, "" without one.
        port: its TCP port, 0 without one.
        traits: what was loaded.
        error: "" or why it could not start (the user's traceback, without our frames).
        kind: of the error: "import" | "init" | "type" | "value" | "reconfigure".
    """

    replica: str
    pid: int = 0
    unix: str = ""
    host: str = ""
    port: int = 0
    traits: Traits = Traits("function")
    error: str = ""
    kind: str = ""
