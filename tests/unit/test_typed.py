# No `from __future__ import annotations`: models defined in here are found by their objects, not by name.
import functools
from typing import Annotated, Any

import flask
import msgspec
import pytest
from pydantic import BaseModel, Field
from tests.unit.typed_subjects import Free, Item, Point, Tag, ask, filled, plan, taking, wrong

from rayserve import batching, typed
from rayserve.method_schema import MethodSchema
from rayserve.replica.handler import Handler, describe
from rayserve.typed import plan_of

# -- what is typed -------------------------------------------------------------------------------------------


def test_models_scalars_and_lists_and_dicts_of_them_make_a_handler_typed() -> None:
    def pydantic_model(item: Item) -> None: ...
    def struct(tag: Tag) -> None: ...
    def data(point: Point) -> None: ...
    def scalars(a: str, b: int, c: float, d: bool) -> None: ...
    def lists(a: list[float], b: list[Item], c: list[list[float]]) -> None: ...
    def dicts(a: dict[str, int], b: dict[str, list[Tag]], c: dict[int, Point]) -> None: ...
    def limited(a: Annotated[int, Field(ge=1)]) -> None: ...
    def optional(a: int = 1) -> None: ...

    for func in (pydantic_model, struct, data, scalars, lists, dicts, limited, optional):
        assert plan_of(func, True) is not None, func.__name__


def test_everything_else_takes_the_request_as_before() -> None:
    def nothing() -> None: ...
    def plain(request) -> None: ...  # type: ignore[no-untyped-def]
    def asked(request: flask.Request) -> None: ...
    def anything(request: Any) -> None: ...
    def mixed(item: Item, request: flask.Request) -> None: ...
    def half(item: Item, other) -> None: ...  # type: ignore[no-untyped-def]
    def bare(a: list, b: dict) -> None: ...  # type: ignore[type-arg]
    def union(a: int | str) -> None: ...
    def inner(a: list[Any]) -> None: ...
    def free(a: Free) -> None: ...
    def late(a: "Undefined") -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def only_unknown(a: Any = None, *args: int, **kwargs: int) -> None: ...

    for func in (nothing, plain, asked, anything, mixed, half, bare, union, inner, free, late, only_unknown, print):
        assert plan_of(func, True) is None, func


def test_a_batch_handler_is_never_typed() -> None:
    @batching.accept_batch
    def batch(items: list[Item]) -> None: ...

    assert describe(batch).methods[0].schema == b""
    assert Handler(batch).resolve().typed is None


def test_string_annotations_are_resolved() -> None:
    def func(item: "Item", n: "int" = 1) -> "Item": ...  # type: ignore[empty-body]

    assert filled(func, b'{"name": "a", "price": 1}', b"n=2") == {"item": Item(name="a", price=1), "n": 2}


def test_a_name_for_type_checkers_only_spoils_nothing_but_its_own_annotation() -> None:
    def func(a: "int", b: "Unknown" = None) -> "Unknown": ...  # type: ignore[name-defined]  # noqa: F821

    assert filled(func, query=b"a=1&b=2") == {"a": 1}


# -- HTTP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"name": "a", "price": 2}', Item(name="a", price=2)),
        (b'{"word": "w"}', Tag("w")),
        (b'{"x": 1, "y": 2, "seen": ["a"]}', Point(1, 2, "", ["a"])),
    ],
)
def test_one_model_is_the_whole_body(body: bytes, value: object) -> None:
    assert filled(taking(type(value)), body) == {"thing": value}


def test_beside_one_model_the_others_come_from_path_and_query() -> None:
    def func(shop: int, item: Item, note: str = "none") -> None: ...

    body = b'{"name": "a", "price": 1, "note": "in the body", "shop": 9}'
    assert filled(func, body, b"note=q", params={"shop": "3"}) == {
        "shop": 3,
        "item": Item(name="a", price=1),
        "note": "q",
    }
    assert wrong(lambda: ask(func, body)) == [(["query", "shop"], "missing")]


def test_a_model_beside_a_dict_or_a_list_of_models_comes_by_name() -> None:
    def func(tag: Tag, weights: dict[str, int], items: list[Item] = []) -> None: ...  # noqa: B006

    assert filled(func, b'{"tag": {"word": "w"}, "weights": {"a": 1}}') == {"tag": Tag("w"), "weights": {"a": 1}}


def test_two_models_come_by_name() -> None:
    def func(item: Item, point: Point, tag: Tag) -> None: ...

    body = b'{"item": {"name": "a", "price": 1}, "point": {"x": 1, "y": 2}, "tag": {"word": "w"}, "more": [1]}'
    assert filled(func, body) == {"item": Item(name="a", price=1), "point": Point(1, 2), "tag": Tag("w")}


def test_names_are_looked_for_in_path_then_query_then_json() -> None:
    def func(a: int, b: int, c: int, d: int = 4) -> None: ...

    body = b'{"a": 30, "b": 30, "c": 30}'
    assert filled(func, body, b"a=20&b=20", params={"a": "10"}) == {"a": 10, "b": 20, "c": 30}


def test_repeated_query_names_make_a_list_and_the_last_one_a_scalar() -> None:
    def func(tags: list[str], n: int, one: list[int]) -> None: ...

    assert filled(func, query=b"tags=a&n=1&tags=b%20c&n=2", params={"one": "7"}) == {
        "tags": ["a", "b c"],
        "n": 2,
        "one": [7],
    }


def test_text_becomes_what_the_annotation_says() -> None:
    def func(s: str, i: int, f: float, b: bool, o: int | None = 3) -> None: ...

    assert filled(func, query=b"s=12&i=-3&f=1e3&b=true&o=4") == {"s": "12", "i": -3, "f": 1000.0, "b": True, "o": 4}
    assert wrong(lambda: ask(func, query=b"s=&i=1.5&f=x&b=2")) == [
        (["query", "i"], "int_parsing"),
        (["query", "f"], "float_parsing"),
        (["query", "b"], "bool_parsing"),
    ]


def test_query_bytes_that_are_not_text_stay_escaped_as_in_request_args() -> None:
    def func(s: str) -> None: ...

    assert filled(func, query=b"s=%ff\xfe")["s"] == "%FF%FE"


def test_defaults_stay_unless_the_client_says_otherwise() -> None:
    def func(a: int, b: int = 2, c: Any = 3, *, _d: int = 4) -> None: ...

    assert filled(func, query=b"a=1&c=30&_d=40") == {"a": 1}
    assert filled(func, b'{"b": 20, "c": 30, "_d": 40}', b"a=1") == {"a": 1, "b": 20}


def test_what_a_partial_fixed_is_not_the_clients_to_change() -> None:
    def func(text: str, path: str) -> str:
        return text + path

    fixed = functools.partial(func, path="/safe")
    assert filled(fixed, query=b"text=t&path=/etc") == {"text": "t"}
    assert plan(fixed).from_call(("t",), {"path": "/mine"}) == (("t",), {"path": "/mine"})


def test_positional_only_parameters_go_by_position() -> None:
    def func(a: int, b: int = 2, /, c: int = 3) -> tuple[int, int, int]:
        return (a, b, c)

    args, kwargs = ask(func, query=b"a=1&c=30")
    assert func(*args, **kwargs) == (1, 2, 30)


def test_constraints_and_validators_of_models_and_annotations_hold() -> None:
    def func(item: Item, n: Annotated[int, Field(ge=1, le=5)] = 1) -> None: ...

    assert wrong(lambda: ask(func, b'{"name": "nobody", "price": 0}', b"n=6")) == [
        (["body", "name"], "value_error"),
        (["body", "price"], "greater_than"),
        (["query", "n"], "less_than_equal"),
    ]

    def point(point: Point) -> None: ...

    assert wrong(lambda: ask(point, b'{"x": -1, "y": 0}')) == [(["body"], "value_error")]


def test_json_is_judged_as_json_also_for_members() -> None:
    class Strict(BaseModel, strict=True):
        when: bytes
        n: int

    def func(a: Strict, b: Strict) -> None: ...

    body = b'{"a": {"when": "x", "n": 1}, "b": {"when": "y", "n": "1"}}'
    assert wrong(lambda: ask(func, body)) == [(["body", "b", "n"], "int_type")]


# -- schemas -------------------------------------------------------------------------------------------------


def test_the_schema_names_parameters_places_defaults_result_and_docstring() -> None:
    def func(shop: int, item: Item, tags: list[str] = [], n: int = 3, _x: int = 1) -> dict[str, float]:  # noqa: B006
        """Price an item.

        At length.
        """
        return {}

    schema = msgspec.json.decode(plan(func).schema(), type=MethodSchema)
    assert [(one.name, one.place, one.required) for one in schema.parameters] == [
        ("shop", "text", True),
        ("item", "body", True),
        ("tags", "texts", False),
        ("n", "text", False),
    ]
    assert schema.parameters[1].schema["required"] == ["name", "price"]
    assert schema.parameters[3].schema == {"type": "integer", "default": 3}
    assert schema.doc == "Price an item.\n\nAt length."
    assert schema.response is not None
    assert schema.response.media == "application/json"
    assert schema.response.schema["additionalProperties"] == {"type": "number"}


def test_typed_exports_its_names() -> None:
    assert typed.__all__ == sorted(typed.__all__)
