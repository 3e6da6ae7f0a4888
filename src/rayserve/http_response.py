"""An HTTP answer as Python code holds it, with the names that httpx and requests have taught."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from werkzeug.datastructures import Headers
from werkzeug.http import parse_options_header

from rayserve.errors import HTTPError

__all__ = ["HTTPResponse", "parsed_headers"]

_TEXT: Final = "utf-8"


class HTTPResponse(msgspec.Struct, frozen=True):
    """What an endpoint answered to `handle.request(...)`, whatever its status.

    Attributes:
        status_code: HTTP status.
        headers: as the handler set them; any case finds them, `getlist` gives repeated ones.
        content: the whole body.
    """

    status_code: int
    headers: Headers
    content: bytes

    @property
    def text(self) -> str:
        """The body as text, in the charset of its content type, else UTF-8; what is not valid is replaced."""
        charset = parse_options_header(self.headers.get("content-type", ""))[1].get("charset", _TEXT)
        try:
            return self.content.decode(charset, "replace")
        except LookupError:  # a charset that nobody knows
            return self.content.decode(_TEXT, "replace")

    def json(self) -> Any:
        """Return what the body says as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.content)

    def raise_for_status(self) -> HTTPResponse:
        """Return this answer, unless its status is an error.

        Raises:
            HTTPError: 400 or higher, with the answer's own detail; raised on inside of a handler it reaches its caller.
        """
        if self.status_code < 400:
            return self
        try:
            said = self.json()
        except ValueError:
            said = None
        raise HTTPError(self.status_code, said.get("detail", said) if isinstance(said, dict) else said or self.text)

    def __repr__(self) -> str:
        """Return status, type and size."""
        kind = self.headers.get("content-type", "no content type")
        return f"<HTTPResponse {self.status_code}: {kind}, {len(self.content)} bytes>"


def parsed_headers(block: bytes) -> Headers:
    """Return a rendered header block, as it comes over the wire."""
    headers = Headers()
    for line in block.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        headers.add(name, value)
    return headers
