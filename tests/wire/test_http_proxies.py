"""X-Forwarded-*: believed from proxies that the options trust, cargo from anybody else."""

from typing import Any

import pytest
from tests.wire.http_client import Client
from tests.wire.mini import Mini

FORWARDED = ("X-Forwarded-For: 1.2.3.4, 198.51.100.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: other.example")


def seen(request: Any) -> list[Any]:
    header = request.headers.get
    return [
        request.remote_addr, request.scheme, request.url, header("X-Forwarded-For"), header("X-Forwarded-Proto"),
        header("X-Forwarded-Host"),
    ]  # fmt: skip


def ask(trusted: tuple[str, ...], *fields: str) -> Any:
    with Mini(trusted_proxies=trusted) as mini:
        mini.backend("b", seen).endpoint("e", "/x", {"b": 1.0}).publish()
        with Client(mini.port) as client:
            return client.get("/x", *fields).answer().json()


@pytest.mark.parametrize("trusted", [("127.0.0.1",), ("10.0.0.0/8", "127.0.0.0/8")])
def test_a_trusted_proxy_says_who_the_client_is(trusted: tuple[str, ...]) -> None:
    address, scheme, url, *headers = ask(trusted, *FORWARDED)

    assert (address, scheme, url) == ("198.51.100.9", "https", "https://test/x")
    assert headers == ["1.2.3.4, 198.51.100.9", "https", "other.example"]


def test_a_trusted_proxy_need_not_say_anything() -> None:
    assert ask(("127.0.0.1",)) == ["127.0.0.1", "http", "http://test/x", None, None, None]


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8", "::1")])
def test_anybody_else_is_not_believed_but_passed_on(trusted: tuple[str, ...]) -> None:
    address, scheme, url, *headers = ask(trusted, *FORWARDED)

    assert (address, scheme, url) == ("127.0.0.1", "http", "http://test/x")
    assert headers == ["1.2.3.4, 198.51.100.9", "https", "other.example"]


def test_the_access_log_names_the_client_behind_the_proxy() -> None:
    lines: list[str] = []
    with Mini(trusted_proxies=("127.0.0.1",)) as mini:
        mini.on_front(lambda: setattr(mini.site, "log", lines.append))
        mini.backend("b", seen).endpoint("e", "/x", {"b": 1.0}).publish()
        with Client(mini.port) as client:
            client.get("/x", *FORWARDED).answer()
            client.get("/x").answer()

    assert lines[0].startswith('198.51.100.9:0 "GET /x" 200 ')
    assert lines[1].startswith("127.0.0.1:")
