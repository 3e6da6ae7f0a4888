"""Names that people bring along from other serving libraries, and what does their work here.

rayserve.<name> ─► AttributeError ◄── hint(name)
"""

from __future__ import annotations

from typing import Final

__all__ = ["hint"]

_HERE: Final = {
    "deployment": 'no decorator is needed: serve.create_backend("tag", YourClass)',
    "run": 'call serve.init(), serve.create_backend("tag", code) and serve.create_endpoint("name", "/route", '
    'backend="tag"); the command line has `rayserve run module:function`',
    "start": "call serve.init()",
    "batch": "decorate with @serve.accept_batch, and give sizes and waits in serve.BackendConfig",
    "ingress": 'serve the app as a backend: serve.create_backend("tag", serve.asgi(app))',
    "delete": "call serve.delete_endpoint and serve.delete_backend",
    "get_app_handle": 'call serve.get_handle("endpoint")',
    "get_deployment_handle": 'call serve.get_handle("endpoint")',
    "get_replica_context": "use serve.context",
    "link": 'call serve.set_traffic("endpoint", {"tag": 1.0})',
    "split": 'call serve.set_traffic("endpoint", {"tag": 0.9, "other": 0.1})',
    "scale": 'call serve.update_backend_config("tag", {"num_replicas": 2})',
    "stat": "call serve.status()",
}


def hint(name: str) -> str:
    """Return the end of a message about a name that the package does not have: "; …", or nothing."""
    return f"; {_HERE[name]}" if name in _HERE else ""
