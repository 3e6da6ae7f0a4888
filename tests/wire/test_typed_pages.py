# No `from __future__ import annotations`: models defined in here are found by their objects, not by name.
import pytest
from pydantic import BaseModel
from tests.wire.mini import Mini

from rayserve.openapi import PATHS


class Item(BaseModel):
    name: str


def upper(item: Item, times: int = 1) -> str:
    """Shout."""
    return item.name.upper() * times


def test_openapi_json_describes_what_is_served_now() -> None:
    with Mini() as mini:
        mini.backend("b", upper).endpoint("e", "/upper", {"b": 1.0}, methods=("POST",)).publish()
        answer = mini.get("/-/openapi.json")
        assert answer.status == 200
        assert answer["content-type"] == "application/json"
        document = answer.json()
        assert document["openapi"] == "3.1.0"
        operation = document["paths"]["/upper"]["post"]
        assert operation["summary"] == "Shout."
        assert [one["name"] for one in operation["parameters"]] == ["times"]
        assert document["components"]["schemas"]["Item"]["required"] == ["name"]
        mini.backend("plain", lambda request: "x").endpoint("p", "/plain", {"plain": 1.0}).publish()
        assert set(mini.get("/-/openapi.json").json()["paths"]) == {"/upper", "/plain"}


def test_the_docs_page_is_html_with_a_policy() -> None:
    with Mini() as mini:
        mini.backend("b", upper).endpoint("e", "/upper", {"b": 1.0}).publish()
        answer = mini.get("/-/docs")
        assert answer.status == 200
        assert answer["content-type"] == "text/html; charset=utf-8"
        assert answer["content-security-policy"].startswith("default-src 'none'; ")
        assert answer["x-content-type-options"] == "nosniff"
        assert b"/upper" in answer.body
        assert b"<script" not in answer.body


@pytest.mark.parametrize("path", PATHS)
def test_the_pages_are_read_only(path: str) -> None:
    with Mini() as mini:
        mini.publish()
        assert mini.post(path, b"{}").status == 405
        head = mini.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert int(head["content-length"]) == len(mini.get(path).body)
        assert mini.ask("OPTIONS", path)["allow"] == "GET, HEAD, OPTIONS"


def test_other_system_paths_name_the_pages() -> None:
    with Mini() as mini:
        mini.publish()
        answer = mini.get("/-/doc")
        assert answer.status == 404
        assert all(path in answer.json()["detail"] for path in PATHS)
