"""An HTTP-shaped call: a request made by Python code, for a handler that was written for HTTP.

    start(request) ─► router … Open ─► replica: the same frames as from an ingress ─► HTTPResponse | exception

What the handler answers comes back as a response, whatever its status. What ends without an answer raises, as the
other calls of a handle do: refusals as `CallError`, what user code raised as its own class.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rayserve.call_result import CallResult
from rayserve.http_request import HTTPRequest
from rayserve.http_response import HTTPResponse, parsed_headers
from rayserve.model.table import Endpoint
from rayserve.policy.match import Matcher
from rayserve.policy.retry import is_idempotent
from rayserve.router.call import Upload
from rayserve.wire import heads
from rayserve.wire.codec import END, MAX_SMALL
from rayserve.wire.heads import Answer, Failure, Open

__all__ = ["HTTPCall"]


class HTTPCall(CallResult):
    """What `handle.request(...)` returns: its result is an `HTTPResponse`."""

    __slots__ = ("_answer", "_request")

    if TYPE_CHECKING:

        def result(self, timeout_s: float | None = None) -> HTTPResponse: ...  # noqa: D102
        def __await__(self) -> Generator[Any, None, HTTPResponse]: ...

    def start(self, request: HTTPRequest) -> None:
        """Send the request."""
        self._request = request
        self._answer = Answer(0)
        if self._is_too_deep():
            return
        if len(request.body) > MAX_SMALL:
            self.upload = Upload.of([request.body])
        self._io.submit(self)

    def settle(self, endpoint: Endpoint | None, now: float) -> None:
        """Take what the endpoint's options say; whether it may be repeated, the method says too."""
        super().settle(endpoint, now)
        if endpoint is not None:
            names = (name for name, _ in self._request.headers)
            self.idempotent = is_idempotent(self._request.method, endpoint.options.retry, "idempotency-key" in names)

    def open_head(self, time_left_ms: int) -> bytes:
        """Return the head of the OPEN frame."""
        request = self._request
        endpoint = self._io.router.endpoint(self.endpoint)
        route = endpoint.route if endpoint is not None else None
        target = request.target or _own_path(route)
        found = None if route is None else _matcher(route).match(target)
        return heads.encode(
            Open(
                self.endpoint,
                self._request_id,
                time_left_ms,
                self._options.method_name,
                self._is_listed(),
                self._depth,
                self._traceparent,
                request.method,
                target,
                request.query,
                request.headers,
                params={} if found is None else dict(found.params),
                root="" if found is None else found.mount,
                body_size=len(request.body),
            )
        )

    def small_body(self) -> bytes:
        """Return the request's body, unless it travels as DATA."""
        return b"" if self.upload is not None else self._request.body

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Keep the head of the answer, and its body as far as it is there."""
        self._answer = heads.decode_answer(head)
        self._parts = [body]
        if flags & END:
            self._respond()

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Keep a piece of the answer's body."""
        self._parts.append(piece)
        if end:
            self._respond()
        else:
            self._io.router.grant(self, len(piece))

    def _respond(self) -> None:
        parts, self._parts = self._parts, []
        content = b"" if self._request.method == "HEAD" else b"".join(parts)
        self._value = HTTPResponse(self._answer.status, parsed_headers(self._answer.headers), content)
        self._finish()
        self.upload = None

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Keep the failure; what came of the answer before it is dropped."""
        self._fail(failure, body)
        self.upload = None


@lru_cache(maxsize=1024)
def _matcher(route: str) -> Matcher[None]:
    return Matcher([(route, None)])


def _own_path(route: str | None) -> str:
    """Return the path of a request that names none: the endpoint's route, if that is one path."""
    if route is None or "{" in route:
        return "/"
    return route.removesuffix("*")
