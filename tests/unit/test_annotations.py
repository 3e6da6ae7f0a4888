"""Annotations as each Python has them: those of this module are no text, and from Python 3.14 on evaluated late."""

import dataclasses
import gc
import pickle
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import pytest

from rayserve.annotations import declared, inside, replace, signature
from rayserve.apps import App
from rayserve.cluster.pickling import by_value
from rayserve.replica.handler import describe
from rayserve.signatures import carried, read

if TYPE_CHECKING:
    from fractions import Fraction

late = pytest.mark.skipif(sys.version_info < (3, 14), reason="before Python 3.14 they run at once")


def late_function() -> Callable[..., Any]:
    def func(known: Decimal, missing: list[Fraction], text: "Decimal") -> Literal["a"]:
        return "a"

    return func


def test_declared_are_those_of_the_thing_itself() -> None:
    class Base:
        n: int

    class Derived(Base):
        late: "Later"

    def func(n: int, late: "Later | None" = None) -> None: ...

    class Later: ...

    assert declared(Derived) == {"late": "Later"}
    assert declared(func) == {"n": int, "late": "Later | None", "return": None}
    assert declared(func) is not func.__annotations__


def test_replaced_annotations_come_back() -> None:
    class Model:
        a: "int"

    def func(a: "int") -> None: ...

    func.__annotations__["more"] = str
    for thing in (Model, func):
        before = declared(thing)
        undo = replace(thing, {"a": int})
        assert get_type_hints(thing)["a"] is int
        assert declared(thing)["a"] is int
        undo()
        assert declared(thing) == before
        assert before["a"] == "int"


def test_inside_is_all_there_is_in_brackets() -> None:
    assert list(inside(dict[str, list[int]])) == [dict[str, list[int]], str, list[int], int]


@late
def test_what_cannot_be_evaluated_is_declared_as_text() -> None:
    func = late_function()
    assert declared(func) == {
        "known": Decimal,
        "missing": "list[Fraction]",
        "text": "Decimal",
        "return": Literal["a"],
    }
    found = read(func, True)
    assert found is not None
    assert found.hints == {"known": Decimal, "text": Decimal, "return": Literal["a"]}


@late
def test_what_cannot_be_evaluated_is_replaced_for_a_while() -> None:
    class Model:
        missing: Fraction

    for thing in (Model, late_function()):
        undo = replace(thing, declared(thing))
        assert "Fraction" in thing.__annotations__["missing"]
        undo()
        with pytest.raises(NameError):
            _ = thing.__annotations__


@late
def test_nonsense_counts_as_no_annotation() -> None:
    def func(a: 1 / 0) -> None: ...  # type: ignore[valid-type]

    assert declared(func) == {}


@late
def test_what_is_called_needs_no_evaluated_annotations() -> None:
    assert [*signature(late_function()).parameters] == ["known", "missing", "text"]
    (method,) = describe(late_function()).methods
    assert method.wants_request

    def factory(missing: Fraction | None = None) -> Any:
        return made

    made = late_function()
    assert App("wsgi", factory).load() is made


def pickled(prepared: AbstractContextManager[None], code: Any, *others: Any) -> bytes:
    """Return code as it leaves the driver; its annotations and `others`' must be as before."""
    with prepared:
        data = by_value(code)
    for one in (code, *others):
        with pytest.raises(NameError):
            _ = one.__annotations__
    return data


@late
@pytest.mark.parametrize("prepare", [carried, nullcontext], ids=["as a backend", "as an argument"])
def test_code_with_annotations_for_type_checkers_can_be_pickled(prepare: Any) -> None:
    def leave() -> bytes:
        func = late_function()

        class Code:
            missing: Fraction

            def __call__(self, missing: Fraction, n: int = 1) -> str:
                return str(func(None, None, None) * n)

        return pickled(prepare(Code), Code, func, Code.__call__)

    data = leave()
    gc.collect()  # as long as the class lives, what arrives in the same process is the class itself
    arrived = pickle.loads(data)
    assert arrived()(None, 3) == "aaa"
    assert declared(arrived.__call__) == {"missing": "Fraction", "n": int, "return": str}


@late
def test_a_dataclass_may_name_later_ones_without_quotes() -> None:
    def leave() -> bytes:
        @dataclasses.dataclass
        class Base:
            others: list[Later] | None  # noqa: F821
            missing: Fraction | None

        @dataclasses.dataclass
        class Early(Base):
            late: Later | None = None  # noqa: F821

        @dataclasses.dataclass
        class Later:
            n: int

        def func(early: Early) -> None: ...

        types = [field.type for field in dataclasses.fields(Early)]
        with carried(func):
            data = by_value(func)
        assert [field.type for field in dataclasses.fields(Early)] == types
        return data

    data = leave()
    gc.collect()  # as above
    found = read(pickle.loads(data), True)
    assert found is not None
    model: Any = found.hints["early"]
    types: list[Any] = [field.type for field in dataclasses.fields(model)]
    others, missing, late = types
    later: Any = get_args(late)[0]
    assert declared(later) == {"n": int}
    assert get_args(get_args(others)[0]) == (later,)
    assert missing == "Fraction | None"
    assert declared(model) == {"late": late}
