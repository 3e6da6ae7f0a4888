"""A session: the replica's end of one link, and the calls on it.

    frames ─► OPEN ─► intake.admit ─► Work ─► (DATA…) ─► intake.ready
    user code's result ─► reply ─► HEAD | FAIL | REJECT (+ DATA under the router's credit)

Every OPEN gets exactly one terminal frame, whatever happens; `Work.ended` is the guard.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from rayserve.replica.work import Work
from rayserve.wire import codec, heads
from rayserve.wire.board import Board
from rayserve.wire.codec import CALL, CANCEL, DATA, END, FAIL, HEAD, NOT_IDEMPOTENT, OPEN, PING, REJECT, WINDOW
from rayserve.wire.heads import Answer, Failure, Value
from rayserve.wire.link import Link

if TYPE_CHECKING:
    from rayserve.replica.intake import Intake

__all__ = ["Session"]

_log = logging.getLogger(__name__)
_GRANT_STEP: Final = 64 * 1024


class _Download:
    """A large answer on its way out, under the router's credit."""

    __slots__ = ("credit", "left", "lock", "parts", "work")

    def __init__(self, work: Work, parts: list[bytes | memoryview]) -> None:
        self.work = work
        self.parts = [memoryview(part).cast("B") for part in reversed(parts) if len(part)]
        self.left = sum(len(part) for part in self.parts)
        self.credit = codec.CREDIT
        self.lock = threading.Lock()

    def take(self) -> list[memoryview]:
        """Return the next pieces, at most one DATA frame and never more than the credit."""
        room = min(codec.MAX_DATA, self.credit)
        pieces = []
        while room and self.parts:
            part = self.parts.pop()
            if len(part) > room:
                self.parts.append(part[room:])
                part = part[:room]
            pieces.append(part)
            room -= len(part)
            self.left -= len(part)
            self.credit -= len(part)
        return pieces


class Session:
    """One router's link, after its handshake."""

    __slots__ = ("_board", "_downloads", "_highest", "_intake", "_works", "dirty", "link", "role")

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
        self._board = board
        self._intake = intake
        self._works: dict[int, Work] = {}
        self._downloads: dict[int, _Download] = {}
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
            elif kind == DATA:
                self._data(stream, flags, body)
            elif kind == CANCEL:
                self._cancel(stream)
            elif kind == WINDOW:
                self._window(stream, head)
            elif kind == PING:
                self.link.send_now(codec.frame(codec.PONG, 0, load=self._load()))
            else:
                raise codec.Violation(f"kind {kind} from a router")

    def _open(self, stream: int, flags: int, slot: int, head: bytes, body: bytes) -> None:
        if stream in self._works or not stream:
            raise codec.Violation(f"stream {stream} opened twice")
        refusal = self._intake.admit(self)
        if refusal:
            self.link.send_now(codec.frame(REJECT, stream, END, refusal, load=self._load()))
            return
        if flags & CALL and self.role != "handle":
            raise codec.Violation("a Python call from an ingress")
        try:
            asked = heads.decode_invoke(head) if flags & CALL else heads.decode_open(head)
        except msgspec.MsgspecError as error:
            raise codec.Violation(f"a head that cannot be read: {error}") from None
        deadline = time.monotonic() + asked.time_left_ms / 1000
        work = Work(self, stream, asked, deadline, slot if flags & NOT_IDEMPOTENT else None, body)
        self._works[stream] = work
        if flags & END:
            self._intake.ready(work)

    def _data(self, stream: int, flags: int, piece: bytes | memoryview) -> None:
        work = self._works.get(stream)
        if work is None or work.ended:
            return  # of a call that has ended here; its sender does not know yet
        work.pieces.append(piece)
        work.received += len(piece)
        if flags & END:
            work.body = b"".join(work.pieces)
            work.pieces = []
            self._intake.ready(work)
        elif work.received >= _GRANT_STEP:
            credit, work.received = work.received, 0
            self.link.send_now(codec.frame(WINDOW, stream, 0, credit.to_bytes(4, "little"), load=self._load()))

    def _cancel(self, stream: int) -> None:
        work = self._works.get(stream)
        if work is None or work.ended:
            return
        work.give_up()
        download = self._downloads.get(stream)
        if download is not None:
            with download.lock:
                download.parts.clear()
                download.left = 0
            self._pump(download)
        elif not work.queued:
            self.drop(work)

    def _window(self, stream: int, head: bytes) -> None:
        download = self._downloads.get(stream)
        if download is not None:
            with download.lock:
                download.credit += int.from_bytes(head, "little")
            self._pump(download)
            self.link.flush()

    # -- out ----------------------------------------------------------------------------------------

    def _load(self) -> int:
        return min(self._intake.admitted, 0xFFFF)

    def _end(self, work: Work) -> bool:
        """Mark the end of `work`; False if it had ended before."""
        if work.ended:
            return False
        work.ended = True
        self._works.pop(work.stream, None)
        self._intake.release()
        return True

    def started(self, work: Work) -> None:
        """Say that user code is about to be entered, if the router asked to know."""
        slot = work.slot
        if slot is None:
            return
        if slot and self._board is not None:
            self._board.note(slot, work.stream)
        else:
            self.link.send_now(codec.frame(codec.STARTED, work.stream, load=self._load()))

    def answer(self, work: Work, status: int, headers: bytes, body: bytes) -> None:
        """Send an HTTP answer."""
        size = len(body)
        head = heads.encode(Answer(status, headers, size))
        if size <= codec.MAX_SMALL:
            if self._end(work):
                self.link.send(codec.frame(HEAD, work.stream, END, head, body, self._load()))
                self.dirty(self.link)
        else:
            self._send_large(work, 0, head, [body])

    def value(self, work: Work, sizes: list[int], parts: list[bytes | memoryview]) -> None:
        """Send a Python answer."""
        head = heads.encode(Value(sizes))
        if sum(sizes) <= codec.MAX_SMALL:
            if self._end(work):
                self.link.send(codec.frame(HEAD, work.stream, CALL | END, head, b"".join(parts), self._load()))
                self.dirty(self.link)
        else:
            self._send_large(work, CALL, head, parts)

    def fail(self, work: Work, failure: Failure, pickled: bytes = b"") -> None:
        """Send a failure; `pickled` is the exception itself, for a Python caller."""
        if self._end(work):
            flags = END | CALL if pickled else END
            self.link.send(codec.frame(FAIL, work.stream, flags, heads.encode(failure), pickled, self._load()))
            self.dirty(self.link)

    def drop(self, work: Work) -> None:
        """End a call that its caller gave up."""
        self.fail(work, Failure("cancelled", "the caller gave the call up"))
        self.link.flush()

    def expire(self, work: Work) -> None:
        """Refuse a call whose time was up before user code was entered."""
        if self._end(work):
            self.link.send_now(codec.frame(REJECT, work.stream, END, heads.EXPIRED, load=self._load()))

    def free(self) -> None:
        """Tell a router that was refused that a slot is free."""
        self.link.send_now(codec.frame(codec.FREE, 0, load=self._load()))

    def go_away(self) -> None:
        """Tell the router that this replica takes no new calls."""
        self.link.send_now(codec.frame(codec.GOAWAY, 0, load=self._load()))

    def _send_large(self, work: Work, flags: int, head: bytes, parts: list[bytes | memoryview]) -> None:
        if work.ended:
            return
        download = self._downloads[work.stream] = _Download(work, parts)
        self.link.send(codec.frame(HEAD, work.stream, flags, head, load=self._load()))
        self._pump(download)
        self.dirty(self.link)

    def _pump(self, download: _Download) -> None:
        work, link = download.work, self.link
        with download.lock:
            while not work.ended and (download.credit or not download.left):
                pieces = download.take()
                last = not download.left
                if last:
                    self._downloads.pop(work.stream, None)
                    self._end(work)
                size = sum(len(piece) for piece in pieces)
                link.send_all([codec.data_header(work.stream, END if last else 0, size, self._load()), *pieces])

    # -- the end ------------------------------------------------------------------------------------

    def lost(self) -> None:
        """Hear that the link is gone: every call on it is given up."""
        self._intake.forget(self)
        for work in list(self._works.values()):
            work.give_up()
            if not work.queued or work.stream in self._downloads:
                self._end(work)
        self._downloads.clear()
        board, self._board = self._board, None
        if board is not None:
            board.close()
