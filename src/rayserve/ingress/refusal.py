"""Why a request is not served: the one exception of the HTTP room, the limits on heads, and the search for the reason.

    bytes so far ─► check_partial ─► nothing, or Refusal 400/414/431 while they still arrive
    a head that the strict pattern refused ─► explain ─► Refusal 400/501/505 that says which byte sequence was at fault

`explain` runs only for requests that are refused anyway, so it may be slow but never quadratic. A refused connection
must close: what follows may be the body of something we did not understand (RFC 9112 sections 6.3 and 11.2).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from rayserve.ingress.grammar import FIELD_LINE, METHODS, TOKEN

__all__ = ["Limits", "Refusal", "bad_request", "check_partial", "check_size", "explain", "not_implemented", "shown"]


class Limits(msgspec.Struct, frozen=True):
    """Bounds on what a client may send outside the body; all in bytes but `max_headers`."""

    max_request_line: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_chunk_extension_bytes: int = 1024
    max_trailer_bytes: int = 8 * 1024


class Refusal(Exception):
    """A request we answer ourselves and never forward; the connection closes after that answer.

    Attributes:
        status: HTTP status of the answer.
        reason: a word of `rayserve.errors.REASONS`; here `bad_request`, `not_implemented` or `too_large`.
        detail: one lower-case sentence for the client, in printable ASCII.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail


def bad_request(detail: str) -> Refusal:
    """Return the 400 for a request that breaks the protocol."""
    return Refusal(400, "bad_request", detail)


def not_implemented(detail: str) -> Refusal:
    """Return the 501 for a request that is well-formed but asks for what this server does not have."""
    return Refusal(501, "not_implemented", detail)


def shown(value: bytes | str) -> str:
    """Return a client's bytes quoted, escaped and cut to 64 characters, safe in answers and logs."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    return ascii(text if len(text) <= 64 else text[:64] + "...")


def check_partial(buffer: bytes | bytearray, limits: Limits) -> None:
    """Refuse early what can no longer become a head within the limits; call while CRLFCRLF is not there yet.

    Linear in the buffer, which the limits bound (about 72 KiB by default).

    Args:
        buffer: all bytes of this head so far, leading empty lines skipped.
        limits: the same as for `parse_head`.

    Raises:
        Refusal: 400 for bytes that cannot start a request or for a bare LF, 414 or 431 for too much.
    """
    if not buffer or buffer == b"\r":  # half of an empty line
        return
    newlines = buffer.count(b"\n")
    if TOKEN.match(buffer) is None:
        raise bad_request("the first byte cannot start a method; is this TLS sent to a plain HTTP port?")
    if newlines != buffer.count(b"\r\n"):
        raise bad_request("a line ends in a bare LF; HTTP/1.1 lines end in CRLF")  # RFC 9112 section 2.2
    check_size(buffer, newlines - 1, limits)


def check_size(buffer: bytes | bytearray, headers: int, limits: Limits) -> None:
    """Refuse a whole or partial head that is over a limit.

    Args:
        buffer: the head, or what there is of it.
        headers: number of field lines in it, negative while the request line is incomplete.
        limits: the bounds.

    Raises:
        Refusal: 414 for the request line (RFC 9110 section 15.5.15), 431 for the fields (RFC 6585 section 5).
    """
    end = buffer.find(b"\r\n", 0, limits.max_request_line + 2)
    if end < 0:
        if len(buffer) >= limits.max_request_line + 2:
            raise Refusal(414, "too_large", f"the request line is longer than {limits.max_request_line} bytes")
        return
    if len(buffer) - end - 2 > limits.max_header_bytes:
        raise Refusal(431, "too_large", f"the header fields are longer than {limits.max_header_bytes} bytes")
    if headers > limits.max_headers:
        raise Refusal(431, "too_large", f"the request has more than {limits.max_headers} header fields")


_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_BAD_ESCAPE: Final = re.compile(rb"%(?:00|(?![0-9A-Fa-f]{2}))")
_BAD_BYTE: Final = re.compile(rb'["<>\\^`{}]')
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")


def explain(raw: bytes) -> Refusal:
    """Return why the strict pattern refused a head.

    Args:
        raw: everything up to and including CRLFCRLF, known not to match `ORIGIN_FORM` or to be misused `OTHER_FORM`.
    """
    if _BARE.search(raw) is not None:
        return bad_request("the head holds a bare CR or LF; HTTP/1.1 lines end in CRLF")
    line, *lines = raw.split(b"\r\n")
    if len(lines) < 2 or lines[-1] or lines[-2] or b"" in lines[:-2]:
        return bad_request("the head must end in exactly one empty line")
    return _explain_line(line) or _explain_fields(lines[:-2]) or bad_request("the head does not parse")


def _explain_line(line: bytes) -> Refusal | None:
    """Return what is wrong with a request line (RFC 9112 section 3), if anything."""
    parts = line.split(b" ")
    if len(parts) != 3 or TOKEN.fullmatch(parts[0]) is None or not parts[1]:
        return bad_request("the request line must be method, target and HTTP/1.1 with one space between")
    method, target, version = parts
    if _VERSION.fullmatch(version) is None:
        return bad_request("the request line must end in HTTP/1.1")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        return Refusal(505, "not_implemented", f"{version.decode()} is not served here; use HTTP/1.1")
    if method not in METHODS:
        return not_implemented(f"method {shown(method)} is not implemented here")
    if b"#" in target:
        return bad_request("the target holds a fragment; leave out everything from the # on")
    if any(byte <= 0x20 or byte >= 0x7F for byte in target):
        return bad_request("the target holds bytes that are not visible ascii; percent-encode them")
    if target == b"*":
        return None if method == b"OPTIONS" else bad_request(f"target * goes with OPTIONS only, not {method.decode()}")
    scheme = _SCHEME.match(target)
    if scheme is not None and scheme[0].lower() not in (b"http://", b"https://"):
        return bad_request(f"the target's scheme {shown(scheme[0])} is not served here; use http")
    if scheme is None and not target.startswith(b"/"):
        return bad_request(f"target {shown(target)} must start with /")
    path = target[scheme.end() :] if scheme else target
    if _BAD_ESCAPE.search(path.partition(b"?")[0]) is not None:
        return bad_request("the target's path holds a % that two hex digits do not follow, or %00")
    if _BAD_BYTE.search(path.partition(b"?")[0]) is not None:
        return bad_request('the target holds one of " < > \\ ^ ` { }; percent-encode them')
    return None


def _explain_fields(lines: list[bytes]) -> Refusal | None:
    """Return what is wrong with the first bad field line (RFC 9112 section 5), if any."""
    for line in lines:
        if FIELD_LINE.fullmatch(line + b"\r\n") is not None:
            continue
        name, colon, _ = line.partition(b":")
        if line[0] in b" \t":
            return bad_request("a header field is folded over two lines; send it on one")
        if not colon:
            return bad_request(f"header line {shown(line)} has no colon")
        if not name:
            return bad_request("a header field has an empty name")
        if name[-1] in b" \t":
            return bad_request(f"header field {shown(name)} has a space before its colon")
        if TOKEN.fullmatch(name) is None:
            return bad_request(f"header name {shown(name)} holds characters that names may not have")
        return bad_request(f"the value of header field {shown(name)} holds a control byte")
    return None
