from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import flask
import msgspec
import pytest
from pydantic import BaseModel, Field

from rayserve.errors import InvalidTypeError
from rayserve.method_schema import ResponseSchema
from rayserve.validators import Shape, response_of, shape_of, validator_of

T = TypeVar("T")


class Item(BaseModel):
    name: str = Field(alias="n")


class Page(BaseModel, Generic[T]):
    items: list[T]


class Tag(msgspec.Struct, rename="camel"):
    tag_word: str


@dataclass
class Point:
    x: int


@dataclass
class Held:
    request: flask.Request


class Custom(msgspec.Struct):
    request: flask.Request


@pytest.mark.parametrize(
    ("hint", "shape"),
    [
        (str, Shape("scalar", "pydantic", True)),
        (Annotated[int, Field(ge=1)], Shape("scalar", "pydantic", True)),
        (list[float], Shape("scalars", "pydantic", True)),
        (list[list[float]], Shape("nested", "pydantic", True)),
        (dict[str, int], Shape("nested", "pydantic", True)),
        (Item, Shape("model", "pydantic", False)),
        (Page[int], Shape("model", "pydantic", False)),
        (Point, Shape("model", "pydantic", False)),
        (Tag, Shape("model", "msgspec", False)),
        (dict[int, list[Tag]], Shape("nested", "msgspec", False)),
    ],
)
def test_shapes_of_what_can_be_filled(hint: Any, shape: Shape) -> None:
    assert shape_of(hint) == shape
    assert validator_of(hint, shape) is not None


@pytest.mark.parametrize(
    "hint",
    [
        Any,
        None,
        bytes,
        list,
        dict,
        set[int],
        tuple[int, str],
        int | None,
        dict[bytes, int],
        list[Any],
        object,
        "str",
        T,
    ],
)
def test_everything_else_has_no_shape(hint: Any) -> None:
    assert shape_of(hint) is None


@pytest.mark.parametrize("hint", [Held, Custom, list[Custom]])
def test_models_with_fields_of_free_types_have_no_validator(hint: Any) -> None:
    shape = shape_of(hint)
    assert shape is not None
    assert validator_of(hint, shape) is None


def test_a_model_that_validates_what_it_cannot_describe_is_described_by_its_name() -> None:
    class Request(BaseModel, arbitrary_types_allowed=True):
        request: flask.Request

    shape = shape_of(Request)
    assert shape is not None
    validator = validator_of(Request, shape)
    assert validator is not None
    assert validator.schema == {"title": "Request"}


def test_fields_go_by_the_names_that_clients_use() -> None:
    shape = shape_of(Tag)
    assert shape is not None
    validator = validator_of(Tag, shape)
    assert validator is not None
    with pytest.raises(ValueError, match="tagWord") as caught:
        validator.json(b"{}")
    assert validator.explain(caught.value) == [{"loc": ["tagWord"], "msg": "Field required", "type": "missing"}]


def test_other_errors_are_raised_again() -> None:
    for hint in (Item, Tag):
        shape = shape_of(hint)
        assert shape is not None
        validator = validator_of(hint, shape)
        assert validator is not None
        with pytest.raises(ValueError, match="mine"):
            validator.explain(ValueError("mine"))


def test_a_struct_that_lost_its_fields_is_refused_by_name() -> None:
    class Script(msgspec.Struct):
        pass

    Script.__slots__ = ("a",)  # type: ignore[attr-defined]  # as cloudpickle rebuilds it
    with pytest.raises(
        InvalidTypeError, match=r'the msgspec model ".*Script" lost its fields .* define it in a module'
    ):
        shape_of(Script)


@pytest.mark.parametrize(
    ("hint", "media"),
    [
        (None, ""),
        (str, "text/plain"),
        (bytes, "application/octet-stream"),
        (Generator[str, None, None], "text/plain"),
        (AsyncIterator[bytes], "text/plain"),
        (int, "application/json"),
        (list[Item], "application/json"),
        (tuple[Item, int], "application/json"),
        (Tag | None, "application/json"),
    ],
)
def test_results_have_the_content_type_they_are_sent_with(hint: Any, media: str) -> None:
    response = response_of(type(None) if hint is None else hint)
    assert response is not None
    assert response.media == media
    assert bool(response.schema) == (media == "application/json" or hint is str)


@pytest.mark.parametrize("hint", [Any, flask.Response, object, dict[str, flask.Response]])
def test_results_of_other_types_are_not_described(hint: Any) -> None:
    assert response_of(hint) is None


def test_results_are_described_as_they_are_encoded() -> None:
    assert response_of(tuple[Tag, int]) == response_of(Tag)
    item = response_of(Item)
    assert item is not None
    assert list(item.schema["properties"]) == ["name"]  # not its alias
    assert response_of(int) == ResponseSchema("application/json", {"type": "integer"})
