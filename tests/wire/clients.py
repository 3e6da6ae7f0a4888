"""Clients that people use, behind one small interface: httpx, requests, aiohttp and curl.

    CLIENTS["httpx"](base_url) ─► .ask(…) .follow(…) .several(…) .stream(…) .upload(…) ─► Got

Each keeps its own ways: headers of its own, its own connection pool, its own reading of chunks and codings.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import aiohttp
import httpx
import pytest
import requests
from multidict import CIMultiDict
from tests.wire.curl import WITHIN_S, Curl, Fields, Got, TookTooLong


class Http(Protocol):
    """What the tests ask of a client."""

    def ask(
        self, method: str, path: str, body: bytes | None = None, fields: Fields = (), within_s: float = WITHIN_S
    ) -> Got:
        """Send one request; follow nothing."""

    def follow(self, method: str, path: str, body: bytes | None = None) -> Got:
        """Send one request, and where its answer leads to, with the cookies that come on the way."""

    def several(self, paths: Sequence[str]) -> list[Got]:
        """Send GETs one behind the other, as one user of the client would."""

    def stream(self, path: str) -> AbstractContextManager[Iterator[bytes]]:
        """Yield the pieces of an answer as they come; leaving early closes the connection."""

    def upload(self, path: str, pieces: Iterable[bytes]) -> Got:
        """POST a body of unknown length."""

    def close(self) -> None: ...


class Httpx:
    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=WITHIN_S)

    def ask(
        self, method: str, path: str, body: bytes | None = None, fields: Fields = (), within_s: float = WITHIN_S
    ) -> Got:
        try:
            return self._got(
                self._client.request(method, path, content=body, headers=httpx.Headers(list(fields)), timeout=within_s)
            )
        except httpx.ReadTimeout as error:
            raise TookTooLong from error

    def _got(self, answer: httpx.Response) -> Got:
        return Got(answer.status_code, answer.headers.multi_items(), answer.content)

    def follow(self, method: str, path: str, body: bytes | None = None) -> Got:
        return self._got(self._client.request(method, path, content=body, follow_redirects=True))

    def several(self, paths: Sequence[str]) -> list[Got]:
        return [self.ask("GET", path) for path in paths]

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[bytes]]:
        with self._client.stream("GET", path) as answer:
            yield answer.iter_bytes()

    def upload(self, path: str, pieces: Iterable[bytes]) -> Got:
        return self._got(self._client.post(path, content=pieces))

    def close(self) -> None:
        self._client.close()


class Requests:
    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def ask(
        self, method: str, path: str, body: bytes | None = None, fields: Fields = (), within_s: float = WITHIN_S
    ) -> Got:
        if len({name.lower() for name, _ in fields}) < len(fields):
            pytest.skip("requests cannot repeat a header field")
        try:
            return self._got(
                self._session.request(
                    method, self._url + path, data=body, headers=dict(fields), timeout=within_s, allow_redirects=False
                )
            )
        except requests.ReadTimeout as error:
            raise TookTooLong from error

    def _got(self, answer: requests.Response) -> Got:
        return Got(answer.status_code, list(answer.raw.headers.iteritems()), answer.content)

    def follow(self, method: str, path: str, body: bytes | None = None) -> Got:
        return self._got(self._session.request(method, self._url + path, data=body, timeout=WITHIN_S))

    def several(self, paths: Sequence[str]) -> list[Got]:
        return [self.ask("GET", path) for path in paths]

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[bytes]]:
        with self._session.get(self._url + path, stream=True, timeout=WITHIN_S) as answer:
            yield answer.iter_content(None)

    def upload(self, path: str, pieces: Iterable[bytes]) -> Got:
        return self._got(self._session.post(self._url + path, data=iter(pieces), timeout=WITHIN_S))

    def close(self) -> None:
        self._session.close()


class Aiohttp:
    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._session = self._runner.run(self._open(url))

    async def _open(self, url: str) -> aiohttp.ClientSession:
        jar = aiohttp.CookieJar(unsafe=True)  # else it keeps none from an IP address
        return aiohttp.ClientSession(url, cookie_jar=jar, timeout=aiohttp.ClientTimeout(WITHIN_S))

    def ask(
        self, method: str, path: str, body: bytes | None = None, fields: Fields = (), within_s: float = WITHIN_S
    ) -> Got:
        try:
            return self._runner.run(self._ask(method, path, body, fields, False, within_s))
        except TimeoutError as error:
            raise TookTooLong from error

    async def _ask(
        self, method: str, path: str, body: Any, fields: Fields = (), follow: bool = True, within_s: float = WITHIN_S
    ) -> Got:
        if isinstance(body, bytes):
            body = io.BytesIO(body)  # it warns of long bytes
        async with self._session.request(
            method, path, data=body, headers=CIMultiDict(fields), allow_redirects=follow,
            timeout=aiohttp.ClientTimeout(within_s), expect100=("Expect", "100-continue") in fields,
        ) as answer:  # fmt: skip
            return Got(answer.status, list(answer.headers.items()), await answer.read())

    def follow(self, method: str, path: str, body: bytes | None = None) -> Got:
        return self._runner.run(self._ask(method, path, body))

    def several(self, paths: Sequence[str]) -> list[Got]:
        return [self.ask("GET", path) for path in paths]

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[bytes]]:
        answer = self._runner.run(self._begin(path))
        try:
            yield self._pieces(answer)
        finally:
            answer.close()
            self._runner.run(asyncio.sleep(0))  # a loop that stands still closes nothing

    async def _begin(self, path: str) -> aiohttp.ClientResponse:
        return await self._session.get(path)

    def _pieces(self, answer: aiohttp.ClientResponse) -> Iterator[bytes]:
        while piece := self._runner.run(answer.content.readany()):
            yield piece

    def upload(self, path: str, pieces: Iterable[bytes]) -> Got:
        async def body() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return self._runner.run(self._ask("POST", path, body()))

    def close(self) -> None:
        self._runner.run(self._session.close())
        self._runner.close()


CLIENTS: dict[str, type[Httpx] | type[Requests] | type[Aiohttp] | type[Curl]] = {
    "httpx": Httpx, "requests": Requests, "aiohttp": Aiohttp, "curl": Curl,
}  # fmt: skip


@contextmanager
def open_client(name: str, url: str) -> Iterator[Http]:
    client = CLIENTS[name](url)
    try:
        yield client
    finally:
        client.close()
