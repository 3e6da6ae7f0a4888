"""Request bodies: bytes that follow a head in, pieces of body out, and where the next request begins.

    head ─► body_of ─► Length | Chunked          data ─► .feed(data, start) ─► pieces, end      until .done

The connection protocol feeds what it read, forwards the pieces and takes `data[end:]` for the next request once `done`
is true. Cost is linear in the bytes however they are cut up, and constant per chunk; trailers are checked and dropped.
Pieces of 16 KiB and more are views into `data`, so nothing large is copied. Nothing here knows a socket or a clock.
"""

from __future__ import annotations

import re
from typing import Final

from rayserve.ingress.grammar import FIELD_LINE
from rayserve.ingress.head import Head
from rayserve.ingress.refusal import Limits, Refusal, bad_request, shown

__all__ = ["Chunked", "Length", "Piece", "body_of"]

Piece = bytes | memoryview

_VIEW_FROM: Final = 16 * 1024  # below that a copy costs less than a view
_JOIN_FROM: Final = 16  # pieces of one feed beyond that are tiny chunks: their overhead would outweigh the bytes


def body_of(head: Head, max_bytes: int, limits: Limits) -> Length | Chunked:
    """Return the decoder for the body that follows a head; without a body it is `done` at once.

    Args:
        head: the accepted head.
        max_bytes: largest body taken.
        limits: bounds on chunk extensions and trailers.

    Raises:
        Refusal: 413 for a declared length over `max_bytes`, before any body byte is read.
    """
    if head.chunked:
        return Chunked(max_bytes, limits)
    length = head.content_length or 0
    if length > max_bytes:
        raise _too_large(max_bytes)
    return Length(length)


class Length:
    """A body of a known number of bytes (RFC 9112 section 6.2).

    Attributes:
        done: whether the whole body was handed out.
        left: bytes still to come.
    """

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: Piece, start: int = 0) -> tuple[list[Piece], int]:
        """Take body bytes from `data[start:]`.

        Args:
            data: bytes received; a view into a buffer that is written again must be copied by the caller.
            start: where they begin.

        Returns:
            The pieces of body, none empty, and the index in `data` behind the last byte taken.
        """
        end = len(data)
        if end - start >= self.left:
            end = start + self.left
            self.done = True
        self.left -= end - start
        return ([_cut(data, start, end)] if end > start else []), end


# RFC 9112 section 7.1. The CRLF behind a chunk's data is read with the next size line: one match per chunk.
_FIRST_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)\r\n")
_NEXT_SIZE: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,16}+)\r\n")
_NAME: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"[^"\\\x00-\x08\x0a-\x1f\x7f]*+(?:\\[\t -~\x80-\xff][^"\\\x00-\x08\x0a-\x1f\x7f]*+)*+"'
_EXTENSION: Final = (
    rb";[ \t]*+" + _NAME + rb"(?:[ \t]*+=[ \t]*+(?:" + _NAME + rb"|" + _QUOTED + rb"))?(?:[ \t]++(?=;))?"
)
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)((?:" + _EXTENSION + rb")*)")
_SIZE_LINE_BEGUN: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,16}+(?:;[^\r\n]*+)?\r?)?")


class Chunked:
    """A chunked body (RFC 9112 section 7.1), strict: CRLF only, plain hex sizes, bounded extensions and trailers.

    Attributes:
        done: whether the last chunk and the trailers were read.
        room: bytes the body may still grow by beyond the chunks announced so far.
    """

    __slots__ = ("_extension_left", "_held", "_in_trailers", "_left", "_limits", "_max_bytes", "_sizes",
                 "_trailer_left", "_trailers", "done", "room")  # fmt: skip

    def __init__(self, max_bytes: int, limits: Limits) -> None:
        """Start before the first size line.

        Args:
            max_bytes: largest body taken.
            limits: bounds on chunk extensions and trailers.
        """
        self.done = False
        self.room = max_bytes
        self._max_bytes = max_bytes
        self._limits = limits
        self._extension_left = limits.max_chunk_extension_bytes
        self._trailer_left = limits.max_trailer_bytes
        self._trailers = 0
        self._in_trailers = False
        self._left = 0  # of the current chunk's data
        self._sizes = _FIRST_SIZE
        self._held = b""  # an incomplete size or trailer line; bounded by the limits

    def feed(self, data: bytes, start: int = 0) -> tuple[list[Piece], int]:
        """Take body bytes from `data[start:]`.

        Args:
            data: bytes received, at least one from `start` on.
            start: where they begin.

        Returns:
            The pieces of body, none empty, and the index in `data` behind the last byte taken.

        Raises:
            Refusal: 400 for broken framing, 413 for a body and 431 for trailers over the limit.
        """
        pieces: list[Piece] = []
        shift = 0
        pos = start
        if self._held:
            shift = len(self._held) - start
            data = self._held + data[start:]
            self._held = b""
            pos = 0
        size = len(data)
        left, sizes = self._left, self._sizes
        while pos < size and not self.done:
            if left:
                end = min(pos + left, size)
                pieces.append(data[pos:end] if left < _VIEW_FROM else _cut(data, pos, end))
                left -= end - pos
                pos = end
                continue
            if self._in_trailers:
                pos = self._trailer(data, pos)
                continue
            match = sizes.match(data, pos)
            if match is not None:
                left = int(match[1], 16)
                pos = match.end()
            else:
                left, pos = self._odd_size(data, pos)
                if self._held:
                    break
            self.room -= left
            if self.room < 0:
                raise _too_large(self._max_bytes)
            if not left:
                self._in_trailers = True
            sizes = self._sizes = _NEXT_SIZE
        self._left = left
        if len(pieces) > _JOIN_FROM:
            pieces = [b"".join(pieces)]
        return pieces, pos - shift

    def _odd_size(self, data: bytes, pos: int) -> tuple[int, int]:
        """Read a size line with extensions, hold an incomplete one, or refuse."""
        begin = pos
        if self._sizes is _NEXT_SIZE:
            ending = data[pos : pos + 2]
            if ending == b"\r":
                self._held = ending
                return 0, pos + 1
            if ending != b"\r\n":
                raise bad_request("the data of a chunk is not followed by CRLF; its size is wrong")
            begin += 2
        end = data.find(b"\r\n", begin, begin + 16 + self._extension_left + 2)
        if end < 0:
            line = data[begin : begin + 16 + self._extension_left + 2]
            if _SIZE_LINE_BEGUN.fullmatch(line) is None:
                raise bad_request(f"chunk size line {shown(line)} is not a hex number of at most 16 digits and CRLF")
            if len(line) > 16 + self._extension_left + 1:
                raise self._extension_too_long()
            self._held = data[pos:]
            return 0, len(data)
        match = _SIZE_LINE.fullmatch(data, begin, end)
        if match is None:
            raise bad_request(
                f"chunk size line {shown(data[begin:end])} is not a hex number of at most 16 digits and CRLF"
            )
        self._extension_left -= len(match[2])
        if self._extension_left < 0:
            raise self._extension_too_long()
        return int(match[1], 16), end + 2

    def _extension_too_long(self) -> Refusal:
        limit = self._limits.max_chunk_extension_bytes
        return bad_request(f"the chunk extensions are longer than {limit} bytes in all")

    def _trailer(self, data: bytes, pos: int) -> int:
        """Check and drop one trailer line, or end the body at the empty one (RFC 9112 section 7.1.2)."""
        end = data.find(b"\r\n", pos, pos + self._trailer_left + 2)
        if end == pos:
            self.done = True
            return pos + 2
        if end < 0:
            line = data[pos : pos + self._trailer_left + 2]
            if b"\n" in line:
                raise bad_request("a trailer line ends in a bare LF; HTTP/1.1 lines end in CRLF")
            if len(line) > self._trailer_left + 1:
                raise self._trailers_too_large()
            self._held = data[pos:]
            return len(data)
        self._trailer_left -= end + 2 - pos
        self._trailers += 1
        if self._trailer_left < 0 or self._trailers > self._limits.max_headers:
            raise self._trailers_too_large()
        if FIELD_LINE.fullmatch(data, pos, end + 2) is None:
            raise bad_request(f"trailer line {shown(data[pos:end])} is not a header field")
        return end + 2

    def _trailers_too_large(self) -> Refusal:
        limits = self._limits
        return Refusal(
            431, "too_large", f"the trailers are over {limits.max_trailer_bytes} bytes or {limits.max_headers} fields"
        )


def _cut(data: Piece, start: int, end: int) -> Piece:
    if start == 0 and end == len(data):
        return data
    if end - start < _VIEW_FROM or isinstance(data, memoryview):
        return data[start:end]
    return memoryview(data)[start:end]


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {max_bytes} bytes")
