"""The head of a request: raw bytes up to and including the blank line in, a `Head` or a `Refusal` out.

    raw ─► one strict regex (RFC 9110/9112 grammar) ─► llhttp (fresh parser, extracts) ─► meaning ─► Head

Two parsers must agree before a request is served: the regex judges every byte, llhttp extracts the fields, and the
number of fields each saw must be the same. The connection protocol calls `skip_empty_lines` and `check_partial` while
bytes arrive, cuts at the first CRLFCRLF and calls `parse_head` once. Nothing here reads a body, a socket or a clock.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from rayserve.ingress.grammar import DROP, HOST, KEEP, METHODS, NAMES, ORIGIN_FORM, OTHER_FORM
from rayserve.ingress.refusal import (
    Limits,
    Refusal,
    bad_request,
    check_partial,
    check_size,
    explain,
    not_implemented,
    shown,
)

__all__ = [
    "Head",
    "Limits",
    "Refusal",
    "check_partial",
    "parse_head",
    "skip_empty_lines",
    "timeout_ms",
    "valid_request_id",
]

# Options of Connection that take no field out: those with a meaning of their own, fields already gone, and end-to-end
# fields, which RFC 9110 section 7.6.1 forbids to name there; without these the request would be another one.
_NO_NOMINEES: Final = frozenset(("close", "keep-alive", "upgrade", "te", "host", "content-length", "expect"))
_MAX_HOST: Final = 261  # 255 for the name (RFC 1035), 6 for the port
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")


class Head(msgspec.Struct, gc=False):
    """A request head that both parsers accepted.

    Attributes:
        method: upper-case token that llhttp knows; never CONNECT or TRACE.
        target: raw path, still percent-encoded, without the query; `*` only with OPTIONS.
        query: raw query without the `?`; its percent escapes are not checked.
        headers: end-to-end fields in order; names lower-case, values latin-1 text without outer whitespace.
        fields: those of the noted fields (`grammar.FATE`) that were sent; repeats are joined by `", "` (RFC 9110
            section 5.3).
        host: authority of the target URI as sent; empty only in HTTP/1.0.
        version: `(1, 0)` or `(1, 1)`.
        keep_alive: whether the client wants the connection kept (RFC 9112 section 9.3).
        content_length: None without the field; the body is then empty or chunked.
        chunked: whether the body is chunked; `content_length` is then None.
        expect_continue: whether the client waits for `100 Continue` before it sends its body.
        upgrade: value of a valid `Upgrade`, else empty. Never act on it before the body is complete (RFC 9110
            section 7.8): the body's bytes would be taken for the next protocol.
    """

    method: str
    target: str
    query: bytes
    headers: list[tuple[str, str]]
    fields: dict[str, str]
    host: str
    version: tuple[int, int]
    keep_alive: bool
    content_length: int | None
    chunked: bool
    expect_continue: bool
    upgrade: str


class _Lines(list[tuple[bytes, bytes]]):
    """The field lines as llhttp hands them over; unwanted callbacks are None, which costs it less than absent ones."""

    __slots__ = ()
    on_url = on_headers_complete = on_body = on_message_begin = on_message_complete = None
    on_chunk_header = on_chunk_complete = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.append((name, value))


def parse_head(raw: bytes, limits: Limits) -> Head:
    """Judge and read one request head.

    Args:
        raw: everything up to and including the first CRLFCRLF; leading empty lines already skipped.
        limits: bounds on the request line and the fields.

    Raises:
        Refusal: 400, 414, 417, 431, 501 or 505.
    """
    size, count = len(raw), raw.count(b"\n") - 2
    if size > limits.max_request_line or size > limits.max_header_bytes or count > limits.max_headers:
        check_size(raw, count, limits)
    authority = None
    match = ORIGIN_FORM.fullmatch(raw)
    if match is not None:
        verb, path, query, minor = match.groups(b"")
    else:
        verb, path, query, minor, authority = _other_form(raw)
    method = METHODS.get(verb)
    if method is None:
        raise not_implemented(f"method {shown(verb)} is not implemented here")

    lines = _Lines()
    objection = ""
    try:
        HttpRequestParser(lines).feed_data(raw)
    except HttpParserUpgrade:
        pass  # raised for each Upgrade llhttp believes in; the head itself is fine
    except HttpParserError as error:
        objection = str(error) or type(error).__name__
    if len(lines) != count:
        lines = _cut_by_hand(raw, count, objection)
    headers: list[tuple[str, str]] = []
    fields: dict[str, str] = {}
    for spelled, value in lines:
        name, fate = NAMES[spelled]
        text = value.strip().decode("latin-1")  # llhttp leaves trailing whitespace on
        if fate:
            if fate != DROP:
                fields[name] = f"{fields[name]}, {text}" if name in fields else text
            if fate != KEEP:
                continue
        headers.append((name, text))

    head = _meaning(method, path.decode("ascii"), query, headers, fields, minor == b"1", authority)
    if objection:
        raise bad_request(f"the head does not parse: {objection.lower()}")
    return head


def skip_empty_lines(buffer: bytes | bytearray, start: int = 0) -> int:
    """Return where the request line begins: up to eight empty lines before it are ignored (RFC 9112 section 2.2).

    Args:
        buffer: bytes received.
        start: where the previous request on this connection ended.
    """
    end = start + 16
    while start < end and buffer.startswith(b"\r\n", start):
        start += 2
    return start


def valid_request_id(value: str) -> bool:
    """Whether a client's `X-Request-Id` may be taken over: 1 to 128 visible ASCII characters."""
    return _REQUEST_ID.fullmatch(value) is not None


def timeout_ms(value: str) -> int:
    """Return the milliseconds of an `X-Request-Timeout-Ms`.

    Raises:
        Refusal: 400 for anything but a decimal number from 1 to 999999999.
    """
    if not (value.isascii() and value.isdecimal() and len(value) <= 9) or int(value) == 0:
        raise bad_request(f"x-request-timeout-ms {shown(value)} is not a number of milliseconds from 1 to 999999999")
    return int(value)


def _cut_by_hand(raw: bytes, count: int, objection: str) -> _Lines:
    """Cut a head that llhttp gave up half-way, so that our own checks can say what is wrong with it."""
    if not objection:
        raise bad_request(f"the head has {count} field lines that two parsers read differently")
    lines = _Lines()
    for line in raw.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        lines.append((name, value))
    return lines


def _other_form(raw: bytes) -> tuple[bytes, bytes, bytes, bytes, str | None]:
    """Read `OPTIONS *` or an absolute-form target (RFC 9112 section 3.2), else raise why the head is refused.

    Returns:
        Method, path, query, minor version, and the target's authority, which replaces Host (section 3.2.2).
    """
    match = OTHER_FORM.fullmatch(raw)
    if match is None:
        raise explain(raw)
    verb, authority, path, query, minor = match.groups()
    if authority is None:
        if verb != b"OPTIONS":
            raise explain(raw)
        return verb, b"*", b"", minor, None
    host = authority.decode("ascii")
    if len(host) > _MAX_HOST or not _is_authority(host):
        raise bad_request(f"the target's authority {shown(host)} is not one host name with an optional port")
    if path is None:
        # RFC 9112 section 3.2.4: OPTIONS on a whole server is spelled so towards a proxy.
        path = b"*" if verb == b"OPTIONS" and query is None else b"/"
    return verb, path, query or b"", minor, host


def _meaning(
    method: str,
    target: str,
    query: bytes,
    headers: list[tuple[str, str]],
    fields: dict[str, str],
    modern: bool,
    authority: str | None,
) -> Head:
    """Check the fields that route, frame or keep the connection, and build the Head; `modern` is HTTP/1.1."""
    host = fields.get("host")
    if host is None:
        if modern:  # RFC 9112 section 3.2; HTTP/1.0 has no such rule
            raise bad_request("the host field is missing; HTTP/1.1 wants exactly one")
        host = ""
    elif len(host) > _MAX_HOST or not _is_authority(host):
        raise bad_request(f"host {shown(host)} is not one host name with an optional port")
    if authority is not None:
        host = authority
        headers[:] = [("host", host), *(field for field in headers if field[0] != "host")]

    length, chunked = None, False
    sent, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        _check_coding(coding, modern, sent)
        chunked = True
    elif sent is not None:
        # RFC 9110 section 8.6; repeats arrive here as "5, 5". Eighteen digits overflow nothing.
        if not sent.isdecimal() or len(sent) > 18:
            raise bad_request(f"content-length {shown(sent)} is not one decimal number of at most 18 digits")
        length = int(sent)

    keep_alive, upgrade, waits = modern, "", False
    if "connection" in fields:
        keep_alive, upgrade = _connection(fields, headers, modern)
    if "expect" in fields:
        if fields["expect"].lower() != "100-continue":  # RFC 9110 section 10.1.1
            raise Refusal(417, "bad_request", f"expect {shown(fields['expect'])} is unknown; only 100-continue is met")
        waits = modern and (chunked or bool(length))  # HTTP/1.0 knows no interim answer
    version = (1, 1) if modern else (1, 0)
    return Head(method, target, query, headers, fields, host, version, keep_alive, length, chunked, waits, upgrade)


@lru_cache(maxsize=256)
def _is_authority(text: str) -> bool:
    """Whether text is `uri-host [":" port]` (RFC 9110 section 7.2) with a host that is not empty (section 4.2.1)."""
    match = HOST.fullmatch(text)
    if match is None:
        return False
    address, port = match.groups()
    if address is not None:
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            return False
    return not port or int(port) < 65536


def _check_coding(coding: str, modern: bool, length: str | None) -> None:
    """Refuse every Transfer-Encoding but a lone `chunked` in HTTP/1.1 (RFC 9112 sections 6.1 and 6.3)."""
    if not modern:
        raise bad_request("transfer-encoding does not exist in HTTP/1.0; send content-length")
    if length is not None:
        raise bad_request("content-length and transfer-encoding are both set; send only one of them")
    if coding.lower() == "chunked":
        return
    *inner, last = (part.strip(" \t").lower() for part in coding.split(","))
    if last == "chunked" and "chunked" not in inner and all(inner):
        raise not_implemented(f"transfer-encoding {shown(coding)} is not implemented here; only chunked is")
    raise bad_request(f"transfer-encoding {shown(coding)} does not tell where the body ends; only chunked is known")


def _connection(fields: dict[str, str], headers: list[tuple[str, str]], modern: bool) -> tuple[bool, str]:
    """Return keep-alive and upgrade, and take out the fields that Connection names (RFC 9110 section 7.6.1)."""
    value = fields["connection"].lower()
    if value == "keep-alive":
        return True, ""
    options = {part.strip(" \t") for part in value.split(",")}
    keep_alive = "close" not in options and (modern or "keep-alive" in options)
    # RFC 9110 section 7.8: void in HTTP/1.0 and without its connection option.
    upgrade = fields.get("upgrade", "") if modern and "upgrade" in options else ""
    nominated = options - _NO_NOMINEES
    if nominated:
        headers[:] = [field for field in headers if field[0] not in nominated]
        for name in nominated:
            fields.pop(name, None)
    return keep_alive, upgrade
