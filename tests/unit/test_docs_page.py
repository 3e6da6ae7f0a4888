import base64
import hashlib
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from pydantic import BaseModel, Field

from rayserve.config import parse_backend_config
from rayserve.derived import backend_row
from rayserve.docs_page import render
from rayserve.model.table import Endpoint, RoutingTable, Traffic
from rayserve.openapi import document
from rayserve.replica.handler import describe

_VOID = {"meta", "link", "br"}


class Item(BaseModel):
    name: str = Field(description='<b>bold</b> & "quoted"', min_length=2)
    kinds: list["Item"] | None = None
    scores: dict[str, float] = {}


@dataclass
class Evil:
    a: int


def price(item: Item, limit: int = 3) -> Item:
    """Price <script>alert(1)</script> it.

    More & more.
    """
    return item


def page(*endpoints: Endpoint, **codes: Any) -> tuple[bytes, str]:
    rows = tuple(
        backend_row(tag, 1, parse_backend_config({}), describe(code), (0, ""), ()) for tag, code in codes.items()
    )
    headers, body = render(document(RoutingTable("my<shop>", 1, 1, endpoints, rows)))
    return headers, body.decode()


class Checker(HTMLParser):
    """Collects tags, attributes and text; every element must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def parsed(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_shows_routes_parameters_bodies_and_answers() -> None:
    _, text = page(Endpoint("price", "/price/{id}", ("POST", "GET"), Traffic({"b": 1.0})), b=price)
    shown = re.sub(r"\s+", " ", parsed(text).text)
    words = ("POST, GET /price/{id}", "limit query integer, default 3", "More & more.", "Backends: b", "length ≥ 2")
    for each in words:
        assert each in shown, each
    assert '<a href="#Item">Item</a>' in text
    assert 'id="Item"' in text
    assert "list of <a" in text
    assert "object of number" in text


def test_what_users_wrote_is_text_and_never_markup() -> None:
    _, text = page(Endpoint("<img>", "/a<i>", ("GET",), Traffic({"b": 1.0})), b=price)
    checker = parsed(text)
    assert not {"script", "img", "i", "b", "shop"} & {tag for tag, _ in checker.seen}
    assert "<script>alert(1)</script>" in checker.text
    assert "my<shop>" in checker.text
    assert '<b>bold</b> & "quoted"' in checker.text


def test_the_page_needs_no_network_and_its_policy_allows_none() -> None:
    headers, text = page(Endpoint("price", "/price", ("POST",), Traffic({"b": 1.0})), b=price)
    checker = parsed(text)
    links = [attrs[name] for _, attrs in checker.seen for name in ("href", "src", "action") if name in attrs]
    assert all(link == "openapi.json" or str(link).startswith("#") for link in links)
    assert not any(name == "style" or name.startswith("on") for _, attrs in checker.seen for name in attrs)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(line for line in headers.decode().split("\r\n") if line.startswith("content-security-policy: "))
    assert policy == (
        "content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src 'sha256-{digest}'"
    )
    assert b"content-type: text/html; charset=utf-8\r\n" in headers
    assert headers.endswith(b"\r\n")


def test_an_empty_instance_and_endpoints_without_traffic_have_a_page() -> None:
    assert "There are none yet." in parsed(page()[1]).text
    shown = parsed(page(Endpoint("later", "/later", ("GET", "PURGE")))[1]).text
    assert "Backends: none yet" in shown
    assert "any" in shown


def test_http_methods_that_take_and_give_the_same_stand_together() -> None:
    plain = page(Endpoint("plain", "/plain", ("GET", "DELETE", "POST"), Traffic({"b": 1.0})), b=lambda request: "")[1]

    verbs = re.findall(r'<span class="verb">(.*?)</span>', plain)
    assert verbs == ["GET, DELETE", "POST"]  # which may have a body


def test_other_call_methods_are_shown() -> None:
    class Calls:
        def __call__(self, a: int) -> int:
            return a

        def classify(self, words: list[str]) -> str:
            """Name the kind."""
            return ""

    shown = parsed(page(Endpoint("c", "/c", ("POST",), Traffic({"b": 1.0})), b=Calls)[1]).text
    assert "X-SERVE-CALL-METHOD" in shown
    assert "classify" in shown
    assert "list of string" in shown
