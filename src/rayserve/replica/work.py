"""One call on a replica, from the OPEN that brought it to the frame that ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from rayserve.context import CallState
from rayserve.wire.heads import Invoke, Open

if TYPE_CHECKING:
    from rayserve.replica.inflow import Inflow
    from rayserve.replica.session import Session

__all__ = ["Running", "Work"]


class Running(CallState, gc=False):
    """What `serve.context` shows during one call or batch, and the calls made through handles meanwhile.

    Attributes:
        nested: results that are still under way, to be cancelled with it; None before the first.
    """

    nested: set[Any] | None = None

    def cancel_nested(self) -> None:
        """Give up the calls that are under way; from any thread."""
        for call in tuple(self.nested or ()):
            call.cancel()


class Work(msgspec.Struct, eq=False):
    """One admitted call.

    Attributes:
        session: the link it came on.
        stream: its stream there.
        head: what it asks.
        deadline: on the monotonic clock, seconds.
        slot: its place on the link's board; 0: a STARTED frame is wanted; None: the router need not know.
        body: all of its body, once it is here.
        cancelled: the caller gave it up.
        ended: its terminal frame was sent or dropped; nothing more goes out.
        inflow: the body, where user code reads it while it arrives; then `body` stays empty.
        pieces: body bytes that came so far, while it still arrives.
        received: bytes of them not yet granted back.
        queued: its body is whole and it was handed to the intake.
        state: what `serve.context` shows while user code runs.
        item: what stands for it in a batch.
        key: what calls must share to share a batch with it; None: not asked yet.
        on_cancel: called when it is given up while user code runs, or a batch forms around it.
    """

    session: Session
    stream: int
    head: Open | Invoke
    deadline: float
    slot: int | None
    body: bytes | bytearray
    cancelled: bool = False
    ended: bool = False
    inflow: Inflow | None = None
    pieces: list[bytes | memoryview] = []
    received: int = 0
    queued: bool = False
    state: Running | None = None
    item: Any = None
    key: Any = None
    on_cancel: Callable[[], None] | None = None

    def buffer(self, parts: int) -> bytes | memoryview:
        """Return the body of a Python call of so many parts; if arrays lie in it, as memory that they may write to."""
        body = self.body
        if isinstance(body, bytes):
            return body if parts == 1 else memoryview(bytearray(body))
        return memoryview(body)

    def read(self) -> bytes:
        """Return the whole body, waiting for it if it still arrives; once only.

        Raises:
            Broken: it will never be whole.
        """
        return bytes(self.body) if self.inflow is None else self.inflow.readall()

    def may_run(self, now: float) -> bool:
        """Return whether somebody still waits and time is left; if not, end the call.

        Args:
            now: monotonic seconds.
        """
        if self.cancelled:
            self.session.drop(self)
            return False
        if self.deadline < now:
            self.session.expire(self)
            return False
        return True

    def show(self, state: Running) -> None:
        """Make `state` what `serve.context` shows; it hears of a cancellation that came before or comes later."""
        self.state = state
        if self.cancelled:  # asked after the line above: `give_up` may run on another thread
            state.cancelled = True

    def give_up(self) -> None:
        """Note that nobody waits for the answer any more."""
        self.cancelled = True
        if self.inflow is not None:
            self.inflow.cut("the request broke off before its body was whole; nobody waits for its answer")
        state = self.state
        if state is not None:
            state.cancelled = True
            state.cancel_nested()
        on_cancel = self.on_cancel  # on another thread the call may end, and let go of it
        if on_cancel is not None:
            on_cancel()
