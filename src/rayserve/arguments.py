"""What users pass to the verbs becomes commands; what cannot be is refused here, before anybody is asked.

    serve.create_backend("resnet", ResNet, "weights.pt", config={…}) ──► CreateBackend(code, blobs, …)

Whether names exist is for the controller to say (`controller.changes`).
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, Final

import msgspec

from rayserve.annotations import signature
from rayserve.apps import App, spoken_by
from rayserve.cluster import connect
from rayserve.cluster.pickling import pickle
from rayserve.config import (
    BackendConfig,
    EndpointConfig,
    check_actor_options,
    check_name,
    merge_backend_config,
    merge_endpoint_config,
    parse_backend_config,
    parse_endpoint_config,
)
from rayserve.controller.checkpoint import check_blob, hash_of
from rayserve.controller.commands import (
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    SetTraffic,
    ShadowTraffic,
    UpdateBackendConfig,
    UpdateEndpointConfig,
)
from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.model.spec import CodeSpec
from rayserve.names import check_method
from rayserve.policy.route import check_route
from rayserve.policy.split import check_weights
from rayserve.signatures import carried

__all__ = [
    "create_backend",
    "create_endpoint",
    "delete_backend",
    "delete_endpoint",
    "known_name",
    "set_traffic",
    "shadow_traffic",
    "update_backend_config",
    "update_endpoint_config",
]

_PATH: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def _new_id() -> str:
    """Return an id for a command: the same on every repetition, another for every call."""
    return secrets.token_hex(8)


def known_name(name: object, kind: str) -> str:
    """Return a name that should exist already: only its type can be wrong here."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"{kind} must be named by a str, got {name!r} ({type(name).__name__})")
    return name


# -- endpoints ---------------------------------------------------------------------------------------------


def create_endpoint(name: str, route: object, methods: object, backend: object, config: Any) -> CreateEndpoint:
    """Return the command of `serve.create_endpoint`."""
    return CreateEndpoint(
        id=_new_id(),
        name=check_name("endpoint", name),
        route=None if route is None else check_route(route),
        methods=None if methods is None else _methods(methods),
        backend=None if backend is None else known_name(backend, "backend"),
        config=parse_endpoint_config(config).to_brief(),
    )


def _methods(methods: object) -> tuple[str, ...]:
    if isinstance(methods, (str, bytes)) or not isinstance(methods, Iterable):
        raise InvalidTypeError(f'methods must be a list like ["GET", "POST"], got {methods!r}')
    found = tuple(dict.fromkeys(check_method(method) for method in methods))
    if not found:
        raise InvalidValueError("methods must not be empty; leave it out for GET")
    return found


def update_endpoint_config(name: object, changes: Any) -> UpdateEndpointConfig:
    """Return the command of `serve.update_endpoint_config`."""
    whole = merge_endpoint_config(EndpointConfig(), changes).to_plain()
    return UpdateEndpointConfig(_new_id(), known_name(name, "endpoint"), {key: whole[key] for key in _named(changes)})


def delete_endpoint(name: object) -> DeleteEndpoint:
    """Return the command of `serve.delete_endpoint`."""
    return DeleteEndpoint(_new_id(), known_name(name, "endpoint"))


def set_traffic(endpoint: object, traffic: object) -> SetTraffic:
    """Return the command of `serve.set_traffic`."""
    if isinstance(endpoint, Mapping) and isinstance(traffic, str):
        raise InvalidTypeError(
            f'the arguments of set_traffic are swapped; call set_traffic("{traffic}", {dict(endpoint)!r})'
        )
    return SetTraffic(_new_id(), known_name(endpoint, "endpoint"), check_weights(traffic))


def shadow_traffic(endpoint: object, tag: object, proportion: object) -> ShadowTraffic:
    """Return the command of `serve.shadow_traffic`."""
    if isinstance(proportion, bool) or not isinstance(proportion, Real):
        raise InvalidTypeError(f"proportion must be a number from 0 to 1, got {proportion!r}")
    share = float(proportion)
    if not 0 <= share <= 1:
        raise InvalidValueError(f"proportion must be a number from 0 to 1, got {proportion!r}")
    return ShadowTraffic(_new_id(), known_name(endpoint, "endpoint"), known_name(tag, "backend"), share)


# -- backends ----------------------------------------------------------------------------------------------


def create_backend(
    tag: str, code: object, args: tuple[Any, ...], kwargs: dict[str, Any], actor_options: object, config: Any
) -> CreateBackend:
    """Return the command of `serve.create_backend`."""
    name = check_name("backend", tag)
    settings = parse_backend_config(config)
    options = check_actor_options(actor_options)
    kind = _kind_of(name, code)
    _check_misplaced(name, code, kwargs)
    if kind == "app" and (args or kwargs):
        raise InvalidValueError(f'backend "{name}" is a web app, which takes no init arguments; use a factory')
    if kind == "function" and (args or kwargs):
        raise InvalidValueError(
            f'backend "{name}" is a function, which takes no init arguments; serve a class whose constructor takes '
            "them, or bind them with functools.partial"
        )
    blobs: dict[str, bytes] = {}
    spec = CodeSpec(
        blob="" if kind == "path" else _blob(blobs, code, f'backend "{name}"', "the code of "),
        path=str(code) if kind == "path" else "",
        init=_blob(blobs, (args, kwargs), f'backend "{name}"', "the init arguments of ") if args or kwargs else "",
        sys_path=tuple(dict.fromkeys(os.path.abspath(path) for path in sys.path)),
        cwd=os.getcwd(),
    )
    value = settings.user_config
    user_config = "" if value is None else _blob(blobs, value, f'backend "{name}"', "the user_config of ")
    return CreateBackend(
        id=_new_id(),
        tag=name,
        code=spec,
        actor_options=_travelling(name, options),
        config=settings.to_plain(),
        user_config=user_config,
        blobs=blobs,
    )


def update_backend_config(tag: object, changes: Any) -> UpdateBackendConfig:
    """Return the command of `serve.update_backend_config`."""
    name = known_name(tag, "backend")
    settings = merge_backend_config(BackendConfig(), changes)
    named = _named(changes)
    blobs: dict[str, bytes] = {}
    user_config: str | None = None
    if "user_config" in named:
        value = settings.user_config
        user_config = "" if value is None else _blob(blobs, value, f'backend "{name}"', "the user_config of ")
    whole = settings.to_plain()
    return UpdateBackendConfig(_new_id(), name, {key: whole[key] for key in named if key in whole}, user_config, blobs)


def delete_backend(tag: object) -> DeleteBackend:
    """Return the command of `serve.delete_backend`."""
    return DeleteBackend(_new_id(), known_name(tag, "backend"))


def _named(changes: Any) -> Iterable[str]:
    """Return the options a change names: a dict's keys, or what a config was made with."""
    return list(changes) if isinstance(changes, dict) else sorted(changes.model_fields_set)


def _kind_of(tag: str, code: object) -> str:
    """Return "function", "class", "path" or "app"."""
    if isinstance(code, App):
        return "app"
    if isinstance(code, str):
        if not _PATH.fullmatch(code):
            raise InvalidValueError(
                f'backend "{tag}": "{code}" is not of the form "module:name", like "shop.models:ResNet"'
            )
        return "path"
    if inspect.isclass(code):
        return "class"
    if spoken := spoken_by(code):
        raise InvalidTypeError(
            f'backend "{tag}" got {_called(code)}, which is a whole {spoken.upper()} app; wrap it: '
            f'create_backend("{tag}", serve.{spoken}(app))'
        )
    if inspect.isroutine(code) or isinstance(code, functools.partial):
        return "function"  # a bound method takes its object along, a partial its arguments
    kind = type(code).__name__
    hint = f'pass the class itself, its arguments follow: create_backend("{tag}", {kind}, …)' if callable(code) else ""
    raise InvalidTypeError(
        f'backend "{tag}" must be a function, a class or "module:name", got an instance of {kind}'
        + (f"; {hint}" if hint else "")
    )


def _called(code: object) -> str:
    return f'the function "{code.__name__}"' if inspect.isfunction(code) else f"an instance of {type(code).__name__}"


def _check_misplaced(tag: str, code: object, kwargs: Mapping[str, Any]) -> None:
    """Refuse options of the backend among the arguments for its constructor, unless that asks for such."""
    options = {key: value for key, value in kwargs.items() if key in BackendConfig.model_fields}
    if not options or isinstance(code, str):  # what a "module:name" asks for is known on the replica
        return
    try:
        parameters = signature(code).parameters if inspect.isclass(code) else {}
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key, value in options.items():
        if key not in parameters:
            raise InvalidValueError(
                f'backend "{tag}": {key} is an option, no init argument; write config={{"{key}": {value!r}}}'
            )


def _blob(blobs: dict[str, bytes], value: object, whose: str, part: str) -> str:
    """Pickle `value` into `blobs` and return its hash."""
    with carried(value):
        what = f"{part}{whose}"
        data = check_blob(pickle(value, what, value.instead) if isinstance(value, App) else pickle(value, what), what)
    name = hash_of(data)
    blobs[name] = data
    return name


def _travelling(tag: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return actor options with this job's runtime_env below the backend's own, as plain values."""
    job = connect.current_runtime_env()
    own = dict(options.get("runtime_env") or {})
    if job or own:
        env_vars = {**job.get("env_vars", {}), **own.get("env_vars", {})}
        options = {**options, "runtime_env": {**job, **own, **({"env_vars": env_vars} if env_vars else {})}}
    try:
        plain: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(options))
    except (TypeError, msgspec.MsgspecError) as error:
        raise InvalidTypeError(f'ray_actor_options of backend "{tag}" must be plain values: {error}') from error
    return plain
