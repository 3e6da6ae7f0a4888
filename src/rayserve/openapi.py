"""The OpenAPI 3.1 document of an instance: every endpoint that has a route, and what typed handlers say of themselves.

    RoutingTable (Backend.schema) ── document ──► dict ── Pages ──► /-/openapi.json, /-/docs

Called by the ingress, once per table and only if somebody asks. An endpoint is described by the backend that gets
most of its traffic; handlers that are not typed take and give anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from rayserve.docs_page import render
from rayserve.method_schema import MethodSchema, ParameterSchema, methods_of
from rayserve.model.table import Backend, Endpoint, RoutingTable
from rayserve.openapi_schemas import Components
from rayserve.policy.route import parse_route

__all__ = ["PATHS", "Pages", "document"]

PATHS: Final = ("/-/openapi.json", "/-/docs")

_CALL: Final = "__call__"
_HEADER: Final = "X-SERVE-CALL-METHOD"
_VERBS: Final = frozenset(("get", "put", "post", "delete", "options", "head", "patch", "trace"))
_WITH_BODY: Final = frozenset(("post", "put", "patch"))
_TEXT: Final = {"type": "string"}
_ANY: Final[dict[str, Any]] = {"*/*": {}}


class Pages:
    """The two pages, made when they are asked for and kept until the table changes."""

    def __init__(self) -> None:
        """Make none yet."""
        self._table: RoutingTable | None = None
        self._made: dict[str, tuple[bytes, bytes]] = {}

    def get(self, path: str, table: RoutingTable | None) -> tuple[bytes, bytes]:
        """Return the rendered headers and the body of one of `PATHS`."""
        if table is not self._table or not self._made:
            self._table = table
            described = document(table if table is not None else RoutingTable(""))
            encoded = msgspec.json.encode(described)
            headers, page = render(described)
            self._made = {PATHS[0]: (b"content-type: application/json\r\n", encoded), PATHS[1]: (headers, page)}
        return self._made[path]


def document(table: RoutingTable) -> dict[str, Any]:
    """Return the OpenAPI document of a table.

    What OpenAPI has no word for stands under `x-rayserve-…`: methods of a class that clients choose by header, HTTP
    methods that it does not know, backends. Endpoints without a route are left out: no client can call them.
    """
    components = Components()
    rows = {row.tag: row for row in table.backends}
    paths: dict[str, dict[str, Any]] = {}
    # Mounts last: their free parameter must not take a template's place.
    for endpoint in sorted(table.endpoints, key=lambda one: (one.route or "").endswith("/*")):
        if endpoint.route is not None:
            path, names = _path(endpoint.route, paths)
            paths[path] = _item(endpoint, names, rows, components)
    _name_operations(paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": table.instance or "rayserve", "version": f"{table.epoch}.{table.version}"},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components.schemas},
    }


def _name_operations(paths: dict[str, dict[str, Any]]) -> None:
    """Give each operation an id that programs can take as a name, and that no other has."""
    taken: set[str] = set()
    for item in paths.values():
        for verb in _VERBS & item.keys():
            plain = re.sub(r"\W", "_", f"{verb}_{item[verb]['tags'][0]}")
            number, name = 1, plain
            while name in taken:
                number += 1
                name = f"{plain}_{number}"
            taken.add(name)
            item[verb]["operationId"] = name


def _path(route: str, taken: dict[str, dict[str, Any]]) -> tuple[str, tuple[str, ...]]:
    """Return a route as OpenAPI writes it, and the names of its parameters; a mount's rest is called `path`."""
    parsed = parse_route(route)
    if parsed.kind != "mount":
        return route, parsed.names
    path = f"{route[:-1]}{{path}}"
    shape = _shape(path)
    # OpenAPI takes templates that differ only in their names for the same path.
    return (route, ()) if any(_shape(one) == shape for one in taken) else (path, ("path",))


def _shape(path: str) -> str:
    return re.sub(r"\{[^/]*\}", "{}", path)


def _item(
    endpoint: Endpoint, names: tuple[str, ...], rows: dict[str, Backend], components: Components
) -> dict[str, Any]:
    """Return the path item of an endpoint."""
    weights = endpoint.traffic.weights if endpoint.traffic is not None else {}
    tags = sorted((tag for tag in weights if tag in rows), key=lambda tag: (-weights[tag], tag))
    row = rows[tags[0]] if tags else None
    methods = methods_of(row.schema) if row is not None else {}
    named = {name: one for name, one in methods.items() if name != _CALL and _may_call(endpoint, name)}
    item: dict[str, Any] = {}
    for verb in (method.lower() for method in endpoint.methods):
        if verb not in _VERBS:
            item.setdefault("x-rayserve-methods", []).append(verb.upper())
            continue
        operation = _operation(methods.get(_CALL), verb, names, components)
        operation.setdefault("summary", endpoint.name)
        operation["tags"] = [endpoint.name]
        if endpoint.options.expose_backend:
            operation["x-rayserve-backends"] = tags
        if row is not None and row.app:
            operation["description"] = f"A whole {row.app} app; it knows its own paths."
        if named:
            operation["parameters"].append(_choice(list(named)))
            operation["x-rayserve-call-methods"] = {
                name: _operation(one, verb, names, components) for name, one in named.items()
            }
        item[verb] = operation
    return item


def _may_call(endpoint: Endpoint, name: str) -> bool:
    allowed = endpoint.options.call_methods
    return allowed is None or (isinstance(allowed, tuple) and name in allowed)


def _choice(names: list[str]) -> dict[str, Any]:
    described = "Method of the backend to call instead; x-rayserve-call-methods describes each."
    schema = {"type": "string", "enum": names}
    return {"name": _HEADER, "in": "header", "required": False, "description": described, "schema": schema}


def _operation(
    method: MethodSchema | None, verb: str, names: tuple[str, ...], components: Components
) -> dict[str, Any]:
    """Return what one method takes and gives when called with one HTTP method."""
    if method is None:
        found: dict[str, Any] = {
            "description": "Not typed: takes and gives anything.",
            "parameters": [_parameter(name, "path", True, _TEXT) for name in names],
            "responses": {"200": {"description": "Any answer.", "content": _ANY}, "default": components.error},
        }
        if verb in _WITH_BODY:
            found["requestBody"] = {"content": _ANY}
        return found
    found = {"parameters": list(_parameters(method, verb, names, components))}
    if method.doc:
        summary, _, rest = method.doc.partition("\n\n")
        found["summary"] = " ".join(summary.split())
        found["description"] = rest.strip()
    body = _body(method, verb, names, components)
    if body is not None:
        found["requestBody"] = body
    found["responses"] = {
        "200": _answer(method, components),
        "422": components.invalid,
        "default": components.error,
    }
    return found


def _in_body(method: MethodSchema, one: ParameterSchema, verb: str, names: tuple[str, ...]) -> bool:
    """Whether a parameter is described as a member of the JSON object; it may come in the query as well."""
    if one.place == "json":
        return True
    whole = any(each.place == "body" for each in method.parameters)
    return one.place != "body" and one.name not in names and not whole and verb in _WITH_BODY


def _parameters(
    method: MethodSchema, verb: str, names: tuple[str, ...], components: Components
) -> Iterator[dict[str, Any]]:
    known = {one.name: one for one in method.parameters}
    for name in names:
        one = known.get(name)
        plain = one is None or one.place not in ("text", "texts")
        yield _parameter(name, "path", True, _TEXT if one is None or plain else components.adopt(one.schema))
    for one in method.parameters:
        if one.place in ("text", "texts") and one.name not in names and not _in_body(method, one, verb, names):
            yield _parameter(one.name, "query", one.required, components.adopt(one.schema))


def _parameter(name: str, where: str, required: bool, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema}


def _body(method: MethodSchema, verb: str, names: tuple[str, ...], components: Components) -> dict[str, Any] | None:
    """Return the request body: one model, or an object with a member per parameter."""
    for one in method.parameters:
        if one.place == "body":
            return _json_body(components.adopt(one.schema), one.required)
    inside = [one for one in method.parameters if _in_body(method, one, verb, names)]
    if not inside:
        return None
    required = [one.name for one in inside if one.required]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {one.name: components.adopt(one.schema) for one in inside},
    }
    if required:
        schema["required"] = required
    body = _json_body(schema, bool(required))
    texts = [one.name for one in inside if one.place != "json"]
    if texts:
        body["description"] = f"May come in the query as well: {', '.join(texts)}."
    return body


def _json_body(schema: dict[str, Any], required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _answer(method: MethodSchema, components: Components) -> dict[str, Any]:
    response = method.response
    if response is None:
        return {"description": "Any answer.", "content": _ANY}
    if not response.media:
        return {"description": "An empty body."}
    media = {"schema": components.adopt(response.schema)} if response.schema else {}
    return {"description": "The result.", "content": {response.media: media}}
