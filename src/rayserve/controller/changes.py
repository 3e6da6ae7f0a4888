"""What each command does to the desired state, whole or not at all. Pure.

    apply(state, command) ──► new state | InvalidValueError, InvalidTypeError: nothing changed

A backend comes out as pending and an update with its prior: whether they last is found out by doing them; then
`discard` and `revert` lead back.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from rayserve.config import (
    BackendConfig,
    EndpointConfig,
    check_against_traits,
    merge_backend_config,
    merge_endpoint_config,
)
from rayserve.controller.commands import (
    Command,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    SetTraffic,
    ShadowTraffic,
    UpdateBackendConfig,
    UpdateEndpointConfig,
)
from rayserve.controller.state import (
    BackendRecord,
    Desired,
    EndpointRecord,
    Prior,
    drain,
    put_backend,
    put_endpoint,
    without,
)
from rayserve.errors import InvalidValueError
from rayserve.names import did_you_mean
from rayserve.policy.route import parse_route

__all__ = ["apply", "discard", "revert", "unknown"]


def apply(state: Desired, command: Command) -> Desired:
    """Return the state that a command asks for; the same object if it changes nothing.

    Raises:
        InvalidValueError: it does not go together with what exists.
        InvalidTypeError: an option of the wrong type.
    """
    match command:
        case CreateEndpoint():
            return _create_endpoint(state, command)
        case UpdateEndpointConfig(name=name, changes=changes):
            record = _endpoint(state, name)
            config = merge_endpoint_config(EndpointConfig.from_plain(record.config), changes)
            return put_endpoint(state, replace(record, config=config.to_brief()))
        case DeleteEndpoint(name=name):
            return replace(state, endpoints=without(state.endpoints, name)) if name in state.endpoints else state
        case SetTraffic(name=name, weights=weights):
            _check_order(state, name, weights)
            record = _endpoint(state, name)
            for tag in weights:
                _backend(state, tag)
            return put_endpoint(state, replace(record, weights=weights))
        case ShadowTraffic():
            return _shadow_traffic(state, command)
        case CreateBackend():
            return _create_backend(state, command)
        case UpdateBackendConfig():
            return _update_backend_config(state, command)
        case DeleteBackend(tag=tag):
            return _delete_backend(state, tag)


# -- endpoints -------------------------------------------------------------------------------------------


def _create_endpoint(state: Desired, command: CreateEndpoint) -> Desired:
    weights: dict[str, float] = {}
    if command.backend is not None:
        _backend(state, command.backend)
        weights = {command.backend: 1.0}
    record = EndpointRecord(command.name, command.route, command.methods, command.config, weights)
    present = state.endpoints.get(command.name)
    if present is not None:
        _check_repeat(present, record, command.backend)
        return state
    if record.route is not None:
        shape = _shape(record.route)
        for other in state.endpoints.values():
            if other.route is not None and _shape(other.route) == shape:
                same = "has it" if other.route == record.route else f'has "{other.route}", which matches the same paths'
                raise InvalidValueError(
                    f'route "{record.route}" is taken: endpoint "{other.name}" {same}; '
                    f'choose another route, or call delete_endpoint("{other.name}") first'
                )
    return put_endpoint(state, record)


@lru_cache(maxsize=16_384)  # each new endpoint is compared with all others
def _shape(route: str) -> object:
    return parse_route(route).shape


def _check_repeat(present: EndpointRecord, asked: EndpointRecord, backend: str | None) -> None:
    """Let an identical repeat pass."""
    differs = [name for name in ("route", "methods", "config") if getattr(present, name) != getattr(asked, name)]
    if backend is not None and present.weights != asked.weights:
        differs.append("traffic")
    if differs:
        raise InvalidValueError(
            f'endpoint "{asked.name}" exists already with another {" and ".join(differs)}; '
            f'call delete_endpoint("{asked.name}") first, or {_way_to_change(asked.name, differs)}'
        )


def _way_to_change(name: str, differs: list[str]) -> str:
    if differs == ["traffic"]:
        return f'set_traffic("{name}", …)'
    if differs == ["config"]:
        return f'update_endpoint_config("{name}", {{…}})'
    return "choose another name"


def _shadow_traffic(state: Desired, command: ShadowTraffic) -> Desired:
    name, tag = command.name, command.backend
    if name not in state.endpoints and name in state.backends and tag in state.endpoints:
        raise InvalidValueError(
            f'the arguments are swapped: "{name}" is a backend and "{tag}" an endpoint; '
            f'call shadow_traffic("{tag}", "{name}", {command.proportion:g})'
        )
    record = _endpoint(state, name)
    if not command.proportion:
        if tag not in record.shadows:
            _backend(state, tag)
            return state
        return put_endpoint(state, replace(record, shadows=without(record.shadows, tag)))
    _backend(state, tag)
    return put_endpoint(state, replace(record, shadows={**record.shadows, tag: command.proportion}))


def _check_order(state: Desired, name: str, weights: Iterable[str]) -> None:
    """Recognise `set_traffic(backend, {endpoint: …})`."""
    if name in state.endpoints or name not in state.backends:
        return
    given = list(weights)
    swapped = [other for other in given if other not in state.backends]
    if not swapped and given:
        raise InvalidValueError(
            f'"{name}" is a backend, not an endpoint; set_traffic takes the endpoint first: '
            f'set_traffic(endpoint, {{"{name}": …}})'
        )
    other = swapped[0] if swapped else "endpoint"
    what = f'"{other}" an endpoint' if other in state.endpoints else f'"{other}" is no backend'
    raise InvalidValueError(
        f'the arguments of set_traffic are swapped: "{name}" is a backend and {what}; the endpoint comes first: '
        f'set_traffic("{other}", {{"{name}": 1.0}})'
    )


# -- backends --------------------------------------------------------------------------------------------


def _create_backend(state: Desired, command: CreateBackend) -> Desired:
    tag = command.tag
    if tag in state.backends:
        raise InvalidValueError(
            f'backend "{tag}" exists already and was left as it is; change its settings with '
            f'update_backend_config("{tag}", {{…}}); new code goes under another tag, then set_traffic moves to it'
        )
    serial = state.serial + 1
    record = BackendRecord(
        tag=tag,
        code=command.code,
        config=command.config,
        actor_options=command.actor_options,
        revision=serial,
        user_config=(serial, command.user_config) if command.user_config else (0, ""),
        pending=command.id,
    )
    return replace(put_backend(state, record), serial=serial)


def _update_backend_config(state: Desired, command: UpdateBackendConfig) -> Desired:
    record = _backend(state, command.tag)
    hash_ = record.user_config[1] if command.user_config is None else command.user_config
    old = BackendConfig.from_plain(record.config)
    config = merge_backend_config(old, command.changes)
    plain = config.to_plain()
    if plain == record.config and hash_ == record.user_config[1]:
        return state
    if record.traits is not None:
        # The value itself is not at hand, only whether there is one.
        check_against_traits(BackendConfig.from_plain(plain, hash_ or None), record.traits, record.tag)
    threads_stay = plain["max_concurrency"] == record.config["max_concurrency"]
    generation = record.generation if threads_stay else state.serial + 1
    prior = Prior(command.id, record.config, record.user_config[1], record.generation)
    return _configured(state, record, plain, hash_, generation, prior)


def revert(state: Desired, tag: str) -> Desired:
    """Return `state` with a backend's update undone: its prior settings as a new revision."""
    record = state.backends[tag]
    prior = record.prior
    if prior is None:
        return state
    return _configured(state, record, prior.config, prior.user_config, prior.generation, None)


def _configured(
    state: Desired, record: BackendRecord, config: dict[str, Any], hash_: str, generation: int, prior: Prior | None
) -> Desired:
    """Return `state` with a backend's settings under a new revision, with which replicas of `generation` can go on.

    But none can be told to forget a `user_config`: where there is none any more (`hash_` is ""), all are replaced.
    """
    serial = state.serial + 1
    same = hash_ == record.user_config[1]
    changed = replace(
        record,
        config=config,
        revision=serial,
        user_config=record.user_config if same else (serial, hash_) if hash_ else (0, ""),
        prior=prior,
        generation=generation if same or hash_ else serial,
    )
    return replace(put_backend(state, changed), serial=serial)


def discard(state: Desired, tag: str) -> Desired:
    """Return `state` without a backend; its replicas are told to leave."""
    return replace(drain(state, [tag]), backends=without(state.backends, tag)) if tag in state.backends else state


def _delete_backend(state: Desired, tag: str) -> Desired:
    for endpoint in state.endpoints.values():
        if tag in endpoint.weights:
            raise InvalidValueError(
                f'backend "{tag}" is in the traffic of endpoint "{endpoint.name}"; '
                f'call set_traffic("{endpoint.name}", …) first'
            )
        if tag in endpoint.shadows:
            raise InvalidValueError(
                f'backend "{tag}" is a shadow of endpoint "{endpoint.name}"; '
                f'call shadow_traffic("{endpoint.name}", "{tag}", 0) first'
            )
    return discard(state, tag)


# -- look-ups --------------------------------------------------------------------------------------------


def unknown(state: Desired, kind: str, name: str) -> InvalidValueError:
    """Return the error for an endpoint or backend that does not exist, with the likely slip named.

    Args:
        state: what exists.
        kind: "endpoint" or "backend".
        name: what was asked for.
    """
    known, others, other = (
        (state.endpoints, state.backends, "a backend")
        if kind == "endpoint"
        else (state.backends, state.endpoints, "an endpoint")
    )
    if name in others:
        hint = f'"{name}" is {other}'
    elif known:
        hint = did_you_mean(name, known)
    else:
        hint = f'call create_{kind}("{name}", …) first'
    return InvalidValueError(f'{kind} "{name}" does not exist; {hint}')


def _endpoint(state: Desired, name: str) -> EndpointRecord:
    record = state.endpoints.get(name)
    if record is None:
        raise unknown(state, "endpoint", name)
    return record


def _backend(state: Desired, tag: str) -> BackendRecord:
    record = state.backends.get(tag)
    if record is None:
        raise unknown(state, "backend", tag)
    if record.pending:
        raise InvalidValueError(f'backend "{tag}" is still starting; wait until its create_backend has returned')
    return record
