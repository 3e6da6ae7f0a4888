"""A call: one request on its way through the router, and the bytes of its body while they are needed.

    NEW ─► PARKED (endpoint has no traffic) ─► LINED (every replica full) ─► FLYING ─► ANSWERING ─► DONE

The ingress's exchange and the handle's result subclass `Call`; the router tells them how it went
through `answered`, `data` and `failed`, on the thread of its loop, and never after `DONE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from rayserve.wire.codec import CREDIT, END, MAX_DATA, data_header
from rayserve.wire.heads import Failure

if TYPE_CHECKING:
    from rayserve.model.table import Endpoint
    from rayserve.router.channel import Channel
    from rayserve.router.counts import Tally
    from rayserve.router.pool import Pool

__all__ = ["ANSWERING", "DONE", "FLYING", "LINED", "NEW", "PARKED", "Call", "Upload"]

NEW, PARKED, LINED, FLYING, ANSWERING, DONE = range(6)

_MANY: Final = 256  # pieces kept after they were sent; more are joined, or tiny ones would outweigh their bytes


class Upload:
    """A request body that travels as DATA under the replica's credit, while the client still sends it.

    All pieces are kept until the replica grants credit for the first time: up to then it may still
    refuse the call, and the call may go elsewhere whole.
    """

    __slots__ = ("credit", "ended", "granted", "kept", "next", "offset", "sealed", "size")

    def __init__(self) -> None:
        """Start empty, with the credit every stream begins with."""
        self.kept: list[bytes | memoryview] = []
        self.next = 0  # index of the first piece not sent whole
        self.offset = 0  # bytes of that piece already sent
        self.size = 0  # bytes held and not yet sent
        self.credit = CREDIT
        self.ended = False
        self.granted = False  # the replica consumed some: the body cannot be sent again
        self.sealed = False  # the frame that carries END was sent

    @classmethod
    def of(cls, pieces: Iterable[bytes | memoryview]) -> Upload:
        """Return a body that is whole already."""
        upload = cls()
        for piece in pieces:
            upload.push(piece)
        upload.ended = True
        return upload

    def push(self, piece: bytes | memoryview) -> None:
        """Add bytes that the client sent."""
        if piece:
            self.kept.append(piece)
            self.size += len(piece)

    def take(self, most: int) -> list[bytes | memoryview]:
        """Return the next pieces, at most `most` bytes and never more than the credit; they count as sent."""
        left = min(most, self.credit)
        if self.size <= left and not self.offset:
            parts = self.kept[self.next :] if self.next else self.kept.copy()
            self.credit -= self.size
            self.size = 0
            self.next = len(self.kept)
        else:
            parts = self._cut(left)
        if self.granted and self.next:
            del self.kept[: self.next]
            self.next = 0
        elif self.next > _MANY:
            self.kept[: self.next] = [b"".join(self.kept[: self.next])]
            self.next = 1
        return parts

    def _cut(self, left: int) -> list[bytes | memoryview]:
        parts: list[bytes | memoryview] = []
        while left and self.next < len(self.kept):
            piece = self.kept[self.next]
            rest = len(piece) - self.offset
            if rest > left:
                parts.append(memoryview(piece)[self.offset : self.offset + left])
                self.offset += left
                taken = left
            else:
                parts.append(memoryview(piece)[self.offset :] if self.offset else piece)
                self.offset = 0
                self.next += 1
                taken = rest
            left -= taken
            self.credit -= taken
            self.size -= taken
        return parts

    def frames(self, stream: int) -> Iterator[list[bytes | memoryview]]:
        """Yield DATA frames for `stream` as far as credit allows, each as buffers to be sent in a row."""
        while (self.credit and self.size) or (self.ended and not self.size and not self.sealed):
            size = self.size
            parts = self.take(MAX_DATA)
            size -= self.size
            self.sealed = self.ended and not self.size
            yield [data_header(stream, END if self.sealed else 0, size), *parts]

    def rewind(self) -> None:
        """Forget what was sent, for another attempt; only before `granted`."""
        self.next = self.offset = 0
        self.size = sum(len(piece) for piece in self.kept)
        self.credit = CREDIT
        self.sealed = False


class Call:
    """One request and where it stands.

    Attributes:
        endpoint: name of the endpoint it is for.
        shard_key: same key, same backend; None: by weight.
        idempotent: running it twice is harmless, so a lost replica may be followed by another attempt.
        deadline: on the router's clock, seconds.
        upload: the body, if it travels as DATA; else `small_body` goes with the OPEN.
        state: one of the states drawn above.
        attempts: lost attempts in which user code may have run.
        started: the replica said that user code was entered.
        pool: the backend it was given to.
        channel: where it flies.
        stream: its stream id there.
        slot: its place on the link's board, 0 for none.
        began: when it was submitted, on the router's clock.
        order: how many were submitted before it.
        tally: where it is counted.
    """

    __slots__ = (
        "attempts", "began", "bucket", "channel", "deadline", "endpoint", "idempotent", "order", "pool", "shard_key",
        "slot", "started", "state", "stream", "tally", "upload",
    )  # fmt: skip

    flags = 0  # wire flags of the OPEN beside END and NOT_IDEMPOTENT
    pin: str | None = None  # the backend, or the replica, that its caller chose; see `pins`

    def __init__(self, endpoint: str, deadline: float, idempotent: bool, shard_key: str | None = None) -> None:
        """Make a call that no router knows yet."""
        self.endpoint = endpoint
        self.deadline = deadline
        self.idempotent = idempotent
        self.shard_key = shard_key
        self.upload: Upload | None = None
        self.state = NEW
        self.attempts = 0
        self.started = False
        self.pool: Pool | None = None
        self.channel: Channel | None = None
        self.stream = 0
        self.slot = 0
        self.began = 0.0
        self.order = 0
        self.bucket: set[Call] | None = None
        self.tally: Tally | None = None

    @property
    def missing_ok(self) -> bool:
        """Whether it waits for an endpoint that does not exist yet."""
        return False

    @property
    def nested(self) -> bool:
        """Whether it is made while another call runs, which shutting down waits for."""
        return False

    def settle(self, endpoint: Endpoint | None, now: float) -> None:
        """Take what the endpoint's options say about this call, just before it is routed.

        Args:
            endpoint: None if no table names it.
            now: the router's clock, seconds.
        """

    def open_head(self, time_left_ms: int) -> bytes:
        """Return the encoded head of the OPEN frame."""
        raise NotImplementedError

    def small_body(self) -> bytes:
        """Return the body that travels in the OPEN frame."""
        return b""

    def room(self) -> None:
        """Hear that the upload took bytes: more of the client's body may be read."""

    def answered(self, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Take the answer's head, and its body as far as it is there; END in `flags` means all of it."""
        raise NotImplementedError

    def data(self, piece: bytes | memoryview, end: bool) -> None:
        """Take the next bytes of the answer's body."""
        raise NotImplementedError

    def failed(self, failure: Failure, body: bytes | memoryview, retry_after_s: int = 0) -> None:
        """Take the end without (or in the middle of) an answer.

        Args:
            failure: reason and detail.
            body: for Python calls the pickled exception, else empty.
            retry_after_s: seconds after which a retry makes sense; 0 for none.
        """
        raise NotImplementedError
