"""The /-/docs page: an OpenAPI document as plain HTML that needs no script and no network.

    document ── render ──► headers (with a content security policy), page

Everything that came from a user is escaped; the policy allows this page's own style sheet and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any, Final

import msgspec

__all__ = ["render"]

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --link: #2563c9; }
@media (prefers-color-scheme: dark) { :root { --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; } h4 { margin: 1rem 0 .25rem; }
a { color: var(--link); }
code, pre, .path { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); padding: .75rem; border-radius: .4rem; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; }
summary { cursor: pointer; padding: .6rem .8rem; overflow-wrap: anywhere; }
details > div { padding: 0 .8rem .8rem; border-top: 1px solid var(--line); }
.verb { display: inline-block; min-width: 4.2rem; font-weight: 600; }
.note, .about { opacity: .75; }
.about { margin-left: .75rem; }
.doc { white-space: pre-line; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
"""
_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)
_HEADERS: Final = (
    "content-type: text/html; charset=utf-8\r\n"
    f"content-security-policy: {_POLICY}\r\n"
    "x-content-type-options: nosniff\r\n"
    "referrer-policy: no-referrer\r\n"
).encode("ascii")
_PLACE: Final = "#/components/schemas/"


def render(document: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the rendered headers and the page of an OpenAPI document, as `rayserve.openapi` makes them."""
    title = escape(document["info"]["title"])
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        '<p class="note">What this instance serves. For programs: <a href="openapi.json">openapi.json</a></p>\n',
        "<h2>Endpoints</h2>\n",
    ]
    operations = [one for path, item in document["paths"].items() for one in _operations(path, item)]
    parts += operations or ["<p>There are none yet.</p>\n"]
    parts.append("<h2>Schemas</h2>\n")
    parts += [_named(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    parts.append("</body>\n</html>\n")
    return _HEADERS, "".join(parts).encode("utf-8", "xmlcharrefreplace")


def _operations(path: str, item: dict[str, Any]) -> list[str]:
    """Return the operations on one path; HTTP methods that take and give the same stand together."""
    alike: dict[str, list[str]] = {}
    for verb, operation in item.items():
        if isinstance(operation, dict):
            alike.setdefault(_operation(path, operation), []).append(verb.upper())
    begin = '<details>\n<summary><span class="verb">'
    return [f"{begin}{escape(', '.join(verbs))}</span> {rest}" for rest, verbs in alike.items()]


def _operation(path: str, operation: dict[str, Any]) -> str:
    """Return all of an operation behind its HTTP method."""
    tags = operation.get("x-rayserve-backends")
    behind = "" if tags is None else f'<p class="note">Backends: {escape(", ".join(tags) or "none yet")}</p>\n'
    others = "".join(
        f"<h4>{escape(name)}</h4>\n{_content(one)}"
        for name, one in operation.get("x-rayserve-call-methods", {}).items()
    )
    return (
        f'<span class="path">{escape(path)}</span><span class="about">{escape(operation["summary"])}</span></summary>\n'
        f"<div>\n{_content(operation)}{others}{behind}</div>\n</details>\n"
    )


def _content(operation: dict[str, Any]) -> str:
    """Return what one method takes and gives."""
    parts = []
    if described := operation.get("description"):
        parts.append(f'<p class="doc">{escape(described)}</p>\n')
    rows = [
        (one["name"], one["in"], _kind(one["schema"]), one["required"], one.get("description", ""))
        for one in operation["parameters"]
    ]
    if rows:
        parts.append(f"<h4>Parameters</h4>\n{_table(rows)}")
    if (body := operation.get("requestBody")) is not None:
        note = "" if body.get("required") else " (optional)"
        parts.append(f"<h4>Body{note}</h4>\n{_media(body)}")
        parts.append(f'<p class="note">{escape(body["description"])}</p>\n' if "description" in body else "")
    parts.append(f"<h4>Answer</h4>\n{_media(operation['responses']['200'])}")
    return "".join(parts)


def _table(rows: list[tuple[str, str, str, bool, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(where)}</td><td>{kind}</td>"
        f"<td>{'required' if required else ''}</td><td>{escape(about)}</td></tr>\n"
        for name, where, kind, required, about in rows
    )
    return f"<table>\n<tr><th>name</th><th>in</th><th>type</th><th></th><th></th></tr>\n{lines}</table>\n"


def _media(response: dict[str, Any]) -> str:
    """Return a body: its content types, and its members if it is an object of its own."""
    content = response.get("content")
    if not content:
        return f"<p>{escape(response['description'])}</p>\n"
    parts = []
    for media, one in content.items():
        schema = one.get("schema", {})
        name = "any" if media == "*/*" else f"<code>{escape(media)}</code>"
        parts.append(f"<p>{name}{': ' + _kind(schema) if schema else ''}</p>\n")
        parts.append(_members(schema, "body"))
    return "".join(parts)


def _members(schema: dict[str, Any], where: str) -> str:
    """Return the members of an object as a table; "" for any other schema."""
    required = schema.get("required", ())
    rows = [
        (name, where, _kind(one), name in required, one.get("description", ""))
        for name, one in schema.get("properties", {}).items()
        if isinstance(one, dict)
    ]
    return _table(rows) if rows else ""


def _named(name: str, schema: dict[str, Any]) -> str:
    source = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode("utf-8", "replace")
    described = schema.get("description", "")
    about = f'<p class="doc">{escape(described)}</p>\n' if described else ""
    return (
        f'<details id="{escape(name)}">\n<summary><span class="path">{escape(name)}</span></summary>\n<div>\n'
        f"{about}{_members(schema, '')}<pre>{escape(source)}</pre>\n</div>\n</details>\n"
    )


def _kind(schema: Any) -> str:
    """Return a schema in a few words of HTML, with links to the named ones."""
    if not isinstance(schema, dict) or not schema:
        return "any"
    if isinstance(reference := schema.get("$ref"), str):
        name = escape(reference.removeprefix(_PLACE))
        return f'<a href="#{name}">{name}</a>'
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return " or ".join(_kind(one) for one in schema[word])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    if "enum" in schema:
        return escape(", ".join(str(one) for one in schema["enum"]))
    limits = [f"{word} {schema[key]}" for key, word in _LIMITS.items() if key in schema]
    words = [" or ".join(kind) if isinstance(kind, list) else str(kind or "any"), schema.get("format", ""), *limits]
    if "default" in schema:
        words.append(f"default {msgspec.json.encode(schema['default']).decode()}")
    return escape(", ".join(str(word) for word in words if word))


_LIMITS: Final = {
    "minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "minLength": "length ≥",
    "maxLength": "length ≤", "pattern": "pattern",
}  # fmt: skip
