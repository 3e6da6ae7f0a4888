"""One call on a replica, from the OPEN that brought it to the frame that ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rayserve.context import CallState
from rayserve.wire.heads import Invoke, Open

if TYPE_CHECKING:
    from rayserve.replica.session import Session

__all__ = ["Work"]


class Work:
    """One admitted call.

    Attributes:
        session: the link it came on.
        stream: its stream there.
        head: what it asks.
        body: all of its body, once it is here.
        deadline: on the monotonic clock, seconds.
        slot: its place on the link's board; 0: a STARTED frame is wanted; None: the router need not know.
        cancelled: the caller gave it up.
        ended: its terminal frame was sent or dropped; nothing more goes out.
        pieces: body bytes that came so far, while it still arrives.
        received: bytes of them not yet granted back.
        queued: its body is whole and it was handed to the intake.
        state: what `serve.context` shows while user code runs.
        item: what stands for it in a batch.
        on_cancel: called when it is given up while user code runs.
    """

    __slots__ = (
        "body", "cancelled", "deadline", "ended", "head", "item", "on_cancel", "pieces", "queued", "received",
        "session", "slot", "state", "stream",
    )  # fmt: skip

    def __init__(
        self, session: Session, stream: int, head: Open | Invoke, deadline: float, slot: int | None, body: bytes
    ) -> None:
        """Make a call whose body is `body`, or still to come in pieces."""
        self.session = session
        self.stream = stream
        self.head = head
        self.body = body
        self.deadline = deadline
        self.slot = slot
        self.cancelled = False
        self.ended = False
        self.pieces: list[bytes | memoryview] = []
        self.received = 0
        self.queued = False
        self.state: CallState | None = None
        self.item: Any = None
        self.on_cancel: Callable[[], None] | None = None

    def give_up(self) -> None:
        """Note that nobody waits for the answer any more."""
        self.cancelled = True
        if self.state is not None:
            self.state.cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()
