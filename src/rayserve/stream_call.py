"""The router's side of a stream of values, from its first frame to its end.

    router ── DATA, FAIL ─► StreamCall ── weakly ─► ResultStream ◄── the caller's code
                              grant, abandon ◄── taken, closed, or let go of

It takes the place of the call that began it. So nothing on the router's side keeps the stream alive: when the caller
lets go of it, its call is given up.
"""

from __future__ import annotations

import weakref
from functools import partial

from rayserve.call_stream import ResultStream
from rayserve.errors import CallCancelledError, InternalError, call_error
from rayserve.io_thread import IOThread
from rayserve.replica.work import Running
from rayserve.router.call import Call
from rayserve.wire import values
from rayserve.wire.codec import CALL
from rayserve.wire.heads import Failure

__all__ = ["StreamCall"]


class StreamCall(Call):
    """One call whose answer is a stream that has begun."""

    __slots__ = ("_io", "_parent", "_reader")

    flags = CALL

    def __init__(self, io: IOThread, call: Call, parent: Running | None) -> None:
        """Take the place of `call`, which user code that `parent` describes has made."""
        super().__init__(call.endpoint, call.deadline, call.idempotent)
        self._io = io
        self._parent = parent
        self._reader: weakref.ref[ResultStream] | None = None

    def open(self) -> ResultStream:
        """Return the stream for the caller; giving up the call it is nested in ends it."""
        stream = ResultStream(partial(self._io.grant, self), self._stop)
        self._reader = weakref.ref(stream)
        parent = self._parent
        if parent is not None:
            if parent.nested is None:
                parent.nested = set()
            parent.nested.add(self)
            if (
                parent.cancelled
            ):  # asked after the line above: a CANCEL on another thread either sees it or is seen here
                self.cancel()
        return stream

    def cancel(self) -> None:
        """Give the stream up; whoever reads on hears of it. From any thread, harmless when it is over."""
        stream = self._reader() if self._reader is not None else None
        if stream is not None and stream.fail(
            CallCancelledError(f"the call to endpoint {self.endpoint!r} was cancelled")
        ):
            self._stop()

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Hand bytes of the stream on."""
        stream = self._reader() if self._reader is not None else None
        if stream is not None:
            stream.feed(piece, end)
        if end:
            self._leave()

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Hand the failure on, as the exception itself where it came along."""
        stream = self._reader() if self._reader is not None else None
        if stream is not None:
            stream.fail(_rebuilt(failure, body))
        self._leave()

    def _stop(self) -> None:
        self._leave()
        self._io.abandon(self)

    def _leave(self) -> None:
        parent, self._parent = self._parent, None
        if parent is not None and parent.nested is not None:
            parent.nested.discard(self)


def _rebuilt(failure: Failure, body: bytes | memoryview) -> BaseException:
    if body:
        try:
            error = values.unpack([len(body)], body)
            if isinstance(error, BaseException):
                return error
        except Exception as why:
            return InternalError(f"the exception of the stream cannot be unpickled here: {why!r}")
    return call_error(failure.reason, failure.detail)
