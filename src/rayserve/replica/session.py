"""A session: the replica's end of one link, and the calls on it.

    frames ─► OPEN ─► intake.admit ─► Work ─► (DATA…) ─► intake.ready
    user code's result ─► reply ─► HEAD | FAIL | REJECT (+ DATA under the router's credit)

Every OPEN gets exactly one terminal frame, whatever happens: who takes a call out of `_works` sends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rayserve.replica.inflow import Inflow
from rayserve.replica.outflow import Outflow
from rayserve.replica.work import Work
from rayserve.wire import codec, heads
from rayserve.wire.board import Board
from rayserve.wire.codec import (
    CALL,
    CANCEL,
    DATA,
    END,
    FAIL,
    HEAD,
    NOT_IDEMPOTENT,
    OPEN,
    PING,
    REJECT,
    STARTED,
    WINDOW,
    Violation,
)  # fmt: skip
from rayserve.wire.heads import Answer, Failure, Invoke, Value
from rayserve.wire.link import Link

if TYPE_CHECKING:
    from rayserve.replica.intake import Intake

__all__ = ["Session"]

_GRANT_STEP: Final = 128 * 1024  # half the credit: the sender is never idle, and a WINDOW frame is rare
_HALF: Final = 1 << 31  # stream ids only grow, round and round
_MOST_PICKLED: Final = codec.MAX_SMALL  # an exception beyond that is told by its text
_MOST_TEXT: Final = 64 * 1024  # characters


class Session:
    """One router's link, after its handshake."""

    __slots__ = ("_board", "_highest", "_intake", "_outflows", "_works", "dirty", "gone", "link", "role")

    def __init__(
        self, link: Link, role: str, board: Board | None, intake: Intake, dirty: Callable[[Link], None]
    ) -> None:
        """Serve `link`.

        Args:
            link: authenticated.
            role: "ingress" or "handle"; an ingress may not send Python calls.
            board: where to note what was started; None: it is said by STARTED frames.
            intake: where calls go.
            dirty: called with the link when an answer waits on it to be flushed.
        """
        self.link = link
        self.role = role
        self.dirty = dirty
        self.gone = False  # the link is lost
        self._board = board
        self._intake = intake
        self._works: dict[int, Work] = {}
        self._outflows: dict[int, Outflow] = {}
        self._highest = 0

    # -- in -----------------------------------------------------------------------------------------

    def take(self, frames: list[codec.Frame]) -> None:
        """Act on frames that came.

        Raises:
            Violation: the router broke the protocol; the link must be closed.
        """
        for kind, flags, stream, slot, head, body in frames:
            if kind == OPEN:
                self._open(stream, flags, slot, head, bytes(body))
            elif kind == PING and not stream:
                self.link.send_now(codec.frame(codec.PONG, 0, load=self._load()))
            elif kind == CANCEL and not stream:
                self._intake.leave(self)
            elif not stream or (stream not in self._works and self._is_new(stream)):
                raise Violation(f"kind {kind} on stream {stream}, which was never opened")
            elif kind == DATA:
                self._data(stream, flags, body)
            elif kind == CANCEL:
                self._cancel(stream)
            elif kind == WINDOW:
                self._window(stream, head)
            else:
                raise Violation(f"kind {kind} from a router")

    def _is_new(self, stream: int) -> bool:
        return 0 < (stream - self._highest) & 0xFFFFFFFF < _HALF

    def _open(self, stream: int, flags: int, slot: int, head: bytes, body: bytes) -> None:
        if not stream or (stream <= self._highest and not self._is_new(stream)):
            raise Violation(f"stream {stream} opened twice")
        if flags & CALL and self.role != "handle":
            raise Violation("a Python call from an ingress")
        try:
            asked = heads.decode_invoke(head) if flags & CALL else heads.decode_open(head)
        except (ValueError, RecursionError) as error:  # not valid UTF-8, and too deep, are no msgspec errors
            raise Violation(f"a head that cannot be read: {error}") from None
        self._highest = stream
        refusal = self._intake.admit(self)
        if refusal:
            self.link.send_now(codec.frame(REJECT, stream, END, refusal, load=self._load()))
            return
        deadline = time.monotonic() + asked.time_left_ms / 1000
        noted = slot or (0 if flags & NOT_IDEMPOTENT else None)
        work = self._works[stream] = Work(self, stream, asked, deadline, noted, body)
        if flags & END:
            self._intake.ready(work)
        elif self._intake.streams and not flags & CALL:
            work.inflow = Inflow(lambda size: self._grant(stream, size), self._intake.hold)
            self._intake.ready(work)

    def _grant(self, stream: int, size: int) -> None:
        self.link.send_now(codec.frame(WINDOW, stream, 0, size.to_bytes(4, "little"), load=self._load()))

    def _data(self, stream: int, flags: int, piece: bytes | memoryview) -> None:
        work = self._works.get(stream)
        if work is None:
            return  # of a call that has ended here; its sender does not know yet
        if work.inflow is not None:
            work.inflow.feed(piece, bool(flags & END))
            return
        if work.queued:
            raise Violation(f"DATA on stream {stream} after its end")
        work.pieces.append(piece)
        work.received += len(piece)
        if flags & END:
            # A Python value's body is writable, so that the arrays made from it are.
            work.body = (bytearray() if isinstance(work.head, Invoke) else b"").join(work.pieces)
            work.pieces = []
            self._intake.ready(work)
        elif work.received >= _GRANT_STEP:
            credit, work.received = work.received, 0
            self._grant(stream, credit)

    def _cancel(self, stream: int) -> None:
        work = self._works.get(stream)
        if work is None:
            return
        work.give_up()
        self._give_up(work)

    def _give_up(self, work: Work) -> None:
        """Stop what goes out for a call that nobody waits for; who still makes its answer ends it."""
        outflow = self._outflows.get(work.stream)
        if outflow is not None:
            ended = outflow.ended
            outflow.drop()
            if ended:
                self.drop(work)
        elif not work.queued or self._intake.withdraw(work):
            self.drop(work)

    def _window(self, stream: int, head: bytes) -> None:
        outflow = self._outflows.get(stream)
        if outflow is None:
            return
        if len(head) != 4:
            raise Violation(f"WINDOW of {len(head)} bytes on stream {stream}")
        outflow.grant(int.from_bytes(head, "little"))
        self.link.flush()

    # -- out ----------------------------------------------------------------------------------------

    def _load(self) -> int:
        return min(self._intake.admitted, 0xFFFF)

    def _claim(self, work: Work) -> bool:
        """Take the right to send the last frame of `work`; False if it has ended. One thread only gets it."""
        if self._works.pop(work.stream, None) is not work:
            return False
        work.ended = True
        work.on_cancel = None  # it refers back to the call: a cycle for each would keep the garbage collector busy
        if work.inflow is not None:
            work.inflow.cut("the call has ended")
        # Its slot goes to whoever is next, not to the router that hears of it first.
        if self._intake.crowded and self._intake.enlist(self):
            self.link.send(codec.frame(REJECT, 0, 0, heads.BUSY, load=self._load()))
        return True

    def _end(self, work: Work, kind: int, flags: int, head: bytes, body: bytes = b"") -> None:
        """Send the last frame of `work`, unless it has ended, and give its slot back.

        Raises:
            ValueError: head and body are too large for a frame; the call has not ended.
        """
        load = self._load()
        data = codec.frame(kind, work.stream, flags | END, head, body, load - 1 if load else 0)
        if self._claim(work):
            self._outflows.pop(work.stream, None)
            self.link.send(data)
            self._intake.release(self)
            self.dirty(self.link)

    def started(self, work: Work) -> None:
        """Say that user code is about to be entered, if the router asked to know."""
        slot = work.slot
        if slot is None:
            return
        board = self._board
        if slot and board is not None:
            board.note(slot, work.stream)
        else:
            self.link.send_now(codec.frame(STARTED, work.stream, load=self._load()))

    def answer(self, work: Work, status: int, headers: bytes, body: bytes, size: int = -1) -> None:
        """Send an HTTP answer; to a HEAD `size` says how long the body of a GET would be, if that is known."""
        head = heads.encode(Answer(status, headers, len(body) if size < 0 else size))
        if len(body) <= codec.MAX_SMALL:
            self._end(work, HEAD, 0, head, body)
        else:
            self._send_large(work, 0, head, [body])

    def value(self, work: Work, sizes: list[int], parts: list[bytes | memoryview]) -> None:
        """Send a Python answer."""
        head = heads.encode(Value(sizes))
        if sum(sizes) <= codec.MAX_SMALL:
            self._end(work, HEAD, CALL, head, b"".join(parts))
        else:
            self._send_large(work, CALL, head, parts)

    def fail(self, work: Work, failure: Failure, pickled: bytes = b"") -> None:
        """Send a failure; `pickled` is the exception itself, for a Python caller."""
        if len(pickled) > _MOST_PICKLED:
            pickled = b""
        failure.detail = _shortened(failure.detail)
        failure.traceback = _shortened(failure.traceback)
        self._end(work, FAIL, CALL if pickled else 0, heads.encode(failure), pickled)

    def drop(self, work: Work) -> None:
        """End a call that its caller gave up."""
        self.fail(work, Failure("cancelled", "the caller gave the call up"))
        self.link.flush()

    def expire(self, work: Work) -> None:
        """Refuse a call whose time was up before user code was entered."""
        self._end(work, REJECT, 0, heads.EXPIRED)
        self.link.flush()

    def free(self, now: bool = True) -> None:
        """Offer the router a free slot; without `now` the frame leaves with the next flush."""
        self.link.send(codec.frame(codec.FREE, 0, load=self._load()))
        if now:
            self.link.flush()

    def go_away(self) -> None:
        """Tell the router that this replica takes no new calls."""
        self.link.send_now(codec.frame(codec.GOAWAY, 0, load=self._load()))

    def begin(self, work: Work, status: int, headers: bytes, size: int = -1) -> Outflow:
        """Send the head of an HTTP answer whose body is made bit by bit; return where the body goes.

        `size` is how long it will be, -1 if that is not known.
        """
        return self._begin(work, 0, heads.encode(Answer(status, headers, size)))

    def begin_values(self, work: Work) -> Outflow:
        """Send the head of a stream of Python values; return where they go."""
        return self._begin(work, CALL, heads.encode(Value([], True)))

    def begun(self, work: Work) -> bool:
        """Return whether the head of an answer is on its way."""
        return work.stream in self._outflows

    def _begin(self, work: Work, flags: int, head: bytes) -> Outflow:
        def seal() -> bool:
            self._outflows.pop(work.stream, None)
            if not self._claim(work):
                return False
            self._intake.release()
            return True

        outflow = Outflow(self.link, work.stream, self._load, seal)
        if work.ended:
            outflow.drop()
            return outflow
        self.link.send(codec.frame(HEAD, work.stream, flags, head, load=self._load()))
        self._outflows[work.stream] = outflow
        if work.cancelled:  # asked after the line above: a CANCEL on another thread either sees it or is seen here
            outflow.drop()
        return outflow

    def _send_large(self, work: Work, flags: int, head: bytes, parts: list[bytes | memoryview]) -> None:
        outflow = self._begin(work, flags, head)
        outflow.push(parts, end=True)
        if work.cancelled:
            self.drop(work)
        self.dirty(self.link)

    # -- the end ------------------------------------------------------------------------------------

    def lost(self) -> None:
        """Hear that the link is gone: every call on it is given up."""
        self.gone = True
        self._intake.leave(self)
        for work in list(self._works.values()):
            work.give_up()
            self._give_up(work)
        # Not closed: the thread of user code may be about to write to it.
        self._board = None


def _shortened(text: str) -> str:
    """Return a text that fits into a frame; of a traceback the end tells most."""
    return text if len(text) <= _MOST_TEXT else f"… {text[-_MOST_TEXT:]}"
