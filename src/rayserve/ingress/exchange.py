"""An exchange: one HTTP request and its answer, as a call of the router.

Head + body ─► Open ─► router … HEAD, DATA ─► bytes for the client, in the connection's order
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayserve.errors import REASONS
from rayserve.ingress import render
from rayserve.ingress.head import Head
from rayserve.policy.retry import is_idempotent
from rayserve.router.call import Call
from rayserve.wire import heads
from rayserve.wire.codec import END
from rayserve.wire.heads import Failure, Open

if TYPE_CHECKING:
    from rayserve.ingress.answers import Answers
    from rayserve.ingress.site import Found

__all__ = ["Exchange"]

_TOGETHER = 16 * 1024  # a body up to this is copied behind its head: one buffer costs less than two


class Exchange(Call):
    """One request of one connection.

    Attributes:
        connection: the client's.
        head: the request's.
        found: the endpoint; None for answers of our own.
        request_id: value of X-Request-Id.
        body: of the request, if it is small and whole; a large one is in `upload`.
        size: bytes of the request's body held here.
        pending: of the answer, while another answer goes first.
        ended: the answer is complete, or nobody waits for it.
        status: of the answer; 0 before it began.
        ends_by_close: only the end of the connection ends this answer's body.
    """

    __slots__ = ("_chunked", "_left", "body", "connection", "ended", "ends_by_close", "found", "head", "pending",
                 "pin", "request_id", "size", "status")  # fmt: skip

    def __init__(self, connection: Answers, head: Head, found: Found | None, request_id: str, timeout_s: float) -> None:
        """Make the exchange of a request whose head was read; `found` is None for answers of our own."""
        if found is None:
            super().__init__("", 0.0, True)
            self.pin = None
        else:
            endpoint, fields = found.endpoint, head.fields
            idempotent = is_idempotent(head.method, endpoint.options.retry, "idempotency-key" in fields)
            deadline = connection.site.router.clock() + timeout_s
            super().__init__(endpoint.name, deadline, idempotent, fields.get("x-serve-shard-key"))
            self.pin = fields.get("x-serve-pin")
        self.connection = connection
        self.head = head
        self.found = found
        self.request_id = request_id
        self.body = b""
        self.size = 0
        self.pending: list[bytes | memoryview] | None = None
        self.ended = False
        self.status = 0
        self.ends_by_close = False
        self._chunked = False
        self._left = 0  # bytes of a body of known length that have not come; below 0 the length is not known

    # -- out ----------------------------------------------------------------------------------------

    @property
    def max_body_bytes(self) -> int:
        """The largest body that the endpoint takes."""
        assert self.found is not None
        return self.found.endpoint.options.max_body_bytes

    def _origin(self) -> tuple[str, str]:
        """Return the client's address and scheme."""
        connection = self.connection
        if connection.proxied and connection.site.proxies is not None:
            return connection.site.proxies.origin(self.head.headers, connection.client)
        return connection.client, "http"

    def open_head(self, time_left_ms: int) -> bytes:
        """Return the head of the OPEN frame."""
        head, found = self.head, self.found
        assert found is not None
        fields = head.fields
        method = fields.get("x-serve-call-method", "")
        listed = found.endpoint.options.call_methods
        client, scheme = self._origin() if self.connection.proxied else (self.connection.client, "http")
        return heads.encode(
            Open(
                found.endpoint.name,
                self.request_id,
                time_left_ms,
                method,
                isinstance(listed, tuple) and method in listed,
                0,
                fields.get("traceparent", ""),
                head.method,
                head.target,
                head.query,
                head.headers,
                client,
                scheme,
                "1.1" if head.version == (1, 1) else "1.0",
                found.params,  # type: ignore[arg-type]
                found.root,
                self.size if self.upload is None else self._body_size(),
            )
        )

    def _body_size(self) -> int:
        """Return how large the body is in all, -1 if that shows only when it has arrived."""
        if self.upload is not None and self.upload.ended:
            return self.size
        length = self.head.content_length
        return -1 if length is None else length

    def small_body(self) -> bytes:
        """Return the body that travels inside the OPEN frame."""
        return self.body

    def room(self) -> None:
        """Hear that the replica took some of the body."""
        self.connection.room(self)

    # -- back ---------------------------------------------------------------------------------------

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Render the head of the answer."""
        answer = heads.decode_answer(head)
        request, connection, status, size = self.head, self.connection, answer.status, answer.body_size
        end = bool(flags & END)
        if size >= 0 and (len(body) != size if end else len(body) > size) and request.method != "HEAD":
            self._contradicted(size)
            return
        modern = request.version == (1, 1)
        unknown = size < 0
        found, pool = self.found, self.pool
        named = pool is not None and found is not None and found.endpoint.options.expose_backend
        bare = request.method == "HEAD" or not render.has_body(status)
        if unknown and not bare:
            self._chunked = modern
            self.ends_by_close = not modern
        self._left = size - len(body)
        keep = (connection.keeps or connection.queue[-1] is not self) and (modern or not unknown)
        out = render.head(
            status,
            answer.headers,
            content_length=None if unknown else size,
            chunked=unknown and modern,
            keep_alive=keep,
            version=request.version,
            request_id=self.request_id,
            backend=pool.row.tag if named and pool is not None else None,
            date=connection.site.clock.date,
        )
        # Not before: until its head is rendered, an answer that cannot be used may become an error.
        self.status = status
        if self.tally is not None:
            self.tally.statuses[status // 100] += 1
        if not keep:
            connection.close_after(self)
        if self._chunked and not body:
            connection.write_soon(self, out)
        elif bare or not body:
            connection.write(self, out)
        elif self._chunked:
            connection.write(self, b"".join((out, render.chunk_size(len(body)), body, b"\r\n")))
        elif len(body) <= _TOGETHER:
            connection.write(self, out + body)
        else:
            connection.write(self, out)
            connection.write(self, body)
        if end:
            if self._chunked:
                connection.write(self, render.LAST_CHUNK)
            self.ended = True
            connection.finished()
        elif bare:  # RFC 9110 sections 6.4.1 and 9.3.2: the head is all there is to send
            connection.site.router.drop(self)
            self._finish()

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Send on a piece of the answer's body."""
        connection = self.connection
        size = len(piece)
        if self._left >= 0:
            self._left -= size
            if self._left < 0 or (end and self._left):
                connection.break_off(self, f"a replica of {self.endpoint!r} sent another length than it announced")
                return
        if size:
            if self._chunked and size <= _TOGETHER:
                connection.write_soon(self, b"".join((render.chunk_size(size), piece, b"\r\n")))
            elif self._chunked:
                connection.write(self, render.chunk_size(size))
                connection.write(self, piece)
                connection.write(self, b"\r\n")
            else:
                connection.write(self, piece)
            connection.consumed(self, size)
        if end:
            if self._chunked:
                connection.write_soon(self, render.LAST_CHUNK)
            self._finish()

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Answer with an error, or cut the connection if the answer had begun."""
        connection = self.connection
        if self.status:
            if connection.queue[0] is self:
                connection.break_off(self, f"the answer of {self.endpoint!r} broke off: {failure.detail}")
                return
            self.pending = None  # the client has seen nothing of it yet
        reason = failure.reason if failure.reason in REASONS else "internal"
        status = failure.status or REASONS[reason].status
        debug = self.found is not None and self.found.endpoint.options.debug
        detail = failure.traceback if debug and failure.traceback else failure.detail
        self.turn(status, reason, detail, failure.headers, retry_after_s, failure.body, failure.ran)

    def turn(
        self,
        status: int,
        reason: str,
        detail: str,
        headers: bytes = b"",
        retry_after_s: int = 0,
        body: bytes = b"",
        ran: bool = False,
    ) -> None:
        """Answer with an error of ours, keeping the connection's order."""
        connection, request = self.connection, self.head
        self.status = status
        keep = connection.keeps_after(self)
        if not keep:
            connection.close_after(self)
        connection.write(
            self,
            render.error(
                status,
                reason,
                detail,
                REASONS[reason].retriable_if(ran),
                self.request_id,
                headers=headers,
                retry_after_s=retry_after_s,
                body=body,
                keep_alive=keep,
                version=request.version,
                bare=request.method == "HEAD",
                backend=self._backend(),
                date=connection.site.clock.date,
            ),
        )
        self._finish()

    def reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer with something of ours that is no error: a system path, or OPTIONS."""
        connection, request = self.connection, self.head
        self.status = status
        keep = connection.keeps_after(self)
        if not keep:
            connection.close_after(self)
        out = render.head(
            status,
            headers,
            content_length=len(body),
            chunked=False,
            keep_alive=keep,
            version=request.version,
            request_id=self.request_id,
            backend=None,
            date=connection.site.clock.date,
        )
        connection.write(self, out if request.method == "HEAD" else out + body)
        self._finish()

    def log_line(self) -> str:
        """Return this exchange as one line of the access log."""
        taken_ms = (self.connection.site.router.clock() - self.began) * 1000 if self.began else 0.0
        backend = self.pool.row.tag if self.pool is not None else "-"
        return (
            f'{self._origin()[0]} "{self.head.method} {self.head.target}" {self.status} '
            f"{taken_ms:.1f}ms endpoint={self.endpoint or '-'} backend={backend} id={self.request_id}"
        )

    def _backend(self) -> str | None:
        """Return the value of X-Serve-Backend."""
        if self.pool is None or self.found is None or not self.found.endpoint.options.expose_backend:
            return None
        return self.pool.row.tag

    def _contradicted(self, size: int) -> None:
        """Refuse an answer whose first frame belies its own length; none of it was sent."""
        self.connection.site.router.drop(self)
        detail = f"a replica of endpoint {self.endpoint!r} announced {size} bytes and sent another number"
        self.failed(Failure("internal", detail), b"")

    def _finish(self) -> None:
        self.ended = True
        self.connection.finished()
