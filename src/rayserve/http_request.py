"""What `handle.request(...)` is given → what travels: target, query, header fields and body of an HTTP request.

    path, params ─► target, query        headers, json | data ─► fields, body

The names and their meaning are those of httpx and requests; what those would mend in silence is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from rayserve.encoding import to_json, type_name
from rayserve.errors import BadResultError, InvalidTypeError, InvalidValueError

__all__ = ["HTTPRequest", "Pairs", "built"]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2, without "_" as in the ingress
_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # section 5.5: no control character but the tab
_METHOD: Final = re.compile(r"[A-Z][A-Z-]*")
_PATH: Final = "/%:@!$&'()*+,;=-._~"  # RFC 3986 section 3.3; "%" stays: what is encoded already is not encoded twice
_QUERY: Final = _PATH + "?"

Pairs = Mapping[str, Any] | Iterable[tuple[str, Any]]


class HTTPRequest(msgspec.Struct, frozen=True):
    """A request, not yet tied to an endpoint.

    Attributes:
        method: upper-case.
        target: percent-encoded path; "" takes the endpoint's own route.
        query: percent-encoded.
        headers: (lower-case name, value), in order.
        body: all of it.
    """

    method: str
    target: str
    query: bytes
    headers: list[tuple[str, str]]
    body: bytes


def built(
    method: str, path: str | None, params: Pairs | None, headers: Pairs | None, json: Any, data: Any
) -> HTTPRequest:
    """Check and encode the arguments of `ServeHandle.request`.

    Raises:
        InvalidTypeError: one has the wrong type, or `json` cannot be encoded.
        InvalidValueError: one cannot be sent.
    """
    if not isinstance(method, str):
        raise InvalidTypeError(f"method must be a str, got {type_name(method)}")
    verb = method.upper()
    if not _METHOD.fullmatch(verb) or verb == "CONNECT":
        raise InvalidValueError(f"method {method!r} is none that an endpoint can be asked with")
    target, query = _target(path, params)
    kind, body = _body(json, data)
    fields = _fields(headers)
    names = {name for name, _ in fields}
    if "host" not in names:
        fields.insert(0, ("host", "localhost"))
    if kind and "content-type" not in names:
        fields.append(("content-type", kind))
    if body or verb in ("POST", "PUT", "PATCH"):
        fields.append(("content-length", str(len(body))))
    return HTTPRequest(verb, target, query, fields, body)


def _target(path: str | None, params: Pairs | None) -> tuple[str, bytes]:
    if path is not None and not isinstance(path, str):
        raise InvalidTypeError(f"path must be a str, got {type_name(path)}")
    if path is not None and (not path.startswith("/") or "#" in path):
        raise InvalidValueError(f'path {path!r} must start with "/", without a host and without "#"')
    route, _, query = (path or "").partition("?")
    more = _encoded("params", params) if params is not None else ""
    query = "&".join(part for part in (quote(query, _QUERY), more) if part)
    return quote(route, _PATH), query.encode()


def _fields(headers: Pairs | None) -> list[tuple[str, str]]:
    fields = []
    for name, value in _pairs("headers", headers or ()):
        if not isinstance(value, str):
            raise InvalidTypeError(f"header {name!r} must be a str, got {type_name(value)}")
        if not _TOKEN.fullmatch(name):
            raise InvalidValueError(f"a header named {name!r} cannot be sent; letters, digits and hyphens can")
        if _BAD_VALUE.search(value):
            raise InvalidValueError(f"header {name!r} holds a line break or control character")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise InvalidValueError(f"header {name!r} is not latin-1 text; percent-encode it") from None
        if name.lower() in ("content-length", "transfer-encoding"):
            raise InvalidValueError(f"header {name!r} follows from the body; leave it out")
        fields.append((name.lower(), value.strip()))
    return fields


def _body(json: Any, data: Any) -> tuple[str, bytes]:
    """Return the content type that goes with the body, and the body."""
    if json is not None and data is not None:
        raise InvalidValueError("a request has one body: give json or data, not both")
    if json is not None:
        try:
            return "application/json", to_json(json)
        except BadResultError as error:
            raise InvalidTypeError(f"json cannot be sent: {error}") from None
    if data is None:
        return "", b""
    if isinstance(data, str):
        return "text/plain; charset=utf-8", data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return "application/octet-stream", bytes(data)
    if isinstance(data, Mapping):
        return "application/x-www-form-urlencoded", _encoded("data", data).encode()
    raise InvalidTypeError(f"data must be bytes, a str, or a mapping for a form, got {type_name(data)}")


def _encoded(what: str, fields: Pairs) -> str:
    """Return `name=value&…`; a list gives its name several times, and None leaves it out."""
    pairs: list[tuple[str, object]] = []
    for name, value in _pairs(what, fields):
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if each is True or each is False:
                pairs.append((name, "true" if each else "false"))
            elif isinstance(each, (str, bytes, int, float)):
                pairs.append((name, each))
            elif each is not None:
                raise InvalidTypeError(f"{what} {name!r} must be text, a number or a list, got {type_name(each)}")
    return urlencode(pairs)


def _pairs(what: str, fields: Pairs) -> list[tuple[str, Any]]:
    """Return names and values of a mapping or of pairs."""
    try:
        found = [(name, value) for name, value in (fields.items() if isinstance(fields, Mapping) else fields)]
    except (TypeError, ValueError):
        raise InvalidTypeError(f"{what} must be a mapping or (name, value) pairs, got {type_name(fields)}") from None
    for name, _ in found:
        if not isinstance(name, str):
            raise InvalidTypeError(f"a name in {what} must be a str, got {type_name(name)}")
    return found
