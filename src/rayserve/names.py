"""Names users choose, and names they misspell.

Names travel far: into Ray actor names, header values (X-Serve-Backend), metric labels, file names, replica ids
(`tag#…`) and shells. One alphabet that is plain in all of them spares every one of those places an escape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from rayserve.errors import InvalidTypeError, InvalidValueError

__all__ = ["HTTP_METHODS", "MAX_INSTANCE_NAME", "MAX_NAME", "check_method", "check_name", "did_you_mean"]

# What llhttp takes in HTTP/1.x without CONNECT and TRACE: an ingress answers any other with 501.
HTTP_METHODS: Final = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY", "COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND",
    "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE",
    "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "MKCALENDAR", "LINK", "UNLINK",
)  # fmt: skip

MAX_NAME = 128
# Part of the run directory, and AF_UNIX paths end at 107 bytes (103 on macOS).
MAX_INSTANCE_NAME = 40

_NEVER_SERVED = ("CONNECT", "TRACE")
_MARKS = ". : @ + ~ = -"
_INSTANCE_MARKS = ". -"  # a colon parts the names of an instance's actors
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+~=-]*")
_INSTANCE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_name(kind: str, value: object) -> str:
    """Return `value` if it can be the name of a `kind`.

    A name has 1–128 (an instance's 1–40) ASCII letters, digits, `_` and marks, and begins with none of the marks:
    `.hidden` and `-option` mean something else to shells.

    Args:
        kind: "endpoint", "backend" or "instance", said in the message.
        value: what the user gave.

    Raises:
        InvalidTypeError: it is not a str.
        InvalidValueError: it is empty, too long, or has another character; the message shows the first such.
    """
    if not isinstance(value, str):
        raise InvalidTypeError(f"the name of {_a(kind)} must be a str, got {value!r} ({type(value).__name__})")
    if not value:
        raise InvalidValueError(f"the name of {_a(kind)} must not be empty")
    is_instance = kind == "instance"
    longest = MAX_INSTANCE_NAME if is_instance else MAX_NAME
    if len(value) > longest:
        raise InvalidValueError(f"{kind} name {value[:20]!r}… has {len(value)} characters; {longest} are allowed")
    pattern, marks = (_INSTANCE_NAME, _INSTANCE_MARKS) if is_instance else (_NAME, _MARKS)
    fits = pattern.match(value)
    at = fits.end() if fits else 0
    if at < len(value):
        where = "begin with" if at == 0 and pattern.fullmatch("_" + value[0]) else "hold"
        raise InvalidValueError(
            f"{kind} name {value!r} cannot {where} {value[at]!r}; "
            f"use ASCII letters, digits and _, and after the first also {marks}"
        )
    return value


def check_method(value: object) -> str:
    """Return an HTTP method, upper-case, if an ingress serves it.

    Raises:
        InvalidTypeError: it is not a str.
        InvalidValueError: it is none of `HTTP_METHODS`.
    """
    if not isinstance(value, str):
        raise InvalidTypeError(f"methods must hold strings, got {value!r} ({type(value).__name__})")
    upper = value.upper()
    if upper in HTTP_METHODS:
        return upper
    near = get_close_matches(upper, HTTP_METHODS, n=1) if upper not in _NEVER_SERVED else []
    hint = f'did you mean "{near[0]}"?' if near else 'use names like "GET" or "POST"'
    raise InvalidValueError(f'"{value}" is no HTTP method that can be served; {hint}')


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known one, or all of them."""
    choices = list(known)
    lowered = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    if near:
        return f'did you mean "{lowered[near[0]]}"?'
    return f"known: {', '.join(choices)}"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
