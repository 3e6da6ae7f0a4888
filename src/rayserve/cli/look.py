"""`rayserve status` and `rayserve routes`: join, ask, print."""

from __future__ import annotations

import rayserve as serve
from rayserve.cli.join import join
from rayserve.cli.views import ROUTE_TITLES, STATUS_TITLES, json_text, print_rows, route_rows, status_rows

__all__ = ["show_routes", "show_status"]


def show_status(name: str, address: str | None, as_json: bool) -> None:
    """Print what `serve.status()` says."""
    join(name, address)
    status = serve.status()
    if as_json:
        print(json_text(status))
    else:
        print_rows(STATUS_TITLES, status_rows(status))


def show_routes(name: str, address: str | None, as_json: bool) -> None:
    """Print all endpoints; as JSON in the form of `GET /-/routes`."""
    join(name, address)
    endpoints = serve.list_endpoints()
    if as_json:
        routes = {about["route"]: [name, about["methods"]] for name, about in endpoints.items() if about["route"]}
        print(json_text(routes))
    else:
        print_rows(ROUTE_TITLES, route_rows(endpoints))
