"""The site: what one ingress process knows, shared by all its connections.

    RoutingTable ─► site.apply ─► matcher ─► site.find(head) ─► Found: an endpoint takes it
                                                             └► Turned: an answer of our own

/-/routes, /-/healthz and other system paths are answered here, before any route of a user, mounts included.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from rayserve import openapi
from rayserve.ingress.clock import Clock
from rayserve.ingress.head import Head, Limits, Refusal, timeout_ms, valid_request_id
from rayserve.ingress.options import IngressOptions
from rayserve.ingress.proxies import Proxies
from rayserve.ingress.turned import Turned, forbidden_method, near_miss, wrong_method
from rayserve.model.table import Endpoint, RoutingTable, changed
from rayserve.policy.match import Matcher
from rayserve.policy.route import canonical
from rayserve.router.router import Router

if TYPE_CHECKING:
    from rayserve.ingress.websocket import WebSocket

__all__ = ["Found", "Site"]

_SYSTEM: Final = ("/-/routes", "/-/healthz", *openapi.PATHS)
_SERVER_WIDE: Final = b"allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
_READ_ONLY: Final = b"allow: GET, HEAD, OPTIONS\r\n"
_MAYBE_SYSTEM: Final = ("/-", "/%2d", "/%2D")  # spellings under which `/-` may come
_RETRY_SOON: Final = b"retry-after: 1\r\n"


class Found(NamedTuple):
    """An endpoint that takes the request."""

    endpoint: Endpoint
    params: Mapping[str, str]
    root: str


class _Entry:
    """An endpoint with a route, ready for the hot path."""

    __slots__ = ("allow", "app", "found", "methods")

    def __init__(self, endpoint: Endpoint, apps: set[str]) -> None:
        methods = list(endpoint.methods)
        self.found = Found(endpoint, {}, "")
        self.app = endpoint.traffic is not None and not apps.isdisjoint(endpoint.traffic.weights)
        if "GET" in methods and "HEAD" not in methods:
            methods.insert(methods.index("GET") + 1, "HEAD")
        self.methods = frozenset(methods)
        if "OPTIONS" not in methods:
            methods.append("OPTIONS")
        self.allow = f"allow: {', '.join(methods)}\r\n".encode("ascii")


class Site:
    """State of one ingress process.

    Attributes:
        router: finds replicas.
        options: `HTTPOptions` as the ingress sees them.
        limits: of request heads.
        clock: coarse time, and the open connections.
        proxies: whose X-Forwarded-For and -Proto are believed; None: nobody's.
        held: bytes of request bodies, and of WebSocket messages, held in this process.
        draining: SIGTERM came: no new connections, healthz says 503.
        closes: each connection ends with the next answer.
        log: takes a line for each answered request; None: no access log.
        websockets: the open ones.
        websocket_endpoints: names of those whose traffic leads to ASGI apps only.
        streaming_endpoints: names of those whose bodies go on while they arrive: all of their backends want them so.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        router: Router,
        options: IngressOptions,
        clock: Clock | None = None,
    ) -> None:
        """Make a site without a table."""
        self.loop = loop
        self.router = router
        self.options = options
        self.limits = Limits(
            max_request_line=options.max_request_line,
            max_header_bytes=options.max_header_bytes,
            max_headers=options.max_headers,
        )
        self.clock = clock if clock is not None else Clock()
        self.proxies = Proxies(options.trusted_proxies) if options.trusted_proxies else None
        self.held = 0
        self.draining = False
        self.closes = not options.keep_alive_s
        self.log: Callable[[str], None] | None = None
        self.websockets: set[WebSocket] = set()
        self.websocket_endpoints: frozenset[str] = frozenset()
        self.streaming_endpoints: frozenset[str] = frozenset()
        self._entries: dict[str, _Entry] = {}
        self._endpoints: tuple[Endpoint, ...] = ()
        self._apps: set[str] = set()  # tags of web apps
        self._matcher: Matcher[str] = Matcher([])
        self._pages = openapi.Pages()
        self._count = 0
        self._prefix = f"{os.urandom(6).hex()}-"

    # -- the table ----------------------------------------------------------------------------------

    def apply(self, table: RoutingTable) -> None:
        """Make `table` the law for routes, then for the router; one that is not newer than the present is ignored.

        What did not change is not made anew: traffic changes often, routes seldom.
        """
        present = self.router.table
        if present is not None and table.stamp <= present.stamp:
            return
        apps = {row.tag for row in table.backends if row.app}
        pairs = changed(self._endpoints, table.endpoints)
        if pairs is None or apps != self._apps or any(old.route != new.route for old, new in pairs):
            self._entries = {}
            self._matcher = Matcher([(each.route, each.name) for each in table.endpoints if each.route is not None])
            fresh = table.endpoints
        else:
            fresh = tuple(new for _, new in pairs)
        self._entries.update({each.name: _Entry(each, apps) for each in fresh if each.route is not None})
        self._endpoints, self._apps = table.endpoints, apps
        self.websocket_endpoints = _only_to(table, {row.tag for row in table.backends if row.app == "asgi"})
        streaming = _only_to(table, {row.tag for row in table.backends if row.stream_request})
        # A copy needs the whole body, and must not cost the original anything: with shadows bodies are gathered.
        self.streaming_endpoints = streaming.difference(
            each.name for each in table.endpoints if each.traffic is not None and each.traffic.shadows
        )
        self.router.apply(table)
        if table.closing:
            for socket in tuple(self.websockets):
                socket.drain()

    def unready(self) -> str:
        """Return "" when this ingress serves, else why it does not."""
        table = self.router.table
        if table is None:
            return "starting: no routing table yet"
        if self.draining or table.closing:
            return "draining: the instance is shutting down"
        return ""

    def drain(self) -> None:
        """Say so on /-/healthz, and let each connection end with its next answer."""
        self.draining = self.closes = True

    # -- a request ----------------------------------------------------------------------------------

    def request_id(self, sent: str | None = None) -> str:
        """Return the client's request id if it is a valid one, else a new one."""
        if sent is not None and valid_request_id(sent):
            return sent
        self._count += 1
        return f"{self._prefix}{self._count:x}"

    def find(self, head: Head) -> Found | Turned:
        """Return the endpoint for a request, or the answer that it gets from us."""
        target = head.target
        match = self._matcher.match(target)
        exact = match is not None and not match.params and not match.mount
        if not exact and target.startswith(_MAYBE_SYSTEM):  # no exact route is a system path
            path = canonical(target)
            if path == "/-" or path.startswith("/-/"):
                return self._system(head.method, path)
        if match is None:
            return self._unknown(target)
        entry = self._entries[match.key]
        if head.method not in entry.methods and not (head.method == "OPTIONS" and entry.app):
            return wrong_method(entry.found.endpoint, entry.allow, head.method)
        return entry.found if exact else Found(entry.found.endpoint, match.params, match.mount)

    def objection(self, found: Found, head: Head) -> Turned | None:
        """Return why a request is refused although an endpoint takes it, judged before its body is read."""
        fields, length = head.fields, head.content_length
        if "x-request-timeout-ms" in fields:
            try:
                timeout_ms(fields["x-request-timeout-ms"])
            except Refusal as refusal:
                return Turned(refusal.status, refusal.reason, refusal.detail)
        if "x-serve-call-method" in fields and (
            forbidden := forbidden_method(found.endpoint, fields["x-serve-call-method"])
        ):
            return forbidden
        if length:
            most = found.endpoint.options.max_body_bytes
            if length > most:
                detail = f"the body has {length} bytes; endpoint {found.endpoint.name!r} takes {most} (max_body_bytes)"
                return Turned(413, "too_large", detail)
            passes_on = found.endpoint.name in self.streaming_endpoints
            if not passes_on and self.held + length > self.options.max_buffered_bytes:
                return Turned(503, "queue_full", self.full(), _RETRY_SOON)
        return None

    def full(self) -> str:
        """Say that no more body bytes fit."""
        return f"{self.held} bytes of bodies and messages are held here already (max_buffered_bytes); try again"

    def _unknown(self, target: str) -> Turned:
        if target == "*":  # OPTIONS on the whole server; a head with any other method was refused
            return Turned(204, headers=_SERVER_WIDE)
        if self.router.table is None:
            return Turned(503, "no_traffic", "this ingress has no routing table yet; try again", _RETRY_SOON)
        near = near_miss(target, self._matcher, self._app_route)
        return Turned(404, "not_found", f"no endpoint has the path {target}; {near}see /-/routes for those there are")

    def _app_route(self, name: str) -> str | None:
        entry = self._entries[name]
        return entry.found.endpoint.route if entry.app else None

    def _system(self, method: str, path: str) -> Turned:
        if path not in _SYSTEM:
            return Turned(404, "not_found", f"{path} is no system path; there are {', '.join(_SYSTEM)}")
        if method == "OPTIONS":
            return Turned(204, headers=_READ_ONLY)
        if method not in ("GET", "HEAD"):
            detail = f"{path} does not take {method}, only GET and HEAD"
            return Turned(405, "method_not_allowed", detail, _READ_ONLY)
        if path == "/-/routes":
            table = self.router.table
            endpoints = () if table is None else table.endpoints
            routes = {each.route: [each.name, list(each.methods)] for each in endpoints if each.route is not None}
            return Turned(200, headers=b"content-type: application/json\r\n", body=msgspec.json.encode(routes))
        if path in openapi.PATHS:
            headers, body = self._pages.get(path, self.router.table)
            return Turned(200, headers=headers, body=body)
        why = self.unready()
        if why:
            return Turned(503, "draining" if why.startswith("draining") else "no_replica", why)
        return Turned(200, headers=b"content-type: text/plain; charset=utf-8\r\n", body=b"ok\n")


def _only_to(table: RoutingTable, tags: set[str]) -> frozenset[str]:
    """Return the names of the endpoints whose traffic leads to these backends and to no other."""
    if not tags:
        return frozenset()
    with_traffic = [each for each in table.endpoints if each.traffic is not None and each.traffic.weights]
    return frozenset(each.name for each in with_traffic if each.traffic and tags.issuperset(each.traffic.weights))
