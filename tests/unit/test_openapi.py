from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from pydantic import BaseModel, Field
from tests.tables import decode_table, encode_table

from rayserve.config import parse_backend_config
from rayserve.derived import backend_row
from rayserve.model.table import Backend, Endpoint, EndpointOptions, RoutingTable, Traffic
from rayserve.openapi import PATHS, Pages, document
from rayserve.replica.handler import describe

_ITEM = {"parameters", "summary", "description", "get", "put", "post", "delete", "options", "head", "patch", "trace"}
_OPERATION = {"tags", "summary", "description", "operationId", "parameters", "requestBody", "responses"}
_PARAMETER = {"name", "in", "description", "required", "schema"}
_BODY = {"description", "content", "required"}


class Tag(BaseModel):
    word: str


class Item(BaseModel):
    name: str = Field(description="what it is called")
    tags: list[Tag] = []


class Node(BaseModel):
    children: list["Node"] = []


@dataclass
class Point:
    x: float


class Box(msgspec.Struct):
    points: list[Point]


def other_tag() -> type[BaseModel]:
    class Tag(BaseModel):
        letter: int

    return Tag


def row(tag: str, code: Any) -> Backend:
    return backend_row(tag, 1, parse_backend_config({}), describe(code), (0, ""), ())


def table(*endpoints: Endpoint, **codes: Any) -> RoutingTable:
    """Return a table that has been over the wire, as the ingress gets it."""
    rows = tuple(row(tag, code) for tag, code in codes.items())
    return decode_table(encode_table(RoutingTable("shop", 3, 7, endpoints, rows)))


def endpoint(name: str, route: str | None, *methods: str, **weights: float) -> Endpoint:
    return Endpoint(name, route, methods or ("POST",), Traffic(weights) if weights else None)


def described(*endpoints: Endpoint, **codes: Any) -> dict[str, Any]:
    found = document(table(*endpoints, **codes))
    check(found)
    return found


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from parts(one)


def own(keys: Any) -> set[str]:
    return {key for key in keys if not key.startswith("x-")}


def check(found: dict[str, Any]) -> None:
    """Hold a document to the rules of OpenAPI 3.1 that ours could break."""
    assert own(found) == {"openapi", "info", "paths", "components"}
    assert msgspec.json.decode(msgspec.json.encode(found)) == found
    schemas = found["components"]["schemas"]
    for name, schema in schemas.items():
        assert not set(name) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
        jsonschema.Draft202012Validator.check_schema(schema)
    for part in parts(found):
        assert "$defs" not in part
        if isinstance(reference := part.get("$ref"), str):
            assert reference.removeprefix("#/components/schemas/") in schemas
    ids = []
    for path, item in found["paths"].items():
        assert path.startswith("/")
        assert own(item) <= _ITEM
        for verb, operation in item.items():
            if not verb.startswith("x-"):
                ids.append(operation["operationId"])
                check_operation(path, operation)
                for named in operation.get("x-rayserve-call-methods", {}).values():
                    check_operation(path, named)
    assert len(set(ids)) == len(ids)


def check_operation(path: str, operation: dict[str, Any]) -> None:
    assert own(operation) <= _OPERATION
    assert {one["name"] for one in operation["parameters"] if one["in"] == "path"} == {
        part[1:-1] for part in path.split("/") if part.startswith("{")
    }
    for one in operation["parameters"]:
        assert set(one) <= _PARAMETER
        assert one["required"] or one["in"] != "path"
        jsonschema.Draft202012Validator.check_schema(one["schema"])
    if "requestBody" in operation:
        assert set(operation["requestBody"]) <= _BODY
        assert operation["requestBody"]["content"]
    assert all(response["description"] for response in operation["responses"].values())


def parameters(operation: dict[str, Any]) -> list[tuple[str, str, bool, Any]]:
    return [(one["name"], one["in"], one["required"], one["schema"].get("type")) for one in operation["parameters"]]


def body(operation: dict[str, Any]) -> Any:
    return operation["requestBody"]["content"]["application/json"]["schema"]


# -- handlers ----------------------------------------------------------------------------------------------


def test_one_model_is_the_body_and_the_rest_path_and_query() -> None:
    def price(shop: int, item: Item, limit: int = 3) -> Item:
        """Price an item.

        In the shop's
        own currency.
        """
        return item

    found = described(endpoint("price", "/shops/{shop}/price", b=1.0), b=price)
    operation = found["paths"]["/shops/{shop}/price"]["post"]
    assert operation["summary"] == "Price an item."
    assert operation["description"] == "In the shop's\nown currency."
    assert parameters(operation) == [("shop", "path", True, "integer"), ("limit", "query", False, "integer")]
    assert body(operation) == {"$ref": "#/components/schemas/Item"}
    assert operation["requestBody"]["required"] is True
    assert operation["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Item"
    }
    assert set(operation["responses"]) == {"200", "422", "default"}
    item = found["components"]["schemas"]["Item"]
    assert item["properties"]["name"]["description"] == "what it is called"
    assert item["properties"]["tags"]["items"] == {"$ref": "#/components/schemas/Tag"}


def test_scalars_are_members_of_the_body_or_of_the_query_as_the_http_method_suggests() -> None:
    def area(x: float, names: list[str], unit: str = "m") -> float:
        return x

    item = described(endpoint("area", "/area", "GET", "POST", b=1.0), b=area)["paths"]["/area"]
    assert parameters(item["get"]) == [
        ("x", "query", True, "number"),
        ("names", "query", True, "array"),
        ("unit", "query", False, "string"),
    ]
    assert "requestBody" not in item["get"]
    assert parameters(item["post"]) == []
    assert body(item["post"])["required"] == ["x", "names"]
    assert body(item["post"])["properties"]["unit"] == {"type": "string", "default": "m"}
    assert item["post"]["requestBody"]["description"] == "May come in the query as well: x, names, unit."


def test_several_models_are_members_of_one_object() -> None:
    def both(point: Point, box: Box, extra: dict[str, int] = {}) -> None: ...  # noqa: B006

    found = described(endpoint("both", "/both", "GET", b=1.0), b=both)
    operation = found["paths"]["/both"]["get"]
    assert body(operation)["properties"]["point"] == {"$ref": "#/components/schemas/Point"}
    assert body(operation)["properties"]["box"] == {"$ref": "#/components/schemas/Box"}
    assert body(operation)["required"] == ["point", "box"]
    assert operation["responses"]["200"] == {"description": "An empty body."}


def test_untyped_handlers_take_and_give_anything() -> None:
    def plain(request: Any) -> str:
        return "x"

    item = described(endpoint("plain", "/plain/{id}", "GET", "POST", b=1.0), b=plain)["paths"]["/plain/{id}"]
    assert item["get"]["description"].startswith("Not typed")
    assert parameters(item["get"]) == [("id", "path", True, "string")]
    assert item["post"]["requestBody"] == {"content": {"*/*": {}}}
    assert item["post"]["responses"]["200"]["content"] == {"*/*": {}}
    assert "422" not in item["post"]["responses"]


def test_recursive_models_and_models_of_one_name_keep_apart() -> None:
    one, two = other_tag(), other_tag()
    assert one is not two

    def first(tag: Tag) -> Node: ...  # type: ignore[empty-body]
    def second(tag: Any) -> Node: ...  # type: ignore[empty-body]
    def third(tag: Any) -> Node: ...  # type: ignore[empty-body]

    second.__annotations__["tag"], third.__annotations__["tag"] = one, two
    found = described(
        endpoint("first", "/1", a=1.0), endpoint("second", "/2", b=1.0), endpoint("third", "/3", c=1.0),
        a=first, b=second, c=third,
    )  # fmt: skip
    schemas = found["components"]["schemas"]
    assert set(schemas) == {"Error", "FieldError", "InvalidArguments", "Tag", "Tag_2", "Node"}
    assert body(found["paths"]["/2"]["post"]) == body(found["paths"]["/3"]["post"])
    assert schemas["Node"]["properties"]["children"]["items"] == {"$ref": "#/components/schemas/Node"}


def test_a_users_model_never_takes_the_place_of_ours() -> None:
    class Error(BaseModel):
        mine: int

    def func(error: Any) -> None: ...

    func.__annotations__["error"] = Error
    found = described(endpoint("e", "/e", b=1.0), b=func)
    assert body(found["paths"]["/e"]["post"]) == {"$ref": "#/components/schemas/Error_2"}
    assert "request_id" in found["components"]["schemas"]["Error"]["properties"]


class Calls:
    def __call__(self, a: int) -> int:
        return a

    def other(self, tag: Tag) -> Tag:
        return tag

    def untyped(self, request: Any) -> None: ...


@pytest.mark.parametrize(("allowed", "names"), [(None, ["other"]), (("other",), ["other"]), (False, []), ((), [])])
def test_other_methods_are_chosen_by_header_if_the_endpoint_allows_them(allowed: Any, names: list[str]) -> None:
    one = Endpoint("c", "/c", ("POST",), Traffic({"b": 1.0}), EndpointOptions(call_methods=allowed))
    operation = described(one, b=Calls)["paths"]["/c"]["post"]
    assert list(operation.get("x-rayserve-call-methods", {})) == names
    headers = [parameter for parameter in operation["parameters"] if parameter["in"] == "header"]
    assert [parameter["schema"]["enum"] for parameter in headers] == ([names] if names else [])
    if names:
        assert body(operation["x-rayserve-call-methods"]["other"]) == {"$ref": "#/components/schemas/Tag"}


# -- endpoints ---------------------------------------------------------------------------------------------


def test_the_backend_with_most_traffic_describes_the_endpoint() -> None:
    def old(a: int) -> int:
        return a

    def new(b: int) -> int:
        return b

    operation = described(endpoint("e", "/e", old=0.3, new=0.7), old=old, new=new)["paths"]["/e"]["post"]
    assert list(body(operation)["properties"]) == ["b"]
    assert operation["x-rayserve-backends"] == ["new", "old"]


def test_backends_stay_hidden_where_the_endpoint_hides_them() -> None:
    hidden = Endpoint("e", "/e", ("GET",), Traffic({"secret": 1.0}), EndpointOptions(expose_backend=False))
    assert "secret" not in str(described(hidden, secret=lambda request: 1))


def test_endpoints_without_traffic_or_route() -> None:
    found = described(endpoint("later", "/later"), endpoint("inner", None))
    assert list(found["paths"]) == ["/later"]
    assert found["paths"]["/later"]["post"]["x-rayserve-backends"] == []


def test_a_mount_has_the_rest_of_its_path_as_parameter() -> None:
    found = described(endpoint("all", "/*", "GET"), endpoint("files", "/files/*", "GET"), endpoint("exact", "/files"))
    assert set(found["paths"]) == {"/{path}", "/files/{path}", "/files"}
    assert parameters(found["paths"]["/files/{path}"]["get"]) == [("path", "path", True, "string")]


def test_a_mount_never_takes_a_templates_place() -> None:
    found = described(endpoint("a", "/a/*", "GET"), endpoint("b", "/a/{id}", "GET"))
    assert set(found["paths"]) == {"/a/{id}", "/a/*"}


def test_unusual_http_methods_and_names_stay_legal() -> None:
    found = described(
        endpoint("a-b", "/1", "GET", "PURGE"), endpoint("a.b", "/2", "GET"), endpoint("a_b", "/3", "HEAD", "OPTIONS")
    )
    assert found["paths"]["/1"]["x-rayserve-methods"] == ["PURGE"]


def test_whole_apps_say_so() -> None:
    rows = (Backend("b", 1, app="asgi"),)
    found = document(RoutingTable("i", 1, 1, (endpoint("app", "/app/*", "GET", b=1.0),), rows))
    assert "asgi" in found["paths"]["/app/{path}"]["get"]["description"]


# -- pages --------------------------------------------------------------------------------------------------


def test_extras_that_are_not_json_cost_the_schema_only() -> None:
    class Odd(BaseModel, json_schema_extra={"odd": object()}):
        a: int

    def func(odd: Any) -> None: ...

    func.__annotations__["odd"] = Odd
    operation = described(endpoint("e", "/e", b=1.0), b=func)["paths"]["/e"]["post"]
    assert body(operation) == {}


def test_pages_are_made_once_per_table() -> None:
    pages = Pages()
    first = table(endpoint("e", "/e"))
    made = [pages.get(path, first) for path in PATHS]
    assert all(pages.get(path, first) is one for path, one in zip(PATHS, made, strict=True))
    headers, data = pages.get("/-/openapi.json", table(endpoint("f", "/f")))
    assert headers == b"content-type: application/json\r\n"
    assert list(msgspec.json.decode(data)["paths"]) == ["/f"]


def test_pages_without_a_table_are_empty() -> None:
    found = msgspec.json.decode(Pages().get("/-/openapi.json", None)[1])
    check(found)
    assert found["paths"] == {}
