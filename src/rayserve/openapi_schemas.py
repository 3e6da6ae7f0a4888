"""The named schemas of one OpenAPI document: JSON Schemas that stand on their own give up their `$defs` to it.

    {"$ref": "#/$defs/Item", "$defs": {…}} ── Components.adopt ──► {"$ref": "#/components/schemas/Item"}

Two backends may each have a model of the same name: equal ones share a place, others get `Item_2`, `Item_3`, ….
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

__all__ = ["Components"]

_DEFS: Final = "#/$defs/"
_PLACE: Final = "#/components/schemas/"
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")  # OpenAPI 3.1, Components Object

_FIELD_ERROR: Final = {
    "type": "object",
    "required": ["loc", "msg", "type"],
    "properties": {
        "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "msg": {"type": "string"},
        "type": {"type": "string"},
    },
}


def _report(detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["error", "detail", "request_id"],
        "properties": {"error": {"type": "string"}, "detail": detail, "request_id": {"type": "string"}},
    }


class Components:
    """Named schemas, and the two responses that every endpoint may give.

    Attributes:
        schemas: by name.
        invalid: the answer to arguments that do not fit.
        error: any other error.
    """

    def __init__(self) -> None:
        """Begin with the schemas of our own errors."""
        self.schemas: dict[str, Any] = {
            "Error": _report({}),
            "FieldError": _FIELD_ERROR,
            "InvalidArguments": _report({"type": "array", "items": {"$ref": f"{_PLACE}FieldError"}}),
        }
        self.invalid = _response("The arguments do not fit.", "InvalidArguments")
        self.error = _response("Any error; X-Serve-Reason names it if it is one of RayServe's own.", "Error")
        self._names: dict[bytes, str] = {}

    def adopt(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return a schema that refers to the named ones here; a model itself becomes one of them."""
        defs = dict(schema.get("$defs", {}))
        top = {key: value for key, value in schema.items() if key != "$defs"}
        title = top.get("title")
        if isinstance(title, str) and "properties" in top and title not in defs:
            given = {"default": top.pop("default")} if "default" in top else {}
            defs[title] = top
            top = {"$ref": _DEFS + title.replace("~", "~0").replace("/", "~1"), **given}
        names = {name: self._name(name, defs) for name in defs}
        for name, place in names.items():
            if place not in self.schemas:
                self.schemas[place] = _renamed(defs[name], names)
        adopted: dict[str, Any] = _renamed(top, names)
        return adopted

    def _name(self, name: str, defs: dict[str, Any]) -> str:
        """Return the place of a definition: that of an equal one, or a free one."""
        closure = _closure(name, defs)
        key = name.encode() + msgspec.json.encode({one: defs[one] for one in closure}, order="sorted")
        if key not in self._names:
            plain = _UNFIT.sub("_", name)
            taken = {*self.schemas, *self._names.values()}
            tries = (plain if number == 1 else f"{plain}_{number}" for number in range(1, len(taken) + 2))
            self._names[key] = next(one for one in tries if one not in taken)
        return self._names[key]


def _response(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": _PLACE + name}}}}


def _closure(name: str, defs: dict[str, Any]) -> set[str]:
    """Return the names that a definition refers to, itself and those behind them included."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in defs and one not in seen:
            seen.add(one)
            waiting += _referred(defs[one])
    return seen


def _referred(schema: Any) -> Iterator[str]:
    """Return the names of the `$defs` that a schema refers to."""
    if isinstance(schema, list):
        for one in schema:
            yield from _referred(one)
    elif isinstance(schema, dict):
        yield from _referred(list(schema.values()))
    elif isinstance(schema, str) and schema.startswith(_DEFS):
        yield _unescaped(schema[len(_DEFS) :])


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """Return a copy of a schema whose references lead to the components."""
    if isinstance(schema, list):
        return [_renamed(one, names) for one in schema]
    if isinstance(schema, dict):
        return {key: _renamed(value, names) for key, value in schema.items()}
    if isinstance(schema, str) and schema.startswith(_DEFS):  # under $ref, or in the mapping of a discriminator
        place = names.get(_unescaped(schema[len(_DEFS) :]))
        return schema if place is None else _PLACE + place
    return schema


def _unescaped(pointer: str) -> str:
    return pointer.replace("~1", "/").replace("~0", "~")  # RFC 6901 section 4
