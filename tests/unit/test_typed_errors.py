# No `from __future__ import annotations`: models defined in here are found by their objects, not by name.

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator
from tests.unit.typed_subjects import JSON, Item, Tag, Tagged, ask, filled, plan, taking, wrong

from rayserve import errors
from rayserve.errors import InvalidArgumentsError


def test_every_field_that_is_wrong_is_named() -> None:
    def func(a: int, items: list[Item], tagged: Tagged) -> None: ...

    body = b'{"items": [{"name": "a", "price": 1}, {"name": 2}], "tagged": {"tags": [{"word": "w"}, {"weight": 2}]}}'
    assert wrong(lambda: ask(func, body, b"a=x")) == [
        (["query", "a"], "int_parsing"),
        (["body", "items", 1, "name"], "string_type"),
        (["body", "items", 1, "price"], "missing"),
        (["body", "tagged", "tags", 1, "word"], "missing"),
    ]


def test_msgspec_errors_have_the_same_form() -> None:
    def func(tagged: Tagged) -> None: ...

    assert wrong(lambda: ask(func, b'{"tags": 1}')) == [(["body", "tags"], "type_error")]
    assert wrong(lambda: ask(func, b"{}")) == [(["body", "tags"], "missing")]
    assert wrong(lambda: ask(func, b'{"tags": [], "by_word": {"k": {"word": "w", "weight": "x"}}}')) == [
        (["body", "by_word", "...", "weight"], "type_error")
    ]
    assert wrong(lambda: ask(func, b"{nope")) == [(["body"], "json_invalid")]
    assert wrong(lambda: ask(func, b'{"more": ' + b"[" * 100_000)) == [(["body"], "json_invalid")]


@pytest.mark.parametrize("body", [b"{", b'{"a": 1', b"nope", b'{"a": 1} x', b'{"z": ' + b"[" * 100_000, b"\xff"])
def test_a_body_that_is_not_json_is_said_once(body: bytes) -> None:
    def members(a: int, b: int) -> None: ...
    def whole(item: Item) -> None: ...

    assert wrong(lambda: ask(members, body)) == [(["body"], "json_invalid")]
    assert wrong(lambda: ask(whole, body)) == [(["body"], "json_invalid")]


def test_json_that_is_no_object_is_said_once() -> None:
    def members(a: int, b: int = 2) -> None: ...

    assert wrong(lambda: ask(members, b"[1, 2]")) == [(["body"], "dict_type")]


def test_what_is_missing_is_looked_for_where_it_would_have_been() -> None:
    def func(a: int, d: dict[str, int]) -> None: ...

    assert wrong(lambda: ask(func)) == [(["query", "a"], "missing"), (["body", "d"], "missing")]
    assert wrong(lambda: ask(func, b"{}")) == [(["body", "a"], "missing"), (["body", "d"], "missing")]
    assert wrong(lambda: ask(taking(Item))) == [(["body"], "missing")]


def test_a_body_of_another_content_type_is_not_read() -> None:
    def members(a: int, b: int) -> None: ...
    def optional(a: int = 1) -> None: ...

    form = [("content-type", "application/x-www-form-urlencoded")]
    assert wrong(lambda: ask(members, b'{"a": 1, "b": 2}', headers=form)) == [(["body"], "content_type")]
    assert wrong(lambda: ask(taking(Item), b'{"name": "a", "price": 1}', headers=form)) == [(["body"], "content_type")]
    assert filled(optional, b"a=2", headers=form) == {}
    for good in ([], [("content-type", "application/problem+json; charset=utf-8")], [("content-type", "")]):
        assert filled(members, b'{"a": 1, "b": 2}', headers=good) == {"a": 1, "b": 2}


def test_null_is_a_value() -> None:
    def func(a: int = 1, b: int | None = 2) -> None: ...

    assert filled(func, b'{"b": null}') == {"b": None}
    assert wrong(lambda: ask(func, b'{"a": null}')) == [(["body", "a"], "int_type")]


def test_a_long_list_of_wrong_numbers_is_refused_for_its_first() -> None:
    def func(x: list[list[float]]) -> None: ...

    body = b'{"x": [[1, "a", "b"], ["c"]]}'
    assert wrong(lambda: ask(func, body)) == [(["body", "x", 0, 1], "float_parsing")]


def test_thousands_of_errors_are_counted_instead_of_listed() -> None:
    def func(x: dict[str, int]) -> None: ...

    body = msgspec.json.encode({"x": {str(n): "a" for n in range(1001)}})
    assert wrong(lambda: ask(func, body)) == [(["body", "x"], "too_many")]
    body = msgspec.json.encode({"x": {str(n): "a" for n in range(500)}})
    assert len(wrong(lambda: ask(func, body))) == 100


def test_the_error_stands_in_the_tree_drawn_in_errors() -> None:
    assert "InvalidArgumentsError (ValueError)" in (errors.__doc__ or "")
    assert "InvalidArgumentsError" in errors.__all__


def test_other_exceptions_of_user_validators_are_theirs() -> None:
    class Broken(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def broken(cls, a: int) -> int:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ask(taking(Broken), b'{"a": 1}')


@given(st.binary(max_size=64), st.binary(max_size=32).filter(lambda query: b"\n" not in query))
def test_no_bytes_raise_anything_else(body: bytes, query: bytes) -> None:
    for func in (_MEMBERS, _TWO, _WHOLE):
        try:
            func.from_request({}, query, JSON, body)
        except InvalidArgumentsError as error:
            assert error.errors


def _members(a: int, b: list[float], c: dict[str, Tag]) -> None: ...
def _two(a: Item, b: Item) -> None: ...
def _whole(tagged: Tagged, a: int = 1) -> None: ...


_MEMBERS, _TWO, _WHOLE = plan(_members), plan(_two), plan(_whole)
