"""Models, and what the tests of typed handlers ask of a plan."""

# No `from __future__ import annotations`: the models are wanted as objects.
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flask
import msgspec
import pytest
from pydantic import BaseModel, Field, field_validator

from rayserve.errors import InvalidArgumentsError
from rayserve.typed import Arguments, Typed, plan_of

JSON = [("content-type", "application/json")]


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)

    @field_validator("name")
    @classmethod
    def not_nobody(cls, name: str) -> str:
        if name == "nobody":
            raise ValueError("nobody is no name")
        return name


class Tag(msgspec.Struct):
    word: str
    weight: int = 1


class Tagged(msgspec.Struct):
    tags: list[Tag]
    by_word: dict[str, Tag] = {}


@dataclass
class Point:
    x: float
    y: float
    label: str = ""
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("left of the origin")


@dataclass
class Free:
    anything: flask.Request


def plan(func: Any, bound: bool = True) -> Typed:
    found = plan_of(func, bound)
    assert found is not None, "not typed"
    return found


def ask(
    func: Any,
    body: bytes = b"",
    query: bytes = b"",
    headers: list[tuple[str, str]] = JSON,
    params: dict[str, str] | None = None,
) -> Arguments:
    return plan(func).from_request(params or {}, query, headers, body)


def filled(func: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    positional, named = ask(func, *args, **kwargs)
    assert positional == ()
    return named


def taking(kind: type) -> Any:
    def func(thing: Any) -> None: ...

    func.__annotations__["thing"] = kind
    return func


def wrong(call: Callable[[], object]) -> list[tuple[list[Any], str]]:
    with pytest.raises(InvalidArgumentsError) as caught:
        call()
    assert all(set(one) == {"loc", "msg", "type"} and one["msg"] for one in caught.value.errors)
    return [(one["loc"], one["type"]) for one in caught.value.errors]
