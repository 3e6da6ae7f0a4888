"""The verbs for endpoints: what clients call, and how their requests are shared out over backends.

serve.set_traffic(…) ─► arguments ─► sending ─► controller ─► every router obeys ─► None
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rayserve import arguments, instance
from rayserve.config import EndpointConfig
from rayserve.sending import send

__all__ = [
    "create_endpoint",
    "delete_endpoint",
    "get_endpoint_config",
    "list_endpoints",
    "set_traffic",
    "shadow_traffic",
    "update_endpoint_config",
]


def create_endpoint(
    name: str,
    route: str | None = None,
    methods: Iterable[str] | None = None,
    *,
    backend: str | None = None,
    config: dict[str, Any] | EndpointConfig | None = None,
) -> None:
    """Create an endpoint: a name, and a route that clients call.

    An identical repeat is a no-op. Until traffic is set, requests wait.

    Args:
        name: its key for traffic and handles.
        route: `/exact`, `/items/{id}` or `/prefix/*`; None: reachable by handle only.
        methods: HTTP methods in any case; None: `["GET"]`, and every method once its backend is an app.
        backend: tag of the backend that gets all its traffic, at once.
        config: an `EndpointConfig` or a dict of its options.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: the name or the route is taken, the route cannot be, the backend is unknown.
        InvalidTypeError: an argument of the wrong type.
    """
    send(lambda: arguments.create_endpoint(name, route, methods, backend, config))


def delete_endpoint(name: str) -> None:
    """Delete an endpoint: later requests get 404, name and route are free, its backends stay. Unknown: no error.

    Args:
        name: the endpoint's.

    Raises:
        NotRunningError: before `init`.
        InvalidTypeError: the name is not a str.
    """
    send(lambda: arguments.delete_endpoint(name))


def list_endpoints() -> dict[str, dict[str, Any]]:
    """Return name → `{"route", "methods", "traffic", "shadows"}` of all endpoints.

    Raises:
        NotRunningError: before `init`.
    """
    answer: dict[str, dict[str, Any]] = instance.current().ask("endpoints")
    return answer


def update_endpoint_config(name: str, config: dict[str, Any] | EndpointConfig) -> None:
    """Change the named options of an endpoint; the others stay.

    Args:
        name: the endpoint's.
        config: the options to change.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: unknown endpoint or option, or a value that cannot be; nothing changes.
        InvalidTypeError: an argument or option of the wrong type; nothing changes.
    """
    send(lambda: arguments.update_endpoint_config(name, config))


def get_endpoint_config(name: str) -> EndpointConfig:
    """Return an endpoint's config.

    Args:
        name: the endpoint's.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: unknown endpoint.
    """
    client = instance.current()
    return EndpointConfig.from_plain(client.ask("endpoint_config", arguments.known_name(name, "endpoint")))


def set_traffic(endpoint: str, traffic: Mapping[str, float]) -> None:
    """Share an endpoint's requests out over backends; returns when every router obeys.

    No request received after that goes by the old split; those already in a line or running stay with their backend.
    Shadows are kept.

    Args:
        endpoint: its name.
        traffic: backend tag → share; shares sum to 1, those of 0 are dropped.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: unknown endpoint or backend, swapped arguments, or shares that do not sum to 1.
        InvalidTypeError: an argument of the wrong type.
    """
    send(lambda: arguments.set_traffic(endpoint, traffic))


def shadow_traffic(endpoint: str, tag: str, proportion: float) -> None:
    """Copy a share of an endpoint's requests to a backend whose answers are dropped.

    Args:
        endpoint: its name.
        tag: the backend's.
        proportion: 0 to 1; 0 stops it.

    Raises:
        NotRunningError: before `init`.
        InvalidValueError: unknown endpoint or backend, or a proportion that cannot be.
        InvalidTypeError: an argument of the wrong type.
    """
    send(lambda: arguments.shadow_traffic(endpoint, tag, proportion))
