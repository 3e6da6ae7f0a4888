"""Who gets in: one request head, judged. Pure.

    head bytes ──► parse ──► Request ──► admit(port, token) ──► its path, or Refused (status and words)

The port is on loopback, but every program and every browser page of this machine reaches loopback. So: a secret
that only this user can read, names that DNS rebinding cannot fake, and nothing for pages of other origins.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Refused", "Request", "admit", "parse"]

PATHS: Final = ("/", "/metrics", "/status")
_METHODS: Final = ("GET", "HEAD")
_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.[01]")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


class Refused(Exception):
    """What is answered instead.

    Attributes:
        status: the HTTP status.
        headers: headers of this answer beyond those of every answer.
    """

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        """Refuse with `status`; `text` becomes the body."""
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True)
class Request:
    """One request's head.

    Attributes:
        method: as sent.
        target: as sent.
        headers: lower-case name → values, in their order.
    """

    method: str
    target: str
    headers: dict[str, list[str]] = field(default_factory=dict)

    def one(self, name: str) -> str | None:
        """Return the value of a header that may be there once, None if it is not.

        Raises:
            Refused: it is there more than once.
        """
        values = self.headers.get(name, [])
        if len(values) > 1:
            raise Refused(400, f"{name} must be there once")
        return values[0] if values else None


def parse(head: bytes) -> Request:
    """Return the request in `head`, which ends with an empty line.

    Raises:
        Refused: 400, it is not HTTP/1.0 or 1.1 by the letter.
    """
    line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _LINE.fullmatch(line)
    if found is None:
        raise Refused(400, "this is not a request line of HTTP/1.0 or 1.1")
    headers: dict[str, list[str]] = {}
    for row in fields:
        pair = _FIELD.fullmatch(row)
        if pair is None:
            raise Refused(400, "this is not a header line")
        headers.setdefault(pair[1].decode("ascii").lower(), []).append(pair[2].decode("latin-1").rstrip(" \t"))
    return Request(found[1].decode("ascii"), found[2].decode("ascii"), headers)


def admit(request: Request, port: int, token: str) -> str:
    """Return the path that this request may read.

    Args:
        request: what came in.
        port: the port it came in on.
        token: what it has to show.

    Raises:
        Refused: 400, 421, 403, 405, 401 or 404, in this order of questions.
    """
    host = request.one("host")
    if host is None:
        raise Refused(400, "the Host header is missing")
    names = [f"{name}:{port}" for name in _HOSTS] + (list(_HOSTS) if port == 80 else [])
    if host.lower() not in names:
        raise Refused(421, f"this server answers as {', '.join(names)} only")
    if "origin" in request.headers or request.one("sec-fetch-site") not in (None, "same-origin"):
        raise Refused(403, "web pages and browsers get nothing here; ask with curl or Prometheus")
    if request.method not in _METHODS:
        raise Refused(405, "only GET and HEAD: nothing can be changed here", {"Allow": ", ".join(_METHODS)})
    if not _shows(request, token):
        raise Refused(
            401,
            "send `Authorization: Bearer <token>`; the token is in the file admin.token of the run directory",
            {"WWW-Authenticate": 'Bearer realm="rayserve"'},
        )
    path = request.target.partition("?")[0]
    if path not in PATHS:
        raise Refused(404, f"there are {', '.join(PATHS)}")
    return path


def _shows(request: Request, token: str) -> bool:
    scheme, _, shown = (request.one("authorization") or "").partition(" ")
    # Bytes: compare_digest takes no str beyond ASCII, and a client may send any.
    same = hmac.compare_digest(shown.strip(" ").encode("latin-1"), token.encode("ascii"))
    return same and scheme.lower() == "bearer"
