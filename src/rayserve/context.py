"""`serve.context`: what a handler may know about the call it is running.

    replica ── enter(CallState(…)) ──► context variable ◄── context.request_id, .batch_size, … ── handler

One context variable holds one object, so that overlapping async handlers and threads each see their
own. The replica sets `state.cancelled` when the caller goes away; the handler sees it at once.

The name: `rayserve.context` is this module until `rayserve/__init__.py` runs
`from rayserve.context import context`, which puts the object in its place. The import system binds a
submodule to its package on the first import only, so no later `import rayserve.context` undoes that,
as long as `__init__` imports the object eagerly: a lazy `__getattr__` there would never be asked.
`import rayserve.context as c` therefore gives the object. Should the module itself ever stand there,
its own `__getattr__` below answers the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

__all__ = ["CallState", "Context", "batch_state", "context", "current", "enter", "leave"]


class CallState(msgspec.Struct, gc=False):
    """The facts of one call, or of one batch of calls. Made by the replica, read through `context`.

    Attributes:
        web: an HTTP request came, by HTTP or from `handle.request`, rather than a Python call.
        request_id: of the whole request; in a batch a tuple, one per call.
        endpoint: the endpoint's name; in a batch a tuple, one per call.
        backend: the backend's tag.
        replica: the replica's id.
        deadline: when the call's time is up, in seconds of `time.monotonic()`; None for never.
        traceparent: W3C trace context; in a batch a tuple, one per call.
        depth: how many calls deep in a chain of nested calls.
        batch_size: number of calls in the batch; None outside one.
        cancelled: set by the replica when nobody waits for the answer any more.
        calls: the states of a batch's calls, in order.
    """

    web: bool
    request_id: str | tuple[str, ...] | None
    endpoint: str | tuple[str, ...] | None
    backend: str | None
    replica: str | None
    deadline: float | None = None
    traceparent: str | tuple[str | None, ...] | None = None
    depth: int = 0
    batch_size: int | None = None
    cancelled: bool = False
    calls: tuple[CallState, ...] = ()
    unix_deadline: float | None = None  # filled on first look, so that it reads the same every time


S = TypeVar("S", bound=CallState)

_OUTSIDE = CallState(False, None, None, None, None)
_state: ContextVar[CallState] = ContextVar("rayserve_call", default=_OUTSIDE)

# Bound methods of the variable itself: one C call each on the hot path.
enter = _state.set
"""Make a `CallState` the current one; returns the token for `leave`."""
leave = _state.reset
"""Undo one `enter`."""
current = _state.get
"""Return the current `CallState`; outside a call one whose fields say so."""


def batch_state(calls: Sequence[CallState], kind: type[S] = CallState) -> S:  # type: ignore[assignment]
    """Combine the states of the calls of one batch.

    Args:
        calls: at least one, in the order of the batch; all by HTTP or all from handles.
        kind: what to make of them.
    """
    first = calls[0]
    deadlines = [call.deadline for call in calls if call.deadline is not None]
    # Any, because the fields are plain text outside a batch, as these are.
    request_ids: list[Any] = [call.request_id for call in calls]
    endpoints: list[Any] = [call.endpoint for call in calls]
    traceparents: list[Any] = [call.traceparent for call in calls]
    return kind(
        web=first.web,
        request_id=tuple(request_ids),
        endpoint=tuple(endpoints),
        backend=first.backend,
        replica=first.replica,
        deadline=min(deadlines, default=None),
        traceparent=tuple(traceparents),
        depth=max(call.depth for call in calls),
        batch_size=len(calls),
        calls=tuple(calls),
    )


class Context:
    """The call that the current code belongs to; there is one object, `rayserve.context`.

    Every attribute is read-only and right in sync, threaded and async handlers alike. A thread that
    user code starts itself sees no call, unless it is run in `contextvars.copy_context()`.
    """

    __slots__ = ()

    @property
    def web(self) -> bool:
        """Whether an HTTP request came, be it from `handle.request`; False for Python calls and outside a call."""
        return current().web

    @property
    def batch_size(self) -> int | None:
        """How many calls this batch holds; None outside a batch."""
        return current().batch_size

    @property
    def request_id(self) -> str | tuple[str, ...] | None:
        """The id in `X-Request-Id`; a tuple in a batch; None outside a call."""
        return current().request_id

    @property
    def deadline(self) -> float | None:
        """When the caller's time is up, in seconds since the epoch, as `time.time()`; None for never.

        In a batch the earliest. Compare it with `time.time()`: `context.deadline - time.time()`
        seconds are left.
        """
        state = current()
        if state.unix_deadline is None and state.deadline is not None:
            state.unix_deadline = time.time() + state.deadline - time.monotonic()
        return state.unix_deadline

    @property
    def endpoint(self) -> str | tuple[str, ...] | None:
        """The endpoint that was called; a tuple in a batch, which may mix them; None outside a call."""
        return current().endpoint

    @property
    def backend(self) -> str | None:
        """The tag of the backend that runs this code; None outside a call."""
        return current().backend

    @property
    def replica(self) -> str | None:
        """The id of the replica that runs this code; None outside a call."""
        return current().replica

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more; in a batch, whether nobody does for any.

        Sync code that runs long should look now and then, and stop.
        """
        state = current()
        return state.cancelled or (bool(state.calls) and all(call.cancelled for call in state.calls))

    @property
    def traceparent(self) -> str | tuple[str | None, ...] | None:
        """The W3C trace context of the call; a tuple in a batch; None without one."""
        return current().traceparent

    def __repr__(self) -> str:
        state = current()
        if state is _OUTSIDE:
            return "<serve.context outside a call>"
        return f"<serve.context of {state.request_id!r} at {state.endpoint!r}, backend {state.backend!r}>"

    def __reduce__(self) -> str:
        """Pickle by name: user code that holds the object must find the one of its own process."""
        return "context"


context = Context()


if not TYPE_CHECKING:  # to a type checker it would mean that any name can be imported from here

    def __getattr__(name: str) -> Any:
        """Answer for the object, see the module's docstring."""
        if name.startswith("_") or not hasattr(Context, name):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(context, name)
