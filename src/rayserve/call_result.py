"""The result of one call, as its caller holds it: waited for by threads and by event loops.

    a call of any kind ─► _finish(value | error | pickled parts), on the I/O thread ─► wakes whoever waits
                          result(), await, for … in: on any other thread; unpickled where it is asked for

How a call is sent, and how its answer is read, its kinds say: `python_call` and `http_call`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final

import msgspec

from rayserve.call_stream import ResultStream
from rayserve.cluster.objects import put_object
from rayserve.context import CallState
from rayserve.errors import BadRequestError, CallCancelledError, InternalError, InvalidTypeError, call_error
from rayserve.io_thread import IOThread
from rayserve.model.table import Endpoint
from rayserve.policy.retry import is_idempotent
from rayserve.replica.work import Running
from rayserve.router.call import Call
from rayserve.wakeup import wakeable
from rayserve.wire import values
from rayserve.wire.heads import Failure

__all__ = ["MAX_DEPTH", "CallResult", "HandleOptions"]

MAX_DEPTH: Final = 32  # nested calls; a chain this deep calls itself
_DEFAULT_TIMEOUT_S: Final = 60.0
_PREFIX: Final = f"h{os.getpid():x}-{os.urandom(4).hex()}-"
_numbers = itertools.count(1)
_LOCK = threading.Lock()  # guards the moment a result gets done; held for a few instructions


class HandleOptions(msgspec.Struct, frozen=True):
    """What a handle was told about its calls.

    Attributes:
        endpoint: its name.
        method_name: method of the backend class to call; "" for `__call__`.
        shard_key: same key, same backend; None: by weight.
        timeout_s: seconds for the whole call; None: as the endpoint says.
        missing_ok: wait for an endpoint that does not exist yet.
    """

    endpoint: str
    method_name: str = ""
    shard_key: str | None = None
    timeout_s: float | None = None
    missing_ok: bool = False


class CallResult(Call):
    """What a handle's calls return; dropping it cancels nothing."""

    __slots__ = (
        "_depth", "_error", "_io", "_options", "_outer", "_parent", "_parts", "_raw", "_request_id", "_traceback",
        "_value", "_waiters",
    )  # fmt: skip

    def __init__(self, io: IOThread, options: HandleOptions, outer: CallState) -> None:
        """Make a call that has not been sent; see `ServeHandle`.

        Args:
            io: leads to the replicas.
            options: of the handle.
            outer: the call in which this one is made, or what stands for none.
        """
        super().__init__(options.endpoint, math.inf, False, options.shard_key)
        self._io = io
        self._options = options
        self._outer = outer
        request_id = outer.request_id
        self._depth = 0 if request_id is None else outer.depth + 1
        self._request_id = request_id if isinstance(request_id, str) else f"{_PREFIX}{next(_numbers):x}"
        self._parts: list[bytes | memoryview] = []  # of the answer
        self._raw: list[int] | None = None  # sizes of the answer's parts, once it is whole
        self._traceback = ""
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Callable[[], None]] | None = []  # None once done
        self._parent: Running | None = None  # ends this call when it ends
        if isinstance(outer, Running):
            self._parent = outer
            if outer.nested is None:
                outer.nested = set()
            outer.nested.add(self)

    @property
    def missing_ok(self) -> bool:
        """As the handle was told."""
        return self._options.missing_ok

    @property
    def nested(self) -> bool:
        """Whether it is made while another call runs."""
        return self._depth > 0

    @property
    def _traceparent(self) -> str:
        traceparent = self._outer.traceparent
        return traceparent if isinstance(traceparent, str) else ""

    # -- for users ------------------------------------------------------------------------------------

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the value and return it.

        Args:
            timeout_s: seconds to wait; None: until the call's own deadline. The call itself goes on.

        Returns:
            What the backend returned.

        Raises:
            RuntimeError: called inside a running event loop, which it would block; use `await`.
            TimeoutError: no result within `timeout_s`.
            Exception: what the backend raised, as its own class; or a `CallError`.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(".result() would block the running event loop; `await` the CallResult instead")
        if self._waiters is not None:
            gate = threading.Lock()
            gate.acquire()
            wake = gate.release
            if self._when_done(wake) and not gate.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0.0)):
                self._forget(wake)
                raise TimeoutError(f"no result from endpoint {self.endpoint!r} within {timeout_s} s; the call goes on")
        return self._outcome()

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the value in async code; cancelling the wait cancels the call."""
        if self._waiters is not None:
            future, wake = wakeable()
            if self._when_done(wake):
                try:
                    yield from future
                except asyncio.CancelledError:
                    self.cancel()
                    raise
        return self._outcome()

    def done(self) -> bool:
        """Return whether the call has ended, one way or the other."""
        return self._waiters is None

    def cancel(self) -> None:
        """Give the call up: queued work is dropped, running async work cancelled; harmless when it is over."""
        if self._finish(CallCancelledError(f"the call to endpoint {self.endpoint!r} was cancelled")):
            self._io.abandon(self)

    def __iter__(self) -> ResultStream:
        """Iterate over what a generator yields.

        Raises:
            TypeError: the backend answered with one value, not with a generator.
        """
        return _as_stream(self.result())

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over what a generator yields, in async code; see `__iter__`."""
        async for value in _as_stream(await self):
            yield value

    def to_object_ref(self) -> Any:
        """Wait for the value and put it into Ray's object store, for `ray.get` and Ray libraries."""
        return put_object(self.result())

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse to travel inside other arguments."""
        raise InvalidTypeError(
            "a CallResult can be an argument, not part of one; pass it as a top-level argument, or await it first"
        )

    def __repr__(self) -> str:
        """Return endpoint and state."""
        return f"<CallResult of endpoint {self.endpoint!r}: {'done' if self.done() else 'pending'}>"

    # -- for its kinds --------------------------------------------------------------------------------

    def _is_too_deep(self) -> bool:
        """Return whether calls nest too deep for this one to be sent; it has ended then."""
        if self._depth <= MAX_DEPTH:
            return False
        detail = f"calls are nested deeper than {MAX_DEPTH} at endpoint {self.endpoint!r}; does it call itself?"
        self._finish(BadRequestError(detail))
        return True

    def _is_listed(self) -> bool:
        """Return whether the endpoint's `call_methods` names our method, which may be an inherited one then."""
        name = self._options.method_name
        if not name:
            return False
        endpoint = self._io.router.endpoint(self.endpoint)
        names = None if endpoint is None else endpoint.options.call_methods
        return isinstance(names, tuple) and name in names

    def settle(self, endpoint: Endpoint | None, now: float) -> None:
        """Take what the endpoint's options say; called on the I/O thread, just before routing."""
        timeout_s = self._options.timeout_s
        if timeout_s is None:
            timeout_s = endpoint.options.timeout_s if endpoint is not None else _DEFAULT_TIMEOUT_S
        deadline, latest = now + timeout_s, self._outer.deadline
        self.deadline = deadline if latest is None or deadline < latest else latest
        if endpoint is not None:
            self.idempotent = is_idempotent("", endpoint.options.retry)

    # -- the end --------------------------------------------------------------------------------------

    def _finish(self, error: BaseException | None = None, raw: list[int] | None = None) -> bool:
        """Note the end and wake those who wait; False if it had come before."""
        with _LOCK:
            waiters = self._waiters
            if waiters is None:
                return False
            self._error = error
            self._raw = raw
            self._waiters = None
        parent, self._parent = self._parent, None
        if parent is not None and parent.nested is not None:
            parent.nested.discard(self)
        for wake in waiters:
            wake()
        return True

    def _fail(self, failure: Failure, body: bytes | memoryview) -> None:
        """Note a failure that a router or a replica reported; `body` is the pickled exception, or empty."""
        self._parts = [body]
        self._traceback = failure.traceback
        self._finish(call_error(failure.reason, failure.detail), [len(body)] if body else None)

    def _when_done(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called at the end; False if it has come already."""
        with _LOCK:
            if self._waiters is None:
                return False
            self._waiters.append(wake)
            return True

    def _forget(self, wake: Callable[[], None]) -> None:
        with _LOCK:
            if self._waiters is not None:
                self._waiters.remove(wake)

    def _outcome(self) -> Any:
        """Return the value or raise the error, unpickling either the first time."""
        parts = self._parts
        raw = self._raw
        if raw is not None:
            self._unpickle(raw, parts)
            self._raw = None  # last: another thread that asks meanwhile unpickles for itself
            self._parts = []
        if self._error is not None:
            raise self._error
        return self._value

    def _unpickle(self, raw: list[int], parts: list[bytes | memoryview]) -> None:
        try:
            # Arrays live on in this memory; as a bytearray it lets them be written to.
            body = parts[0] if len(raw) == 1 and len(parts) == 1 else memoryview(bytearray().join(parts))
            value = values.unpack(raw, body)
        except Exception as error:
            self._error = self._error or InternalError(f"the result cannot be unpickled here: {error!r}")
            return
        if self._error is None:
            self._value = value
        else:
            self._error = value
            if self._traceback:
                value.add_note(f"raised in the replica:\n{self._traceback.rstrip()}")


def _as_stream(value: Any) -> ResultStream:
    if not isinstance(value, ResultStream):
        kind = type(value).__name__
        raise InvalidTypeError(
            f"the backend answered with one value of type {kind}, not with a generator; use result()"
        )
    return value
