"""What clients may send to one typed method and get from it, as JSON: replica ──► controller ──► table ──► ingress.

    annotations ── encode_schema ──► MethodTraits.schema ── join_schemas ──► Backend.schema ── methods_of ──► openapi

Each schema is JSON Schema (2020-12) that stands on its own, with what it refers to under its `$defs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

__all__ = ["MethodSchema", "ParameterSchema", "ResponseSchema", "encode_schema", "join_schemas", "methods_of"]

# The table is sent to every router on every change: what is larger is described by its names alone.
MAX_BYTES: Final = 64 * 1024
_MAX_DOC: Final = 4000


class ParameterSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter that clients fill.

    Attributes:
        name: as in Python, in paths, queries and JSON objects.
        place: `body`, `text`, `texts` or `json`; see `rayserve.typed.Parameter`.
        required: it has no default.
        schema: of its values.
    """

    name: str
    place: str
    required: bool = False
    schema: dict[str, Any] = {}


class ResponseSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back with status 200.

    Attributes:
        media: content type; "" for an empty body.
        schema: of the body; {} says nothing.
    """

    media: str = ""
    schema: dict[str, Any] = {}


class MethodSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """One typed method.

    Attributes:
        parameters: those that clients fill, in order.
        response: None if its annotation says nothing.
        doc: its docstring.
    """

    parameters: list[ParameterSchema] = []
    response: ResponseSchema | None = None
    doc: str = ""


def encode_schema(schema: MethodSchema) -> bytes:
    """Return a method's schema as JSON; without its models if it is too large or its models' extras are not JSON."""
    schema = msgspec.structs.replace(schema, doc=schema.doc[:_MAX_DOC])
    try:
        data = msgspec.json.encode(schema)
    except (TypeError, ValueError):  # json_schema_extra may hold anything
        data = b""
    if 0 < len(data) <= MAX_BYTES:
        return data
    response = None if schema.response is None else ResponseSchema(schema.response.media)
    names = [msgspec.structs.replace(one, schema={}) for one in schema.parameters]
    return msgspec.json.encode(MethodSchema(names, response, schema.doc))


def join_schemas(methods: Iterable[tuple[str, bytes]]) -> bytes:
    """Return name → schema as one JSON object; b"" if no method has a schema."""
    found = {name: msgspec.Raw(schema) for name, schema in methods if schema}
    return msgspec.json.encode(found) if found else b""


def methods_of(data: bytes) -> dict[str, MethodSchema]:
    """Return name → schema of a backend's typed methods.

    Raises:
        msgspec.MsgspecError: `data` does not come from `join_schemas`.
    """
    return _decode(data) if data else {}


_decode = msgspec.json.Decoder(dict[str, MethodSchema]).decode
