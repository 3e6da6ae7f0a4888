"""What goes out: an answer as bytes, closed to browsers as far as headers can.

status, type, body ──► rendered ──► bytes; the connection closes after each
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from html import escape
from http import HTTPStatus
from typing import Any, Final

__all__ = ["HTML", "JSON", "TEXT", "page", "rendered"]

HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

_ALWAYS: Final = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem}"
    "th{text-align:left;font-weight:600;padding-right:2rem;vertical-align:top}"
)


def rendered(
    status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None, *, bare: bool = False
) -> bytes:
    """Return a whole answer.

    Args:
        status: HTTP status.
        kind: content type.
        body: what HEAD would only be told the size of.
        headers: further ones.
        bare: answer to HEAD, without the body.
    """
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    rows = {
        "Date": formatdate(usegmt=True),
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        **_ALWAYS,
        **(headers or {}),
    }
    head = f"HTTP/1.1 {status} {phrase}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in rows.items()) + "\r\n"
    return head.encode("latin-1") + (b"" if bare else body)


def page(status: Mapping[str, Any]) -> bytes:
    """Return the front page: what there is to read, and the words of `status`.

    Args:
        status: what `serve.status()` returns.
    """
    name = escape(str(status.get("instance", "")))
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>RayServe {name}</title><style>{_STYLE}</style>',
        f"<h1>RayServe {name}</h1>",
        '<p><a href="/status">/status</a> as JSON, <a href="/metrics">/metrics</a> for Prometheus</p>',
    ]
    for title in ("endpoints", "backends", "nodes"):
        rows = status.get(title) or {}
        parts.append(f"<h2>{title}</h2>")
        if not rows:
            parts.append("<p>none</p>")
            continue
        lines = (f"<tr><th>{escape(str(key))}</th><td>{escape(str(words))}</td></tr>" for key, words in rows.items())
        parts.append(f"<table>{''.join(lines)}</table>")
    return "\n".join(parts).encode()
