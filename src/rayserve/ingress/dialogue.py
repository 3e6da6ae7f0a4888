"""What a client and an app say to each other over one WebSocket, sans-I/O.

    bytes of the client ─► feed ─► websockets.Protocol (RFC 6455) ─► whole messages, as they travel to the app
                             └─ small whole messages with nothing before them: at once ─┘
    bytes for the client ◄─ writes ◄─ websockets.Protocol ◄─ MessageDecoder ◄─ say(bytes from the app)

Clients' messages are checked and bounded here: over 1 MiB ends with 1009, text that is no UTF-8 with 1007, and broken
framing with 1002. Long messages of an app leave in fragments. Pings are answered; no extension is spoken.
"""

from __future__ import annotations

import logging
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from rayserve.wire import messages
from rayserve.wire.messages import ABNORMAL, BINARY, MAX_MESSAGE, TEXT, MessageDecoder

try:  # it is compiled where websockets came as a wheel
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = ["Dialogue"]

_QUIET: Final = logging.Logger("websockets", logging.WARNING)  # a line per connection would be too much
_TOO_BIG, _NO_TEXT = 1009, 1007

# The first byte of a frame that is a message by itself: FIN, no reserved bit, the opcode (RFC 6455 section 5.2).
_KINDS: Final = {0x80 | Opcode.TEXT: TEXT, 0x80 | Opcode.BINARY: BINARY}
_FIRST: Final = {kind: first for first, kind in _KINDS.items()}
_MASKED: Final = 0x80
_SMALL: Final = 126  # sizes from here on take more than the second byte
_HEADER: Final = 6  # bytes before the payload of a small frame that is masked


class _Protocol(Protocol):
    """The careful way, and what it takes to go past it.

    Attributes:
        between: all bytes of the client belong to whole frames; the next one begins a frame.
    """

    between = True

    def receive_data(self, data: bytes | bytearray) -> None:
        """Take bytes of the client."""
        self.between = False
        super().receive_data(data)

    def recv_frame(self, frame: Frame) -> None:
        """Take a whole frame, which has left the reader's buffer."""
        super().recv_frame(frame)
        self.between = not self.reader.buffer

    def send_small(self, kind: int, payload: bytes) -> None:
        """Send a whole message of less than 126 bytes; no message may be under way."""
        self.writes.append(bytes((_FIRST[kind], len(payload))) + payload)


class Dialogue:
    """One WebSocket after its 101."""

    __slots__ = ("_decoder", "_kind", "_long", "_protocol")

    def __init__(self) -> None:
        """Start where neither side has said anything."""
        # Only single frames are limited there: beside a long message in fragments its limit would forbid pings.
        self._protocol = _Protocol(Side.SERVER, max_size=(None, MAX_MESSAGE), logger=_QUIET)
        self._decoder = MessageDecoder()
        self._kind = 0  # of the client's message that comes in fragments
        self._long = bytearray()  # its bytes so far

    @property
    def open(self) -> bool:
        """Whether neither side has closed."""
        return self._protocol.state is State.OPEN

    @property
    def idle(self) -> bool:
        """Whether it is open and nothing is to be sent to the client."""
        protocol = self._protocol
        return protocol.state is State.OPEN and not protocol.writes

    @property
    def end(self) -> tuple[int, str] | None:
        """Code and reason of the client's end, however it came; None while the client is there."""
        protocol = self._protocol
        if protocol.close_rcvd is not None:
            return protocol.close_rcvd.code, protocol.close_rcvd.reason
        if protocol.eof_sent:  # it broke a rule
            return (protocol.close_sent.code if protocol.close_sent is not None else ABNORMAL), ""
        return None

    @property
    def held(self) -> int:
        """Bytes of the client's message that has begun and is not whole."""
        return len(self._long) + len(self._protocol.reader.buffer)

    # -- the client ---------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client; return the messages they complete, encoded for the app."""
        whole: list[bytes] = []
        taken = self._take_small(data, whole)
        if taken < len(data):
            self._take(data[taken:] if taken else data, whole)
        return whole[0] if len(whole) == 1 else b"".join(whole)

    def _take_small(self, data: bytes, whole: list[bytes]) -> int:
        """Add the messages that `data` begins with to `whole`, as long as they are small; return their size in `data`.

        What is not a whole message in one right frame is left to `_take`, and so is everything behind it.
        """
        protocol = self._protocol
        if self._kind or not protocol.between or protocol.state is not State.OPEN:
            return 0
        position, end = 0, len(data)
        while end - position >= _HEADER:
            kind, size = _KINDS.get(data[position]), data[position + 1] - _MASKED
            start = position + _HEADER
            if kind is None or not 0 <= size < _SMALL or start + size > end:
                break
            payload = apply_mask(data[start : start + size], data[start - 4 : start])
            if kind == TEXT:
                try:
                    str(payload, "utf-8")
                except UnicodeDecodeError:
                    break
            whole.append(messages.encode_message(kind, payload))
            position = start + size
        return position

    def _take(self, data: bytes, whole: list[bytes]) -> None:
        """Add the messages that `data` completes to `whole`, whatever it is."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and not self._gather(event, whole):
                break

    def _gather(self, frame: Frame, whole: list[bytes]) -> bool:
        """Add the message that `frame` completes to `whole`; False if it broke a rule, which ends the dialogue."""
        if frame.opcode is not Opcode.CONT:
            self._kind = TEXT if frame.opcode is Opcode.TEXT else BINARY
        payload = frame.data
        if self._long or not frame.fin:
            if len(self._long) + len(payload) > MAX_MESSAGE:
                self._break_off(_TOO_BIG, f"a message may have {MAX_MESSAGE} bytes")
                return False
            self._long += payload
            if not frame.fin:
                return True
            payload, self._long = self._long, bytearray()
        kind, self._kind = self._kind, 0
        if kind == TEXT:
            try:
                str(payload, "utf-8")
            except UnicodeDecodeError as error:
                self._break_off(_NO_TEXT, f"invalid UTF-8 at byte {error.start}")
                return False
        whole.append(messages.encode_message(kind, payload))
        return True

    def _break_off(self, code: int, why: str) -> None:
        if not self._protocol.eof_sent:  # a frame behind this one, in the same read, may have ended it already
            self._protocol.fail(code, why)

    def hang_up(self) -> None:
        """Hear that the client sends no more."""
        self._protocol.receive_eof()
        self._long.clear()

    # -- the app, and we ----------------------------------------------------------------------------

    def say(self, data: bytes | memoryview) -> None:
        """Take bytes of the app; what comes after either side's close is dropped.

        Raises:
            Violation: they are no messages.
        """
        protocol = self._protocol
        if protocol.state is not State.OPEN:
            return
        for kind, payload, first, last in self._decoder.feed(data):
            if kind == messages.CLOSE:
                self.close(*messages.read_close(payload))
                return
            if first and last and len(payload) < _SMALL:
                protocol.send_small(kind, payload)
            elif not first:
                protocol.send_continuation(payload, last)
            elif kind == TEXT:
                protocol.send_text(payload, last)
            else:
                protocol.send_binary(payload, last)

    def ping(self) -> None:
        """Ask the client whether it is there."""
        self._protocol.send_ping(b"")

    def close(self, code: int, reason: str = "") -> bool:
        """Ask the client to close; False if either side has already."""
        if self._protocol.state is not State.OPEN:
            return False
        self._protocol.send_close(code, messages.shortened(reason))
        return True

    def give_up(self, code: int, reason: str) -> None:
        """End it without waiting for the client."""
        self._break_off(code, reason)

    def writes(self) -> tuple[bytes, bool]:
        """Return what is to be sent to the client now, and whether it is the last there will ever be."""
        pieces = self._protocol.data_to_send()
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), bool(pieces) and not pieces[-1]
