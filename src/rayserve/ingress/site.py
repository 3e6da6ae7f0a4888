"""The site: what one ingress process knows, shared by all its connections.

RoutingTable ─► site.apply ─► matcher ─► site.find(head) ─► endpoint | Refused answer
/-/routes, /-/healthz and other system paths are answered here
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from rayserve.errors import REASONS
from rayserve.ingress import render
from rayserve.ingress.head import Head, Limits
from rayserve.ingress.options import IngressOptions
from rayserve.model.table import Endpoint, RoutingTable
from rayserve.policy.match import Matcher
from rayserve.router.router import Router

__all__ = ["Found", "Site", "Turned"]

_ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Found(NamedTuple):
    """An endpoint that takes the request."""

    endpoint: Endpoint
    params: Mapping[str, str]
    root: str
    streams: bool


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


class Site:
    """State of one ingress process.

    Attributes:
        router: finds replicas.
        options: `HTTPOptions` as the ingress sees them.
        limits: of request heads.
        now: coarse monotonic time in seconds, good to half a second; free to read.
        date: value of the Date header, refreshed with `now`.
        connections: open client connections.
        held: bytes of request bodies held in this process.
        draining: SIGTERM came: no new requests on new connections, healthz says 503.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, router: Router, options: IngressOptions) -> None:
        """Make a site without a table."""
        self.loop = loop
        self.router = router
        self.options = options
        self.limits = Limits(
            max_request_line=options.max_request_line,
            max_header_bytes=options.max_header_bytes,
            max_headers=options.max_headers,
        )
        self.now = time.monotonic()
        self.date = render.http_date(time.time())
        self.connections: set[Sweepable] = set()
        self.held = 0
        self.draining = False
        self.log: Callable[[str], None] | None = None
        self._matcher: Matcher[Endpoint] = Matcher([])
        self._streams: dict[str, bool] = {}
        self._apps: dict[str, bool] = {}
        self._count = 0
        self._prefix = f"{os.urandom(6).hex()}-"

    # -- the table ----------------------------------------------------------------------------------

    def apply(self, table: RoutingTable) -> None:
        """Make `table` the law for routes, then for the router."""
        self._matcher = Matcher([(e.route, e) for e in table.endpoints if e.route is not None])
        rows = {row.tag: row for row in table.backends}
        for endpoint in table.endpoints:
            backends = [rows[tag] for tag in (endpoint.traffic.weights if endpoint.traffic else {}) if tag in rows]
            self._streams[endpoint.name] = any(row.stream_request for row in backends)
            self._apps[endpoint.name] = any(row.app for row in backends)
        self.router.apply(table)

    def unready(self) -> str:
        """Return "" when this ingress serves, else why it does not."""
        table = self.router.table
        if table is None:
            return "starting: no routing table yet"
        if self.draining or table.closing:
            return "draining: the instance is shutting down"
        return ""

    # -- a request ----------------------------------------------------------------------------------

    def find(self, head: Head) -> Found | Turned:
        """Return the endpoint for a request, or the answer that it gets from us."""
        target = head.target
        match = self._matcher.match(target)
        if match is None:
            return self._system(head) if target.startswith("/-/") or target == "*" else self._unknown(target)
        endpoint = match.key
        method = head.method
        methods = endpoint.methods
        if method not in methods:
            if method == "HEAD" and "GET" in methods:
                pass
            elif method == "OPTIONS":
                return Turned(204, headers=b"allow: " + _allow(methods) + b"\r\n")
            else:
                detail = (
                    f"endpoint {endpoint.name!r} on {endpoint.route} does not take {method}, only "
                    f"{', '.join(methods)}; create it with methods=[{', '.join(map(repr, (*methods, method)))}]"
                )
                headers = b"allow: " + _allow(methods) + b"\r\n"
                return Turned(405, "method_not_allowed", detail, headers)
        return Found(endpoint, match.params, match.mount, self._streams.get(endpoint.name, False))

    def _unknown(self, target: str) -> Turned:
        if self.router.table is None:
            return Turned(503, "no_traffic", "this ingress has no routing table yet; try again")
        return Turned(404, "not_found", f"no endpoint has the path {target}; see /-/routes for those there are")

    def _system(self, head: Head) -> Turned:
        if head.target == "*":
            return Turned(204, headers=b"allow: " + ", ".join(_ALL_METHODS).encode() + b"\r\n")
        if head.target not in ("/-/routes", "/-/healthz"):
            return Turned(404, "not_found", f"{head.target} is no system path; there are /-/routes and /-/healthz")
        if head.method == "OPTIONS":
            return Turned(204, headers=b"allow: GET, HEAD, OPTIONS\r\n")
        if head.method not in ("GET", "HEAD"):
            detail = f"{head.target} does not take {head.method}, only GET and HEAD"
            return Turned(405, "method_not_allowed", detail, b"allow: GET, HEAD, OPTIONS\r\n")
        if head.target == "/-/routes":
            table = self.router.table
            routes = {e.route: [e.name, list(e.methods)] for e in (table.endpoints if table else ()) if e.route}
            return Turned(200, headers=b"content-type: application/json\r\n", body=msgspec.json.encode(routes))
        why = self.unready()
        if why:
            return Turned(503, "draining" if "draining" in why else "no_replica", why)
        return Turned(200, headers=b"content-type: text/plain; charset=utf-8\r\n", body=b"ok\n")

    def request_id(self, sent: str | None) -> str:
        """Return the client's request id, or a new one."""
        if sent:
            return sent
        self._count += 1
        return f"{self._prefix}{self._count:x}"

    # -- time ---------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Refresh `now` and `date`, and end connections whose time is up; runs every half second."""
        self.now = now = time.monotonic()
        self.date = render.http_date(time.time())
        for connection in [c for c in self.connections if c.due < now]:
            connection.overdue()
        self.loop.call_later(0.5, self.tick)


class Sweepable:
    """What the site's clock needs of a connection."""

    __slots__ = ("due",)

    due: float

    def overdue(self) -> None:
        """Hear that `due` has passed."""
        raise NotImplementedError


def _allow(methods: tuple[str, ...]) -> bytes:
    allowed = list(methods)
    if "GET" in allowed and "HEAD" not in allowed:
        allowed.insert(allowed.index("GET") + 1, "HEAD")
    if "OPTIONS" not in allowed:
        allowed.append("OPTIONS")
    return ", ".join(allowed).encode("ascii")


def retriable(reason: str) -> str:
    """Return the value of X-Serve-Retriable for `reason`."""
    return REASONS[reason].retriable
