"""Every verb of the public API. Here are those about the whole instance; the others come from their own files.

    serve.init ─► lifecycle          endpoints.py, backends.py ─► sending ─► controller

Calls block; they work in scripts, notebooks, threads and inside backends. A controller that restarts meanwhile is
waited for, and each command is carried out once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayserve import instance
from rayserve.backends import (
    create_backend,
    delete_backend,
    get_backend_config,
    list_backends,
    update_backend_config,
)
from rayserve.call_result import HandleOptions
from rayserve.config import HTTPOptions
from rayserve.endpoints import (
    create_endpoint,
    delete_endpoint,
    get_endpoint_config,
    list_endpoints,
    set_traffic,
    shadow_traffic,
    update_endpoint_config,
)
from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.handle import ServeHandle
from rayserve.instance import Instance
from rayserve.lifecycle import begin, end, serve_until_signal
from rayserve.names import check_name, did_you_mean

__all__ = [
    "create_backend",
    "create_endpoint",
    "delete_backend",
    "delete_endpoint",
    "get_backend_config",
    "get_endpoint_config",
    "get_handle",
    "init",
    "list_backends",
    "list_endpoints",
    "set_traffic",
    "shadow_traffic",
    "shutdown",
    "status",
    "update_backend_config",
    "update_endpoint_config",
    "wait",
]


def init(
    name: str | None = None,
    http_host: str | None = "127.0.0.1",
    http_port: int = 8000,
    http_options: dict[str, Any] | HTTPOptions | None = None,
    *,
    ray_address: str | None = None,
    ray_init_kwargs: Mapping[str, Any] | None = None,
) -> Instance:
    """Start RayServe, or join the running instance of that name; every other verb then speaks to it.

    Ray is joined if it runs or `RAY_ADDRESS` names it, else started on this machine; a Ray started here ends with
    this process, and the instance with it. Calling it again is harmless; HTTP settings that differ from those of the
    running instance are ignored with a warning.

    Args:
        name: tells instances on one cluster apart; None is `"default"`.
        http_host: where to listen: a name or address, `"0.0.0.0"` for all, `"node"` for each node's own address;
            None for handles only.
        http_port: port on every node; 0 picks a free one.
        http_options: an `HTTPOptions` or a dict of its options.
        ray_address: `host:port` of a Ray cluster, `"auto"`, or `"local"` for a new one in any case; None searches.
        ray_init_kwargs: passed on to `ray.init`.

    Returns:
        The instance, with its `url`.

    Raises:
        PortInUseError: something listens there; nothing is left behind.
        InvalidValueError: a name, an address or an option that cannot be.
        InvalidTypeError: an argument of the wrong type.
        ClusterError: Ray or RayServe could not be started or reached.
    """
    return begin(name, http_host, http_port, http_options, ray_address, ray_init_kwargs)


def wait() -> None:
    """Keep the script serving until SIGINT, SIGTERM or the instance's end, then end the script with exit code 0.

    If `init` started Ray, accepted requests are finished and everything is stopped; if it joined, only this process
    ends. Must be called on the main thread, which is the one that gets signals.

    Raises:
        NotRunningError: before `init`.
        SystemExit: always, in the end.
    """
    serve_until_signal()


def shutdown() -> None:
    """Stop the instance: accepted requests are finished, then all its processes end and its state is gone.

    New requests are answered 503 meanwhile. Backends stop in waves: first those that no other backend calls through
    a handle, as far as the calls seen so far tell; each gets its `drain_timeout_s`. If `init` started Ray here and no
    other instance uses it, Ray stops too.

    Raises:
        NotRunningError: before `init`, or after `shutdown`.
    """
    end(instance.current())


def status() -> dict[str, Any]:
    """Return in words what runs, starts, fails and waits.

    Returns:
        `{"instance": name, "endpoints": {name: words}, "backends": {tag: words}, "nodes": {id: words}}`.

    Raises:
        NotRunningError: before `init`.
    """
    answer: dict[str, Any] = instance.current().ask("status")
    return answer


def get_handle(endpoint: str, missing_ok: bool = False) -> ServeHandle:
    """Return a handle that calls an endpoint from Python.

    Args:
        endpoint: its name.
        missing_ok: let the endpoint be created later; calls wait for it.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: unknown endpoint, unless `missing_ok`.
        InvalidTypeError: an argument of the wrong type.
    """
    client = instance.current()
    name = check_name("endpoint", endpoint)
    if not isinstance(missing_ok, bool):
        raise InvalidTypeError(f"missing_ok must be True or False, got {missing_ok!r}")
    table = client.io().router.table
    if not missing_ok and (table is None or all(one.name != name for one in table.endpoints)):
        # This process may not have heard of it yet; the controller has.
        known = client.ask("endpoints")
        if name not in known:
            hint = did_you_mean(name, known) if known else f'call create_endpoint("{name}", …) first'
            raise InvalidValueError(f'endpoint "{name}" does not exist; {hint}')
    return ServeHandle(client.name, HandleOptions(name, missing_ok=missing_ok))


# In tracebacks and help() the verbs are rayserve.init, rayserve.wait, …
for _verb in __all__:
    globals()[_verb].__module__ = "rayserve"
