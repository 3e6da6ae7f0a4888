from __future__ import annotations

import collections
import copyreg
import dataclasses
import functools
import pickle
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest
from pydantic import BaseModel

from rayserve.signatures import carried, read

if TYPE_CHECKING:
    import collections as unknown


class Early(BaseModel):
    late: Late | None = None


class Late(BaseModel):
    n: int = 1


@dataclasses.dataclass
class Inner:
    n: int


@dataclasses.dataclass
class Outer:
    inner: list[Inner]
    early: Early


def func(outer: Outer, n: int = 1, odd: unknown.Counter[str] | None = None) -> Inner:
    """Say what it does.

    At length.
    """
    return Inner(n)


class Code:
    def __call__(self, outer: Outer) -> None: ...

    @staticmethod
    def static(n: int) -> None: ...


def without_names(function: Callable[..., Any]) -> Any:
    """Return a function as it arrives by value: of its globals only those that its code uses."""
    arrived = types.FunctionType(function.__code__, {}, function.__name__, function.__defaults__)
    arrived.__annotations__ = dict(function.__annotations__)
    return arrived


def test_a_signature_has_resolved_hints_and_the_docstring() -> None:
    found = read(func, True)
    assert found is not None
    assert [one.name for one in found.parameters] == ["outer", "n", "odd"]
    assert found.hints == {"outer": Outer, "n": int, "return": Inner}
    assert found.doc == "Say what it does.\n\nAt length."


def test_self_and_what_partials_gave_are_left_out_or_marked() -> None:
    method = read(Code.__call__, False)
    assert method is not None
    assert [one.name for one in method.parameters] == ["outer"]
    given = read(functools.partial(functools.partial(func, Outer([], Early())), n=3), True)
    assert given is not None
    assert [one.name for one in given.parameters] == ["n", "odd"]
    assert given.fixed == {"n"}


@pytest.mark.parametrize("code", [dict, Code(), functools.partial(Code()), 3])
def test_what_has_no_annotations_of_its_own_has_no_signature(code: Any) -> None:
    assert read(code, True) is None


@pytest.mark.parametrize("code", [func, Code, functools.partial(func, n=2), Code().__call__])
def test_carried_annotations_are_objects_inside_and_text_outside(code: Any) -> None:
    call = Code.__call__ if code is not func and not isinstance(code, functools.partial) else func
    field = Outer.__dataclass_fields__["inner"]
    with carried(code):
        arrived = without_names(call)
        assert field.type == list[Inner]
        assert Inner.__annotations__ == {"n": int}
    assert get_type_hints(arrived, globalns={"unknown": collections, "Inner": Inner})["outer"] is Outer
    assert call.__annotations__ != arrived.__annotations__
    assert all(isinstance(one, str) for one in call.__annotations__.values())
    assert field.type == "list[Inner]"
    assert Inner.__annotations__ == {"n": "int"}


def test_carried_leaves_what_it_cannot_resolve() -> None:
    with carried(func):
        assert func.__annotations__["odd"] == "unknown.Counter[str] | None"
        assert func.__annotations__["n"] is int


def test_carried_puts_everything_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), carried(Code):
        assert Code.static.__annotations__["n"] is int
        raise ZeroDivisionError
    assert Code.static.__annotations__["n"] == "int"


def test_carried_completes_models_that_name_later_ones() -> None:
    class First(BaseModel):
        second: Second | None = None

    def taking(first: Any) -> None: ...

    taking.__annotations__["first"] = First
    assert First.__pydantic_complete__ is False

    class Second(BaseModel):
        n: int

    globals()["Second"] = Second
    try:
        with carried(taking):
            pass
        assert First.__pydantic_complete__ is True
    finally:
        del globals()["Second"]


def test_carried_fields_without_default_keep_none() -> None:
    with carried(func):
        pass
    assert pickle.loads(pickle.dumps(dataclasses.MISSING)) is dataclasses.MISSING
    assert type(dataclasses.MISSING) in copyreg.dispatch_table
