"""What RFC 9110 and 9112 let a request head look like, as patterns and tables; no decision is taken here.

    head.py judges and reads with these, refusal.py tells with them what was wrong, body.py reads trailers with them.

No pattern backtracks: each repeat is possessive and what follows starts outside its set, so the cost is linear in the
bytes. Alternations are unrolled instead of repeated possessively (`a(?:%xx a)*`), which early CPython 3.11 gets wrong.
"""

from __future__ import annotations

import re
from typing import Final

from rayserve.names import HTTP_METHODS

__all__ = ["DROP", "FATE", "FIELD_LINE", "HOST", "KEEP", "METHODS", "NAMES", "ORIGIN_FORM", "OTHER_FORM", "TOKEN"]

METHODS: Final = {method.encode(): method for method in HTTP_METHODS}  # others are 501 (RFC 9110 section 9.1)

_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # a token: RFC 9110 section 5.6.2
# RFC 9112 section 5: no control byte but HTAB, so no bare CR or LF; no space before the colon; obs-fold has no name.
_FIELD: Final = rf"{_NAME}:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n"
# RFC 3986 section 3.3, and "[", "]", "|", which browsers send raw (WHATWG URL, path percent-encode set).
_PCHARS: Final = r"[!$&-;=@-\[\]_a-z|~]*+"
_PATH: Final = rf"/{_PCHARS}(?:%(?!00)[0-9A-Fa-f]{{2}}{_PCHARS})*+"
_QUERY: Final = r"\?([!-\"$-~]*+)"  # all visible ASCII but "#": clients send raw JSON and "100%" here
_AUTHORITY: Final = r"[!$&-.0-;=@-\[\]_a-z~%]*+"  # coarse, HOST judges it
_REST: Final = rf" HTTP/1\.([01])\r\n(?:{_FIELD})*+\r\n"


def _compiled(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode("ascii"))


# A whole head. Groups: method, path, query, minor version.
ORIGIN_FORM: Final = _compiled(rf"({_NAME}) ({_PATH})(?:{_QUERY})?{_REST}")
# Absolute-form and asterisk-form. Groups: method, authority (none for "*"), path, query, minor version.
OTHER_FORM: Final = _compiled(rf"({_NAME}) (?:\*|[Hh][Tt][Tt][Pp][Ss]?://({_AUTHORITY})({_PATH})?(?:{_QUERY})?){_REST}")
TOKEN: Final = _compiled(_NAME)
FIELD_LINE: Final = _compiled(_FIELD)
# RFC 3986 section 3.2.2: reg-name (IPv4 is one) or IPv6 in brackets; no userinfo, no IPvFuture, no zone.
# Groups: IPv6 address, port.
HOST: Final = re.compile(
    r"(?:(?=[^:])[!$&-.0-9;=A-Z_a-z~]*+(?:%[0-9A-Fa-f]{2}[!$&-.0-9;=A-Z_a-z~]*+)*+|\[([0-9A-Fa-f:.]{2,45})\])"
    r"(?::([0-9]{0,5}))?"
)

# What becomes of fields that are more than cargo: noted and kept in the headers, noted and taken out, or dropped.
KEEP, TAKE, DROP = 1, 2, 3
FATE: Final = {
    **dict.fromkeys(("host", "content-length", "expect", "idempotency-key", "traceparent", "x-request-id"), KEEP),
    **dict.fromkeys(("x-request-timeout-ms", "x-serve-call-method", "x-serve-shard-key", "x-serve-pin"), KEEP),
    # RFC 9110 section 7.6.1: these concern this connection only.
    **dict.fromkeys(("connection", "transfer-encoding", "upgrade"), TAKE),
    **dict.fromkeys(("keep-alive", "proxy-connection", "te"), DROP),
    # Our own marks in answers: a client must not forge them towards user code.
    **dict.fromkeys(("x-serve-reason", "x-serve-retriable", "x-serve-backend", "x-serve-replica", "x-serve-id"), DROP),
}


class _Names(dict[bytes, tuple[str, int]]):
    """Field name as sent → lower-case name and fate (0 for cargo). Learns spellings, at most 2,048."""

    def __missing__(self, raw: bytes) -> tuple[str, int]:
        name = raw.lower().decode("ascii")
        # CGI and WSGI write "-" as "_": `X_User` would reach the application as a forged `X-User`.
        entry = name, DROP if "_" in name else FATE.get(name, 0)
        if len(raw) <= 64:
            if len(self) >= 2048:  # made-up names may not keep real ones out for ever
                self.clear()
            self[raw] = entry
        return entry


NAMES: Final = _Names()
