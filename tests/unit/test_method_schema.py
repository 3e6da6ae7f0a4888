from typing import Any

import msgspec

from rayserve.config import parse_backend_config
from rayserve.derived import backend_row
from rayserve.method_schema import MAX_BYTES, MethodSchema, ParameterSchema, encode_schema, join_schemas, methods_of
from rayserve.replica.handler import describe


class Calls:
    def __call__(self, a: int) -> int:
        return a

    def other(self, b: str) -> str:
        return b

    def untyped(self, request: Any) -> None: ...


def sent(code: Any) -> bytes:
    return backend_row("b", 1, parse_backend_config({}), describe(code), (0, ""), ()).schema


def test_schemas_travel_by_method_name_and_untyped_backends_send_none() -> None:
    assert sent(lambda request: 1) == b""
    assert set(methods_of(sent(Calls))) == {"__call__", "other"}
    assert methods_of(b"") == {}
    assert join_schemas([("a", b""), ("b", b"{}")]) == b'{"b":{}}'


def test_a_schema_that_is_too_large_keeps_its_names() -> None:
    huge = {"description": "x" * MAX_BYTES}
    data = encode_schema(MethodSchema([ParameterSchema("a", "text", True, huge)], None, "doc"))
    assert len(data) < 1000
    assert msgspec.json.decode(data, type=MethodSchema) == MethodSchema(
        [ParameterSchema("a", "text", True)], None, "doc"
    )
