"""A shadow: a copy of a call for another backend, whose answer nobody reads.

    submit(call) ─► the call's own way
               └──► Shadow ─► the shadow backend's pool ─► … ─► dropped

The copy is taken when the call is submitted, so nothing that happens to one touches the other: answers,
errors and slowness of the shadow never reach the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayserve.router.call import Call, Upload
from rayserve.wire.heads import Failure

if TYPE_CHECKING:
    from rayserve.router.router import Router

__all__ = ["Shadow"]


class Shadow(Call):
    """A copy of one call."""

    __slots__ = ("_body", "_head", "_router", "flags")

    def __init__(self, router: Router, call: Call, time_left_ms: int) -> None:
        """Copy `call` as it stands."""
        super().__init__(call.endpoint, call.deadline, call.idempotent)
        self.flags = call.flags
        self._router = router
        self._head = call.open_head(time_left_ms)
        self._body = call.small_body()
        if call.upload is not None:
            self.upload = Upload.of(call.upload.kept)

    def open_head(self, time_left_ms: int) -> bytes:
        """Return the head of the original, with the time it had left."""
        return self._head

    def small_body(self) -> bytes:
        """Return the body of the original."""
        return self._body

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Drop the answer."""

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Drop a piece of the answer, and ask for the next."""
        if not end:
            self._router.grant(self, len(piece))

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Drop the failure; it is counted under the shadow's backend."""
