"""The running instance as its callers see it: which one is current, and calls to its controller.

    serve.init ─► connected(client) ─► current() ◄── every other verb
    a replica's start ─► adopt(name, io) ─► the same verbs work inside user code, without init

A controller that restarts is waited for: every call it takes may be repeated.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rayserve.actor_names import controller_name
from rayserve.cluster import actors, nodes
from rayserve.cluster.actors import Actor
from rayserve.cluster.errors import ActorAway, ActorGone, CallTimeout
from rayserve.errors import ClusterError, NotRunningError

if TYPE_CHECKING:
    from rayserve.io_thread import IOThread

__all__ = ["Client", "Instance", "adopt", "connected", "current", "current_or_none", "forget"]

_PATIENCE_S: Final = 60.0  # a controller is back 1 to 2 s after its death; its node's death takes longer
_PAUSE_S: Final = 0.1

_clock, _wait = time.monotonic, time.sleep


@dataclass(frozen=True)
class Instance:
    """A running instance, as `serve.init` returns it.

    Attributes:
        name: tells instances on one cluster apart.
        url: where clients on this machine reach it, e.g. `http://127.0.0.1:8000`; None without HTTP.
        admin_url: its admin server; None if there is none.
    """

    name: str
    url: str | None
    admin_url: str | None = None


class Client:
    """One process's way to one instance."""

    def __init__(self, name: str, io: IOThread | None = None, *, is_replica: bool = False) -> None:
        """Lead to the instance called `name`.

        Args:
            name: its name.
            io: the process's I/O thread for it, if there is one already.
            is_replica: this process is one of its replicas.
        """
        self.name = name
        self.is_replica = is_replica
        self._actor: Actor | None = None
        self._io = io
        self._lock = threading.Lock()

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Call the controller; while it restarts, wait and call again, with the same arguments.

        Args:
            method: of `ControllerActor`.
            args: its arguments.
            timeout_s: limit of one attempt; None for none.

        Raises:
            NotRunningError: there is no such instance (any more).
            ClusterError: the controller cannot be reached for a minute.
            Exception: what the controller raised.
        """
        until: float | None = None
        while True:
            try:
                return actors.call(self._controller(), method, *args, timeout_s=timeout_s)
            except CallTimeout:
                raise
            except (ActorAway, ActorGone) as error:
                failure: ClusterError = error
                self._actor = None
            now = _clock()
            until = now + _PATIENCE_S if until is None else until
            if now >= until:
                raise ClusterError(
                    f'the controller of instance "{self.name}" could not be reached for {_PATIENCE_S:g} s: {failure}'
                ) from failure
            _wait(_PAUSE_S)

    def ask(self, question: str, *args: Any) -> Any:
        """Return the controller's answer to a question; see `ControllerActor.ask`."""
        return self.call("ask", question, *args, timeout_s=_PATIENCE_S)

    def info(self) -> dict[str, Any]:
        """Return what the controller tells this node's processes; see `Controller.info`."""
        info: dict[str, Any] = self.call("info", nodes.this_node(), timeout_s=_PATIENCE_S)
        return info

    def is_alive(self) -> bool:
        """Return whether the instance still has a controller, be it one that restarts."""
        return actors.find(controller_name(self.name)) is not None

    def io(self) -> IOThread:
        """Return this process's I/O thread for the instance, started with the first need."""
        from rayserve import handle
        from rayserve.io_thread import IOThread

        with self._lock:
            if self._io is None:
                run_dir = self.info()["run_dir"]
                self._io = IOThread(instance=self.name, node=nodes.this_node(), run_dir=run_dir)
                self._io.start()
                handle.connect(self.name, self._io)
            return self._io

    def close(self) -> None:
        """End the I/O thread; handles of this process stop working."""
        from rayserve import handle

        with self._lock:
            if self._io is not None:
                self._io = None
                handle.disconnect(self.name)

    def _controller(self) -> Actor:
        if self._actor is None:
            self._actor = actors.find(controller_name(self.name))
        if self._actor is None:
            raise NotRunningError(f'instance "{self.name}" is not running any more; call serve.init() to start it')
        return self._actor


_current: Client | None = None


def current() -> Client:
    """Return the client of the current instance.

    Raises:
        NotRunningError: `serve.init` was not called, or `serve.shutdown` was.
    """
    if _current is None:
        raise NotRunningError("rayserve is not running here; call serve.init() first")
    return _current


def current_or_none() -> Client | None:
    """Return the client of the current instance, None without one."""
    return _current


def connected(client: Client) -> None:
    """Make `client` the current one."""
    global _current
    _current = client


def adopt(name: str, io: IOThread) -> None:
    """Make this process, a replica, part of its instance: verbs and handles work in it without `serve.init`."""
    from rayserve import handle

    handle.connect(name, io)
    connected(Client(name, io, is_replica=True))


def forget(client: Client) -> None:
    """Leave the instance: it is gone."""
    global _current
    client.close()
    if _current is client:
        _current = None
