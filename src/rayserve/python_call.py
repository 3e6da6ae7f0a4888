"""A Python call: pickled arguments out, a pickled value or a stream of values back.

    start(args) ─► (arguments that are results themselves, awaited) ─► pickle ─► router … ─► value | exception

Arguments are pickled on the caller's thread; all else here runs on the I/O thread, which only moves bytes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from rayserve import call_arguments as arguments
from rayserve.call_result import CallResult
from rayserve.errors import DrainingError
from rayserve.router.call import Upload
from rayserve.stream_call import StreamCall
from rayserve.wire import heads
from rayserve.wire.codec import CALL, END, MAX_SMALL
from rayserve.wire.heads import Failure, Invoke

__all__ = ["PythonCall"]


class PythonCall(CallResult):
    """What `handle.remote(...)` returns."""

    __slots__ = ("_body", "_sizes", "_stream_call")

    flags = CALL

    # -- out ------------------------------------------------------------------------------------------

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Send the call, at once or when the results among its arguments are there.

        Raises:
            InvalidTypeError: an argument cannot be pickled.
        """
        self._sizes: list[int] = []
        self._body = b""
        self._stream_call: StreamCall | None = None
        if self._is_too_deep():
            return
        if arguments.are_ready(args, kwargs):
            self._send(args, kwargs)
        else:
            self._io.spawn(self._start_later(args, kwargs))

    async def _start_later(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self._send(*await arguments.awaited(args, kwargs))
        except asyncio.CancelledError:
            self._finish(DrainingError("this process stopped serving"))
        except BaseException as error:
            self._finish(error)

    def _send(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._sizes, parts = arguments.packed(self.endpoint, args, kwargs)
        if sum(self._sizes) <= MAX_SMALL:
            self._body = b"".join(parts)
        else:
            self.upload = Upload.of(parts)
        if self._waiters is not None:
            self._io.submit(self)

    def open_head(self, time_left_ms: int) -> bytes:
        """Return the head of the OPEN frame."""
        return heads.encode(
            Invoke(
                self.endpoint,
                self._request_id,
                time_left_ms,
                self._options.method_name,
                self._is_listed(),
                self._depth,
                self._traceparent,
                self._sizes,
            )
        )

    def small_body(self) -> bytes:
        """Return the pickled arguments."""
        return self._body

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Keep the answer's bytes."""
        answer = heads.decode_value(head)
        self._sizes = answer.sizes
        if answer.stream:
            self._begin_stream(body, bool(flags & END))
        elif flags & END:
            self._parts = [body]
            self._finish(raw=self._sizes)
            self._let_go()

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Keep a piece of a large answer, or of a stream."""
        self._parts.append(piece)
        if end:
            self._finish(raw=self._sizes)
            self._let_go()
        else:
            self._io.router.grant(self, len(piece))

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Keep the failure; a pickled exception is rebuilt where it is asked for."""
        self._fail(failure, body)
        self._let_go()

    def _begin_stream(self, body: bytes | memoryview, end: bool) -> None:
        """Give the caller a stream for its value: the call goes on while it is read."""
        stream_call = StreamCall(self._io, self, self._parent)
        if not end:
            self._io.router.hand_over(self, stream_call)
        self._value = stream = stream_call.open()
        stream.feed(body, end)
        self._stream_call = stream_call
        if not self._finish():  # cancelled just now, and `cancel` may not have seen the line above
            stream_call.cancel()
        self._let_go()

    def cancel(self) -> None:
        """Give the call up, also while its answer streams; see `CallResult.cancel`."""
        super().cancel()
        if self._stream_call is not None:
            self._stream_call.cancel()

    def _let_go(self) -> None:
        """Forget the arguments: no replica will ask for them again."""
        self._body = b""
        self.upload = None
