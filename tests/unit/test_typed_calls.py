# No `from __future__ import annotations`: models defined in here are found by their objects, not by name.
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from tests.unit.typed_subjects import JSON, Item, Point, Tag, filled, plan, wrong

from rayserve.errors import HTTPError, InvalidArgumentsError, RayServeException
from rayserve.replica.handler import Handler
from rayserve.typed import plan_of

# -- handles -------------------------------------------------------------------------------------------------


def test_python_calls_are_validated_by_position_and_by_name() -> None:
    def func(item: Item, n: int = 1, free: Any = None) -> None: ...

    item = Item(name="a", price=1)
    free = object()
    args, kwargs = plan(func).from_call((item,), {"n": "2", "free": free})
    assert args == (item,)
    assert args[0] is item
    assert kwargs == {"n": 2, "free": free}
    args, kwargs = plan(func).from_call(({"name": "a", "price": 1}, 3), {})
    assert args == (item, 3)
    assert kwargs == {}


def test_instances_of_every_kind_of_model_pass_as_they_are() -> None:
    def func(item: Item, tag: Tag, point: Point) -> None: ...

    given = (Item(name="a", price=1), Tag("w"), Point(1, 2))
    args, _ = plan(func).from_call(given, {})
    assert all(one is other for one, other in zip(args, given, strict=True))


def test_another_copy_of_a_model_is_read_by_its_fields() -> None:
    class Other(BaseModel):
        name: str = "a"
        price: float = 2

    def func(item: Item) -> None: ...

    assert plan(func).from_call((Other(),), {})[0] == (Item(name="a", price=2),)


def test_python_calls_with_wrong_arguments_name_each() -> None:
    def func(a: int, b: Item, *, c: int = 0) -> None: ...

    call = plan(func).from_call
    assert wrong(lambda: call(("x",), {"b": {"price": -1}})) == [
        (["a"], "int_parsing"),
        (["b", "name"], "missing"),
        (["b", "price"], "greater_than"),
    ]
    assert wrong(lambda: call((), {})) == [(["a"], "missing"), (["b"], "missing")]
    assert wrong(lambda: call((1, Item(name="a", price=1), 3), {"d": 4, "a": 1})) == [
        ([2], "unexpected_argument"),
        (["d"], "unexpected_argument"),
        (["a"], "multiple_argument_values"),
    ]


def test_open_ended_signatures_take_the_rest_unseen() -> None:
    def func(a: int, /, *more: Any, **others: Any) -> None: ...

    assert plan(func).from_call(("1", "x"), {"a": "y", "z": 2}) == ((1, "x"), {"a": "y", "z": 2})


def test_the_error_of_a_handle_call_reads_well_and_pickles() -> None:
    def func(a: int, tag: Tag) -> None: ...

    with pytest.raises(InvalidArgumentsError) as caught:
        plan(func).from_call(("x",), {})
    error = pickle.loads(pickle.dumps(caught.value))
    assert type(error) is InvalidArgumentsError
    assert all(issubclass(InvalidArgumentsError, kind) for kind in (ValueError, HTTPError, RayServeException))
    assert error.status == 422
    assert error.detail == error.errors == caught.value.errors
    assert str(error) == "a: Input should be a valid integer, unable to parse string as an integer; tag: Field required"


# -- in whatever it is wrapped -------------------------------------------------------------------------------


def logged(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def without_arguments(func: Callable[..., Any]) -> Callable[[Any], Any]:
    @functools.wraps(func)
    def wrapper(request: Any) -> Any:
        return func("fixed")

    wrapper.__annotations__ = {"request": Any}
    return wrapper


class Model:
    def __call__(self, item: Item, n: int = 1) -> Item:
        return item

    @logged
    def decorated(self, a: int) -> int:
        return a

    @staticmethod
    def static(a: int) -> int:
        return a

    @classmethod
    def of_class(cls, a: int) -> int:
        return a

    async def later(self, a: int) -> int:
        return a

    def stream(self, a: int) -> Iterator[str]:
        yield str(a)

    def untyped(self, request: Any) -> Any:
        return request

    fixed = functools.partialmethod(decorated, 7)


class Child(Model):
    def own(self, a: int) -> int:
        return a


@pytest.mark.parametrize("name", ["decorated", "static", "of_class", "later", "stream"])
def test_methods_of_every_kind_are_typed(name: str) -> None:
    target = Handler(Model).resolve(name)
    assert target.typed is not None
    args, kwargs = target.typed.from_request({}, b"a=5", [], b"")
    result = target.func(*args, **kwargs)
    if name == "later":
        with pytest.raises(StopIteration) as ended:
            result.send(None)
        result = ended.value.value
    assert list(result) == ["5"] if name == "stream" else result == 5


def test_a_class_is_called_and_typed_through_its_call_method() -> None:
    target = Handler(Model).resolve()
    assert target.typed is not None and target.traits.schema
    _, kwargs = target.typed.from_request({}, b"", JSON, b'{"name": "a", "price": 1}')
    assert target.func(**kwargs) == Item(name="a", price=1)
    assert Handler(Model).resolve("untyped").typed is None
    assert Handler(Model).resolve("fixed").typed is None


def test_inherited_methods_are_typed_once_they_are_allowed() -> None:
    target = Handler(Child).resolve("decorated", ["decorated"])
    assert target.typed is not None and target.typed.from_call(("3",), {}) == ((3,), {})


def test_a_decorator_with_a_signature_of_its_own_speaks_for_itself() -> None:
    def func(text: str) -> str:
        return text

    assert plan_of(without_arguments(func), True) is None
    assert filled(logged(func), query=b"text=t") == {"text": "t"}


# -- cost ----------------------------------------------------------------------------------------------------


def test_untyped_code_and_msgspec_models_never_import_pydantic() -> None:
    script = """
import sys, flask, msgspec
from rayserve.replica.handler import Handler
class Tag(msgspec.Struct):
    word: str
def plain(request: flask.Request) -> str: ...
def tagged(tag: Tag) -> Tag: ...
def number(a: int) -> int: ...
assert Handler(plain).resolve().typed is None
assert Handler(tagged).resolve().typed is not None
assert "pydantic" not in sys.modules
assert Handler(number).resolve().typed is not None
assert "pydantic" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50, env={"PYTHONPATH": ":".join(sys.path)})
