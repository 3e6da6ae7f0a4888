"""RayServe: serve models, or any Python, behind HTTP and Python handles on Ray.

    import rayserve as serve

    serve.init()
    serve.create_backend("hello", lambda request: "hello " + request.args.get("name", "serve!"))
    serve.create_endpoint("hello", "/hello", backend="hello")

An endpoint is what clients call, a backend is what answers, traffic links them. Importing this package is cheap: what
needs Ray or pydantic is loaded with the first verb or config that is used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("rayserve runs on Linux and macOS; on Windows use it inside WSL 2")

# Eager: it must take the place of the submodule of the same name, see there.
from rayserve.context import context
from rayserve.errors import HTTPError, InvalidArgumentsError, RayServeException
from rayserve.habits import hint

if TYPE_CHECKING:
    from rayserve.api import (
        create_backend,
        create_endpoint,
        delete_backend,
        delete_endpoint,
        get_backend_config,
        get_endpoint_config,
        get_handle,
        init,
        list_backends,
        list_endpoints,
        set_traffic,
        shadow_traffic,
        shutdown,
        status,
        update_backend_config,
        update_endpoint_config,
        wait,
    )
    from rayserve.apps import asgi, wsgi
    from rayserve.batching import accept_batch
    from rayserve.config import BackendConfig, EndpointConfig, HTTPOptions
    from rayserve.http_response import HTTPResponse
    from rayserve.sse import sse

__all__ = [
    "BackendConfig",
    "EndpointConfig",
    "HTTPError",
    "HTTPOptions",
    "HTTPResponse",
    "InvalidArgumentsError",
    "RayServeException",
    "accept_batch",
    "asgi",
    "context",
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
    "sse",
    "status",
    "update_backend_config",
    "update_endpoint_config",
    "wait",
    "wsgi",
]

__version__ = "0.1.0"

_HOMES = {
    "BackendConfig": "rayserve.config",
    "EndpointConfig": "rayserve.config",
    "HTTPOptions": "rayserve.config",
    "HTTPResponse": "rayserve.http_response",
    "accept_batch": "rayserve.batching",
    "asgi": "rayserve.apps",
    "sse": "rayserve.sse",
    "wsgi": "rayserve.apps",
}


if not TYPE_CHECKING:  # to a type checker it would mean that any name can be imported from here

    def __getattr__(name: str) -> Any:
        """Load a public name with its first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint(name)}")
        value = getattr(importlib.import_module(_HOMES.get(name, "rayserve.api")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
