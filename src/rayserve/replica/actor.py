"""The replica as Ray sees it: a sync actor whose main thread loads user code and then serves until drained.

controller ── load() ──► Loaded (traits, addresses, or why not)
           ── run() ───► stays open while the replica lives; returns "drained"
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import msgspec

from rayserve.cluster import store
from rayserve.cluster.pickling import by_value, unpickle
from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.imports import imported
from rayserve.instance import adopt
from rayserve.io_thread import IOThread
from rayserve.memory import keep_freed, spare_imports
from rayserve.model.spec import CodeSpec, Loaded, ReplicaSpec
from rayserve.replica.handler import Handler
from rayserve.replica.logs import open_logs
from rayserve.replica.replica import Replica
from rayserve.replica.replies import user_traceback

__all__ = ["ReplicaActor"]

_log = logging.getLogger(__name__)


class ReplicaActor:
    """One replica process; has no coroutine method, so that Ray runs it on the main thread."""

    def __init__(self, spec: bytes) -> None:
        """Keep the spec; nothing of the user's runs here, so that `load` can tell how it went.

        Args:
            spec: a `ReplicaSpec` as msgpack.
        """
        self._spec = msgspec.msgpack.decode(spec, type=ReplicaSpec)
        self._replica: Replica | None = None
        self._io: IOThread | None = None
        self._loaded: bytes | None = None

    def load(self) -> bytes:
        """Load and construct the user's code, and listen; a second call returns the same answer.

        Returns:
            A `Loaded` as msgpack; its `error` says why it failed, if it did.
        """
        if self._loaded is None:
            self._loaded = msgspec.msgpack.encode(self._load())
        return self._loaded

    def run(self) -> str:
        """Serve until drained; a second call queues behind the first and returns at once."""
        assert self._replica is not None, "load() failed or was not called"
        return self._replica.run()

    def _load(self) -> Loaded:
        spec = self._spec
        spare_imports()  # those of user code are its own affair
        keep_freed()
        open_logs(spec.run_dir, spec.backend.tag, spec.replica)
        self._io = IOThread(
            instance=spec.instance,
            node=spec.node,
            run_dir=spec.run_dir,
            kind="replica",
            replica=spec.replica,
            on_table=self._table,
            batches=lambda: self._replica.batches() if self._replica is not None else [],
        )
        self._io.start()
        adopt(spec.instance, self._io)
        kind = "import"
        try:
            _travel(spec.code)
            code = self._code()
            args, kwargs = self._blob(spec.code.init, "the init arguments") if spec.code.init else ((), {})
            kind = "init"
            handler = Handler(code, args, kwargs)
            kind = "reconfigure"
            revision, blob = spec.backend.user_config
            if revision:
                self._configure(handler, blob)
            kind = "init"
            self._replica = Replica(spec, handler, self._io, by_value, lambda name: self._blob(name, "user_config"))
        except (InvalidTypeError, InvalidValueError) as error:
            kind = "type" if isinstance(error, InvalidTypeError) else "value"
            return Loaded(spec.replica, os.getpid(), error=str(error), kind=kind)
        except BaseException as error:
            _log.exception("replica %s could not start", spec.replica)
            return Loaded(spec.replica, os.getpid(), error=user_traceback(error), kind=kind)
        replica = self._replica
        return Loaded(spec.replica, os.getpid(), replica.unix, spec.listen, replica.port, handler.traits)

    def _code(self) -> Any:
        spec = self._spec.code
        if spec.blob:
            return self._blob(spec.blob, f'the code of backend "{self._spec.backend.tag}"')
        return imported(spec.path)

    def _blob(self, name: str, what: str) -> Any:
        data = store.get(f"{self._spec.instance}/blob/{name}")
        if data is None:
            raise InvalidValueError(f"{what} is gone from the store; the backend was deleted meanwhile")
        return unpickle(data, what)

    def _configure(self, handler: Handler, blob: str) -> None:
        hook = handler.hook("reconfigure")
        if hook is None:
            return
        result = hook(self._blob(blob, "user_config"))
        if hasattr(result, "__await__"):
            import asyncio

            async def wait() -> None:
                await result

            asyncio.run(wait())

    def _table(self, table: Any) -> None:
        if self._replica is not None:
            self._replica.table(table)


def _travel(code: CodeSpec) -> None:
    """Look for modules where the caller would."""
    for path in reversed(code.sys_path):
        if path not in sys.path:
            sys.path.insert(0, path)
    if code.cwd and os.path.isdir(code.cwd):
        os.chdir(code.cwd)
