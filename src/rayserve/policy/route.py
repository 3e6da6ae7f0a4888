"""What a route may look like, and the one spelling under which paths are compared.

In and out:

    create_endpoint ──► check_route ──► the route's text
    Matcher ──────────► parse_route ──► Route(kind, segments, names)

Kinds, in the order in which they are asked:

    /items          exact
    /items/{id}     template: each parameter is one whole segment, never empty
    /files/*        mount: `/files` and everything below it
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from rayserve.errors import InvalidTypeError, InvalidValueError

__all__ = ["Route", "canonical", "check_route", "parse_route"]

_MAX_LENGTH = 2048
_MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNWANTED = re.compile(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]|\s")

# RFC 3986 2.3, and 3.3 for what a path segment may hold unescaped.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ODD = re.compile(r"%([0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~!$&'()*+,;=:@/]")


class Route(msgspec.Struct, frozen=True):
    """A route taken apart.

    Attributes:
        text: as it was registered.
        kind: which of the three it is.
        segments: what lies between the slashes, canonical; None for a parameter. A mount's `*` is left out.
        names: of the parameters, in order.
    """

    text: str
    kind: Literal["exact", "template", "mount"]
    segments: tuple[str | None, ...]
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[str, tuple[str | None, ...]]:
        """What two routes must not share: everything but how parameters are called."""
        return (self.kind, self.segments)


def canonical(path: str) -> str:
    """Return the spelling of a path under which equivalent ones are equal (RFC 3986 6.2.2.1 and 6.2.2.2).

    Escapes of unreserved characters are decoded, the hex digits of others are upper-cased, whatever a path may not
    hold unescaped is escaped as UTF-8; a `%` that begins no escape is a percent sign. Slashes stay as they are.
    """
    return _ODD.sub(_spell, path)


def _spell(odd: re.Match[str]) -> str:
    digits = odd[1]
    if digits is None:
        return "".join(f"%{byte:02X}" for byte in odd[0].encode("utf-8", "surrogatepass"))
    byte = int(digits, 16)
    return chr(byte) if byte in _UNRESERVED else f"%{digits.upper()}"


def check_route(route: object) -> str:
    """Return `route` if it can be one.

    Raises:
        InvalidTypeError: it is not a str.
        InvalidValueError: it is malformed, or under `/-/`, which belongs to RayServe.
    """
    if not isinstance(route, str):
        raise InvalidTypeError(f"a route must be a str, got {route!r} ({type(route).__name__})")
    return parse_route(route).text


def parse_route(text: str) -> Route:
    """Return the parts of a route.

    Raises:
        InvalidValueError: as `check_route`.
    """
    _check_text(text)
    parts = text[1:].split("/")
    kind: Literal["exact", "template", "mount"] = "exact"
    if parts[-1] == "*":
        kind = "mount"
        parts.pop()
    segments: list[str | None] = []
    names: list[str] = []
    for part in parts:
        if "{" in part or "}" in part:
            names.append(_parameter(text, part))
            segments.append(None)
        elif part.startswith("<") and part.endswith(">"):  # as Flask writes them
            name = part[1:-1].rpartition(":")[2]
            raise InvalidValueError(
                f'route "{text}": a parameter stands in braces and is text; write {{{name or "id"}}}'
            )
        elif part == "*":
            raise InvalidValueError(f'route "{text}": "*" must be the last segment; name a single one, like {{part}}')
        elif "*" in part:
            raise InvalidValueError(f'route "{text}": "*" must be a whole segment, as in /prefix/*; a star is %2A')
        elif canonical(part) in (".", ".."):  # RFC 3986 6.2.2.3: clients resolve these before they send
            raise InvalidValueError(f'route "{text}" holds the dot segment "{part}", which no client sends; resolve it')
        else:
            segments.append(canonical(part))
    if len(set(names)) < len(names):
        raise InvalidValueError(f'route "{text}" names two parameters alike; give each a name of its own')
    if names and kind == "mount":
        raise InvalidValueError(f'route "{text}": a mount ("*") cannot hold parameters; mount the part before them')
    return Route(text, "template" if names else kind, tuple(segments), tuple(names))


def _check_text(text: str) -> None:
    if not text.startswith("/"):
        raise InvalidValueError(f'route "{text}" must start with "/", like "/{text.lstrip("/") or "items"}"')
    if len(text) > _MAX_LENGTH:
        raise InvalidValueError(f'route "{text[:40]}…" has {len(text)} characters; {_MAX_LENGTH} are allowed')
    if "?" in text or "#" in text:
        raise InvalidValueError(f'route "{text}" must be a path without query or fragment; leave "?" and "#" out')
    if _UNWANTED.search(text):
        raise InvalidValueError(f"route {text!r} holds white space or a control character; escape it, a space is %20")
    if _MALFORMED.search(text):
        raise InvalidValueError(f'route "{text}": "%" must be followed by two hex digits; write %25 for a percent sign')
    plain = canonical(text)
    if plain == "/-" or plain.startswith("/-/"):
        raise InvalidValueError(f'route "{text}" is under /-/, which belongs to rayserve; choose another path')


def _parameter(text: str, part: str) -> str:
    name = part[1:-1]
    if part[0] == "{" and part[-1] == "}" and name.isidentifier():
        return name
    if ":" in name:
        raise InvalidValueError(f'route "{text}": parameters are always text, convert in the handler; write {{name}}')
    raise InvalidValueError(
        f'route "{text}": a parameter must be a whole segment with a Python name, like /items/{{id}}, not "{part}"'
    )
