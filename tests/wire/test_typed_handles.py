# No `from __future__ import annotations`: models defined in here are found by their objects, not by name.
from dataclasses import dataclass

import msgspec
import pytest
from pydantic import BaseModel
from tests.wire.mini import Mini

from rayserve.errors import InvalidArgumentsError


class Item(BaseModel):
    name: str
    price: float


class Tag(msgspec.Struct):
    word: str


@dataclass
class Point:
    x: int


def describe(item: Item, point: Point, tag: Tag, times: int = 1) -> list[object]:
    return [type(item).__name__, item.price * times, type(point).__name__, point.x, type(tag).__name__, tag.word]


EXPECTED = ["Item", 3.0, "Point", 1, "Tag", "w"]


def test_handle_calls_take_models_or_what_they_are_made_of() -> None:
    with Mini() as mini:
        mini.backend("b", describe).endpoint("e", None, {"b": 1.0}).publish()
        handle = mini.handle("e")
        assert handle.remote(Item(name="a", price=1.5), Point(1), Tag("w"), 2).result() == EXPECTED
        plain = {"name": "a", "price": "1.5"}
        assert handle.remote(plain, point={"x": 1}, tag={"word": "w"}, times="2").result() == EXPECTED


def test_handle_calls_that_do_not_fit_raise_an_error_that_names_each_field() -> None:
    with Mini() as mini:
        mini.backend("b", describe).endpoint("e", None, {"b": 1.0}).publish()
        handle = mini.handle("e")
        with pytest.raises(InvalidArgumentsError) as caught:
            handle.remote({"name": "a"}, Point(1), times="x", other=1).result()
        assert [(one["loc"], one["type"]) for one in caught.value.errors] == [
            (["item", "price"], "missing"),
            (["times"], "int_parsing"),
            (["other"], "unexpected_argument"),
            (["tag"], "missing"),
        ]
        assert str(caught.value).startswith("item.price: Field required; times: ")
        with pytest.raises(ValueError, match=r"^item: Field required"):
            handle.remote().result()
        assert handle.remote(Item(name="a", price=3), Point(1), Tag("w")).result() == EXPECTED
