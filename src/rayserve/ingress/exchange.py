"""An exchange: one HTTP request and its answer, as a call of the router.

Head + body ─► Open ─► router … HEAD, DATA ─► bytes for the client, in the connection's order
"""

from __future__ import annotations

import time
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
    from rayserve.ingress.connection import Connection
    from rayserve.ingress.site import Found

__all__ = ["Exchange"]


class Exchange(Call):
    """One request of one connection."""

    __slots__ = ("_chunked", "_received", "body", "connection", "ended", "found", "head", "pending", "request_id",
                 "size", "status")  # fmt: skip

    def __init__(
        self, connection: Connection, head: Head, found: Found | None, request_id: str, timeout_s: float
    ) -> None:
        """Make the exchange of a request whose head was read; `found` is None for answers of our own."""
        if found is None:
            super().__init__("", 0.0, True)
        else:
            endpoint, fields = found.endpoint, head.fields
            idempotent = is_idempotent(head.method, endpoint.options.retry, "idempotency-key" in fields)
            super().__init__(endpoint.name, time.monotonic() + timeout_s, idempotent, fields.get("x-serve-shard-key"))
        self.connection = connection
        self.head = head
        self.found = found
        self.request_id = request_id
        self.body = b""
        self.size = 0  # bytes of the request's body held here
        self.pending: list[bytes | memoryview] = []  # of the answer, while another answer goes first
        self.ended = False
        self.status = 0
        self._chunked = False
        self._received = 0

    # -- out ----------------------------------------------------------------------------------------

    def open_head(self, time_left_ms: int) -> bytes:
        """Return the head of the OPEN frame."""
        head, found, connection = self.head, self.found, self.connection
        assert found is not None
        method = head.fields.get("x-serve-call-method", "")
        listed = found.endpoint.options.call_methods
        return heads.encode(
            Open(
                found.endpoint.name,
                self.request_id,
                time_left_ms,
                method,
                isinstance(listed, tuple) and method in listed,
                0,
                head.fields.get("traceparent", ""),
                head.method,
                head.target,
                head.query,
                head.headers,
                connection.client,
                connection.scheme,
                "1.1" if head.version == (1, 1) else "1.0",
                found.params,  # type: ignore[arg-type]
                found.root,
                self.size,
            )
        )

    def small_body(self) -> bytes:
        """Return the body that travels inside the OPEN frame."""
        return self.body

    # -- back ---------------------------------------------------------------------------------------

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Render the head of the answer."""
        answer = heads.decode_answer(head)
        request = self.head
        connection = self.connection
        self.status = status = answer.status
        if self.tally is not None:
            self.tally.statuses[status // 100] += 1
        end = bool(flags & END)
        size = answer.body_size
        modern = request.version == (1, 1)
        unknown = size < 0
        keep = request.keep_alive and connection.keeps and (modern or not unknown)
        bare = request.method == "HEAD" or not render.has_body(status)
        self._chunked = unknown and modern and not bare
        exposed = self.found is not None and self.found.endpoint.options.expose_backend and self.pool is not None
        out = render.head(
            status,
            answer.headers,
            content_length=None if unknown else size,
            chunked=unknown and modern,
            keep_alive=keep,
            version=request.version,
            request_id=self.request_id,
            backend=self.pool.row.tag if exposed and self.pool is not None else None,
            date=connection.site.date,
        )
        if not keep:
            connection.close_after(self)
        if body and not bare:
            connection.write(self, out + body)
        else:
            connection.write(self, out)
        if end:
            self._finish()
        elif bare:  # RFC 9110 sections 6.4.1 and 9.3.2: the head is all there is to send
            connection.site.router.abandon(self)
            self._finish()

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Send on a piece of the answer's body."""
        connection = self.connection
        size = len(piece)
        if size:
            if self._chunked:
                connection.write(self, b"%x\r\n" % size)
                connection.write(self, piece)
                connection.write(self, b"\r\n")
            else:
                connection.write(self, piece)
            connection.consumed(self, size)
        if end:
            if self._chunked:
                connection.write(self, b"0\r\n\r\n")
            self._finish()

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Answer with an error, or cut the connection if the answer had begun."""
        if self.status:
            self.connection.cut(f"the answer of {self.endpoint!r} broke off: {failure.detail}")
            return
        reason = failure.reason if failure.reason in REASONS else "internal"
        status = failure.status or REASONS[reason].status
        debug = self.found is not None and self.found.endpoint.options.debug
        detail = failure.traceback if debug and failure.traceback else failure.detail
        self.turn(status, reason, detail, failure.headers, retry_after_s, failure.body)

    def turn(
        self, status: int, reason: str, detail: str, headers: bytes = b"", retry_after_s: int = 0, body: bytes = b""
    ) -> None:
        """Answer with an error of ours (or of `HTTPError`), keeping the connection's order."""
        connection, request = self.connection, self.head
        self.status = status
        keep = request.keep_alive and connection.keeps
        connection.write(
            self,
            render.error(
                status,
                reason,
                detail,
                REASONS[reason].retriable,
                self.request_id,
                headers=headers,
                retry_after_s=retry_after_s,
                body=body,
                keep_alive=keep,
                version=request.version,
                bare=request.method == "HEAD",
                date=connection.site.date,
            ),
        )
        if not keep:
            connection.close_after(self)
        self._finish()

    def reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer with something of ours that is no error: a system path, or OPTIONS."""
        connection, request = self.connection, self.head
        self.status = status
        keep = request.keep_alive and connection.keeps
        out = render.head(
            status,
            headers,
            content_length=len(body),
            chunked=False,
            keep_alive=keep,
            version=request.version,
            request_id=self.request_id,
            backend=None,
            date=connection.site.date,
        )
        if not keep:
            connection.close_after(self)
        connection.write(self, out if request.method == "HEAD" else out + body)
        self._finish()

    def log_line(self) -> str:
        """Return this exchange as one line of the access log."""
        taken_ms = (time.monotonic() - self.began) * 1000 if self.began else 0.0
        backend = self.pool.row.tag if self.pool is not None else "-"
        return (
            f'{self.connection.client} "{self.head.method} {self.head.target}" {self.status} '
            f"{taken_ms:.1f}ms endpoint={self.endpoint or '-'} backend={backend} id={self.request_id}"
        )

    def _finish(self) -> None:
        self.ended = True
        self.connection.finished(self)
