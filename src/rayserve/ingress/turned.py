"""Answers of our own, in words that name what was asked for, and what was likely meant.

site.find, site.objection ─► Turned: a system path, a refusal, or OPTIONS ─► rendered in the request's turn
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from rayserve.model.table import Endpoint
from rayserve.policy.match import Matcher

__all__ = ["Turned", "forbidden_method", "near_miss", "wrong_method"]

_DEPTH: Final = 8  # segments of a path that are looked at for a hint; a client may send thousands


class Turned(NamedTuple):
    """An answer of our own: a system path, a refusal, or OPTIONS.

    Attributes:
        status: HTTP status.
        reason: word of `REASONS`; "" for an answer that is no error.
        detail: for an error.
        headers: rendered block to add.
        body: of an answer that is no error.
    """

    status: int
    reason: str = ""
    detail: str = ""
    headers: bytes = b""
    body: bytes = b""


def near_miss(target: str, matcher: Matcher[str], app_route: Callable[[str], str | None]) -> str:
    """Return what a message can say of the endpoint that was likely meant: a slash too many, a path in an app.

    Args:
        target: a path that no endpoint has.
        matcher: finds endpoints.
        app_route: returns the route of an endpoint that is an app, None for others.
    """
    match = matcher.match(target[:-1] if target.endswith("/") else f"{target}/")
    if match is not None:
        return f"endpoint {match.key!r} has {match.rest}, and a slash at the end makes a difference; "
    above = ""
    for segment in target.split("/", _DEPTH)[1:-1]:
        above += f"/{segment}"
        match = matcher.match(above)
        if match is not None and (route := app_route(match.key)) is not None:
            return f"endpoint {match.key!r} has an app on {route} alone, and below it only with {route}/*; "
    return ""


def wrong_method(endpoint: Endpoint, allow: bytes, method: str) -> Turned:
    """Return the answer to a method that an endpoint does not take; `allow` is its rendered Allow header."""
    if method == "OPTIONS":
        return Turned(204, headers=allow)
    detail = (
        f"endpoint {endpoint.name!r} on {endpoint.route} does not take {method}, only {', '.join(endpoint.methods)}; "
        f"create it with methods=[{', '.join(map(repr, (*endpoint.methods, method)))}]"
    )
    return Turned(405, "method_not_allowed", detail, allow)


def forbidden_method(endpoint: Endpoint, method: str) -> Turned | None:
    """Return the refusal of a call method that the endpoint does not allow; the replica knows what exists."""
    allowed, name = endpoint.options.call_methods, endpoint.name
    if method in ("", "__call__"):  # what a request without the header calls
        return None
    if allowed is False or (isinstance(allowed, tuple) and method not in allowed):
        choices = ", ".join(allowed) if isinstance(allowed, tuple) and allowed else "none"
        return Turned(404, "not_found", f"endpoint {name!r} lets no client call method {method!r}; allowed: {choices}")
    return None
