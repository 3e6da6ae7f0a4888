"""The verbs for backends: the code that answers, its settings, its replicas.

serve.create_backend(…) ─► arguments ─► sending ─► controller ─► replicas ready, routers told ─► None
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayserve import arguments, instance
from rayserve.apps import App
from rayserve.cluster import store
from rayserve.cluster.pickling import unpickle
from rayserve.config import BackendConfig
from rayserve.controller.checkpoint import blob_key
from rayserve.errors import InvalidValueError
from rayserve.instance import Client
from rayserve.sending import send

__all__ = [
    "create_backend",
    "delete_backend",
    "get_backend_config",
    "list_backends",
    "update_backend_config",
]


def create_backend(
    tag: str,
    func_or_class: Callable[..., Any] | str | App,
    *init_args: Any,
    ray_actor_options: dict[str, Any] | None = None,
    config: dict[str, Any] | BackendConfig | None = None,
    **init_kwargs: Any,
) -> None:
    """Create a backend and start its replicas; returns when all of them are ready.

    Modules are looked for where this process finds them; lambdas, and what a script or notebook defines, travel
    whole. On failure, and on Ctrl-C, nothing of it is left.

    Args:
        tag: its name.
        func_or_class: a function (also a lambda, a bound method or a `functools.partial`), a class, a web app
            from `asgi` or `wsgi`, or `"module:name"`, which is imported by the replicas only.
        init_args: for the class's constructor, in every replica.
        ray_actor_options: `num_cpus`, `num_gpus`, `memory`, `resources`, `runtime_env`, … of each replica.
        config: a `BackendConfig` or a dict of its options.
        init_kwargs: for the class's constructor.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: the tag is taken, an option cannot be, or does not go with the code; there is no such
            `"module:name"`, or a module that the code needs.
        InvalidTypeError: not a function or class, or something that cannot be pickled; the message says which part.
        BackendStartError: importing the code or constructing it raised; the message has the traceback.
        CannotScaleError: the cluster has no room for the replicas.
        StartupTimeoutError: not ready within `startup_timeout_s`.
    """
    send(
        lambda: arguments.create_backend(tag, func_or_class, init_args, init_kwargs, ray_actor_options, config),
        f'starting backend "{tag}"',
    )


def delete_backend(tag: str) -> None:
    """Delete a backend: its replicas finish what they accepted and stop; the tag is free at once. Unknown: no error.

    Args:
        tag: the backend's.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: an endpoint's traffic or shadow uses it.
        InvalidTypeError: the tag is not a str.
    """
    send(lambda: arguments.delete_backend(tag))


def list_backends() -> dict[str, BackendConfig]:
    """Return tag → config of all backends.

    Raises:
        NotRunningError: before `init`.
    """
    client = instance.current()
    return {tag: _config(client, tag, *found) for tag, found in client.ask("backends").items()}


def update_backend_config(tag: str, config: dict[str, Any] | BackendConfig) -> None:
    """Change the named options of a backend; returns when they are in force in every replica.

    `num_replicas` starts or drains replicas; other options keep the same ones. A `user_config` is handed to every
    replica's `reconfigure`; if one raises, all get the old one back. Another `max_concurrency`, and
    `user_config=None`, replace the replicas by fresh ones, which take over as they become ready.

    Args:
        tag: the backend's.
        config: the options to change.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: unknown backend or option, or a value that cannot be; nothing changes.
        InvalidTypeError: an argument or option of the wrong type; nothing changes.
        ReconfigureError: `reconfigure` raised; the message has the traceback, the old settings are back.
        BackendStartError: a further replica could not start; the old settings are back.
        CannotScaleError: the cluster has no room for further replicas; nothing changes.
        StartupTimeoutError: not in force within `startup_timeout_s`; the old settings are back.
    """
    send(lambda: arguments.update_backend_config(tag, config), f'updating backend "{tag}"')


def get_backend_config(tag: str) -> BackendConfig:
    """Return a backend's config.

    Args:
        tag: the backend's.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: unknown backend.
    """
    client = instance.current()
    return _config(client, tag, *client.ask("backend_config", arguments.known_name(tag, "backend")))


def _config(client: Client, tag: str, plain: dict[str, Any], user_config: str) -> BackendConfig:
    """Return a config as the user gave it; its `user_config` lies in the store."""
    if not user_config:
        return BackendConfig.from_plain(plain)
    data = store.get(blob_key(client.name, user_config))
    if data is None:
        raise InvalidValueError(f'backend "{tag}" was changed at this moment; ask again')
    return BackendConfig.from_plain(plain, unpickle(data, f'the user_config of backend "{tag}"'))
