# No `from __future__ import annotations`: models defined in here are found by their objects, not by name.
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from tests.wire.mini import Mini

from rayserve.context import context
from rayserve.errors import HTTPError

JSON = {"content-type": "application/json"}


class Item(BaseModel):
    name: str
    price: float


class Tag(msgspec.Struct):
    word: str


@dataclass
class Point:
    x: int
    y: int


def price(shop: str, item: Item, factor: float = 2) -> Item:
    return Item(name=f"{shop}:{item.name}", price=item.price * factor)


def test_path_query_and_body_reach_the_handler_as_its_types() -> None:
    with Mini() as mini:
        mini.backend("b", price).endpoint("e", "/shops/{shop}", {"b": 1.0}).publish()
        answer = mini.post("/shops/caf%C3%A9?factor=3", b'{"name": "tea", "price": 1.5}', JSON)
        assert answer.status == 200
        assert answer["content-type"] == "application/json"
        assert answer.json() == {"name": "café:tea", "price": 4.5}


def test_what_does_not_fit_is_a_422_with_the_field_errors_and_never_reaches_the_handler() -> None:
    called = threading.Event()

    def handler(point: Point, n: int) -> None:
        called.set()

    with Mini() as mini:
        mini.backend("b", handler).endpoint("e", "/x", {"b": 1.0}).publish()
        answer = mini.post("/x?n=many", b'{"x": "1.5"}', {**JSON, "x-request-id": "mine"})
        assert answer.status == 422
        assert answer["content-type"] == "application/json"
        body = answer.json()
        assert body["error"].startswith("unprocessable")
        assert body["request_id"] == "mine"
        assert [(one["loc"], one["type"]) for one in body["detail"]] == [
            (["body", "x"], "int_parsing"),
            (["body", "y"], "missing"),
            (["query", "n"], "int_parsing"),
        ]
        assert all(one.keys() == {"loc", "msg", "type"} for one in body["detail"])
        assert not called.is_set()
        assert mini.post("/x?n=1", b'{"x": 1, "y": 2}', JSON).status == 200


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"", "missing"), (b"{", "json_invalid"), (b"[" * 50_000, "json_invalid"), (b"3", "model_type")],
)
def test_bodies_that_are_no_object_are_422_and_the_next_request_is_served(body: bytes, kind: str) -> None:
    def handler(item: Item) -> str:
        return item.name

    with Mini() as mini:
        mini.backend("b", handler).endpoint("e", "/x", {"b": 1.0}).publish()
        answer = mini.post("/x", body, JSON)
        assert answer.status == 422
        assert [one["type"] for one in answer.json()["detail"]] == [kind]
        assert mini.post("/x", b'{"name": "tea", "price": 1}', JSON).body == b"tea"


def test_a_form_is_not_taken_for_json() -> None:
    def handler(item: Item) -> str:
        return item.name

    with Mini() as mini:
        mini.backend("b", handler).endpoint("e", "/x", {"b": 1.0}).publish()
        body = b'{"name": "tea", "price": 1}'
        answer = mini.post("/x", body, {"content-type": "text/plain"})
        assert answer.status == 422
        assert answer.json()["detail"][0]["type"] == "content_type"
        assert mini.post("/x", body).body == b"tea"  # nothing said of it


def test_async_streaming_and_named_methods_are_typed_too() -> None:
    class Words:
        async def __call__(self, tag: Tag) -> str:
            return f"{tag.word} {context.web}"

        def many(self, words: list[str], times: int = 1) -> dict[str, int]:
            return dict.fromkeys(words, times)

        def plain(self, request: Any) -> str:
            return str(request.method)

    with Mini() as mini:
        mini.backend("b", Words).endpoint("e", "/x", {"b": 1.0}).publish()
        assert mini.post("/x", b'{"word": "w"}', JSON).body == b"w True"
        assert mini.get("/x?words=a&words=b&times=2", {"x-serve-call-method": "many"}).json() == {"a": 2, "b": 2}
        assert mini.get("/x", {"x-serve-call-method": "plain"}).body == b"GET"
        assert mini.get("/x", {"x-serve-call-method": "many"}).status == 422


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_generators_are_typed(kind: str) -> None:
    def stream(n: int) -> Iterator[str]:
        yield from map(str, range(n))

    async def stream_async(n: int) -> AsyncIterator[str]:
        for number in range(n):
            yield str(number)

    with Mini() as mini:
        mini.backend("b", stream if kind == "sync" else stream_async).endpoint("e", "/x", {"b": 1.0}).publish()
        assert mini.get("/x?n=3").body == b"012"
        assert mini.get("/x?n=x").status == 422


def test_errors_of_the_handler_itself_stay_its_own() -> None:
    def handler(n: int) -> int:
        if n == 0:
            raise ValueError("not nought")
        raise HTTPError(409, "conflict")

    with Mini() as mini:
        mini.backend("b", handler).endpoint("e", "/x", {"b": 1.0}).publish()
        assert mini.get("/x?n=0").status == 500
        assert mini.get("/x?n=1").status == 409


def test_a_mounts_rest_of_the_path_is_a_parameter() -> None:
    def handler(path: str) -> str:
        return path

    with Mini() as mini:
        mini.backend("b", handler).endpoint("e", "/files/*", {"b": 1.0}).publish()
        assert mini.get("/files/a/b%20c").body == b"a/b c"
