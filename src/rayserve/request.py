"""The `flask.Request` that a handler sees, built from what the wire brought.

    ingress ── Open + body ──► Request(open, body) ── .get_json() .args .headers … ──► handler

Construction stores what it is given. Everything else is computed when it is first touched and kept in
the instance: `__getattr__` fills what werkzeug sets in its constructor, the overrides below what it
would read from a WSGI environ. The environ itself exists only once someone asks for it. Nothing here
refers back to the request, so it is freed the moment its handler lets go of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from io import BufferedReader, BytesIO
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_to_bytes

import flask
import msgspec
from werkzeug.datastructures import Headers, MultiDict
from werkzeug.datastructures.mixins import ImmutableHeadersMixin
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.utils import cached_property

if TYPE_CHECKING:
    from rayserve.wire.heads import Open

__all__ = ["Request", "RequestHeaders"]

# Fields that may stand once: of a repeated one the first counts. All others are joined, as RFC 9110
# section 5.3 allows and every WSGI server does. The list is the one Node.js has lived with for years.
_SINGLE = frozenset((
    "age", "authorization", "content-length", "content-type", "etag", "expires", "from", "host",
    "if-modified-since", "if-unmodified-since", "last-modified", "location", "max-forwards",
    "proxy-authorization", "referer", "retry-after", "server", "user-agent",
))  # fmt: skip
_PLAIN_VARIABLES = ("CONTENT_TYPE", "CONTENT_LENGTH")  # without HTTP_ in a WSGI environ
_FORMS = frozenset(("application/x-www-form-urlencoded", "multipart/form-data"))

_decode = msgspec.json.Decoder().decode


class RequestHeaders(ImmutableHeadersMixin, Headers):  # type: ignore[misc]  # as in werkzeug itself
    """The request's headers: any case finds them, repeats survive, nothing is copied.

    `headers["x-a"]` and `get` give repeated fields joined by `", "`, `getlist` one by one. Iteration
    gives names in title case, as Flask does.
    """

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        """Wrap `fields`, whose names are lower-case."""
        self._list = fields

    def _get_key(self, key: str) -> str:
        key = key.lower()
        values = [value for name, value in self._list if name == key]
        if not values:
            raise KeyError(key)
        if len(values) == 1 or key in _SINGLE:
            return values[0]
        return ("; " if key == "cookie" else ", ").join(values)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([(name.title(), value) for name, value in self._list])


class Whole(BytesIO):
    """`request.stream` of a body that is here: a file, and `async for` over all of it at once."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over what was not read yet."""
        if rest := self.read():
            yield rest


class Request(flask.Request):
    """A real `flask.Request`, computed as it is touched.

    A plain handler under a mount sees the full path; the rest of it is in `view_args["path"]`.

    Args:
        open: the head as it came over the wire.
        body: the whole body, de-chunked.
        arriving: the body, if it still arrives; `get_data`, `get_json` and `form` read it to its end.
    """

    json_module = SimpleNamespace(loads=lambda data, **_: _loads(data), dumps=json.dumps)
    shallow = False
    _arriving: BufferedReader | None = None
    _read = False  # whether the body has been handed out, after which the stream is at its end

    def __init__(self, open: Open, body: bytes = b"", arriving: BufferedReader | None = None) -> None:
        self._open = open
        self._body = body
        if arriving is not None:
            self._arriving = arriving
        self.view_args = open.params

    def __getattr__(self, name: str) -> Any:
        """Compute what werkzeug's constructor would have set; called once per name."""
        compute = _FACTS.get(name)
        if compute is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = self.__dict__[name] = compute(self)
        return value

    @property
    def is_json(self) -> bool:
        """Whether the content type is `application/json` or `application/*+json`."""
        return _is_json(self._raw_content_type())

    @cached_property
    def args(self) -> MultiDict[str, str]:
        """The parsed query; bytes that are not UTF-8 stay percent-encoded."""
        if not self.query_string:
            return self.parameter_storage_class()
        # werkzeug registers this handler; raw bytes beyond ASCII would otherwise raise here.
        query = self.query_string.decode(errors="werkzeug.url_quote")
        return self.parameter_storage_class(parse_qsl(query, keep_blank_values=True, errors="werkzeug.url_quote"))

    @cached_property
    def full_path(self) -> str:
        """Path and query, always with the `?` between them, as in Flask."""
        return f"{self.path}?{self.query_string.decode(errors='werkzeug.url_quote')}"

    @cached_property
    def content_length(self) -> int | None:
        """Bytes of body as announced; of a chunked one as received; None without a body, and while that arrives."""
        announced = self.headers.get("content-length", type=int)
        return announced if announced is not None or (size := self._body_size()) <= 0 else size

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body as a file that can be read once; at its end if `get_data` was there before."""
        if self._arriving is not None:
            self._read = True
            return self._arriving
        return Whole() if self._read else Whole(self._take())

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """Return the body; see `flask.Request.get_data`."""
        data: bytes | None = self.__dict__.get("_cached_data")
        if data is None:
            if parse_form_data and _mimetype(self._raw_content_type()) in _FORMS:
                self._load_form_data()
            data = self.stream.read() if self._read or self._arriving is not None else self._take()
            if self._arriving is not None:
                self._check_size(len(data))
            if cache:
                self._cached_data = data
        return data.decode(errors="replace") if as_text else data

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Answer 400 saying what is wrong with the JSON, or 415 for another content type."""
        if e is not None:
            raise BadRequest(f"the request body is not valid JSON: {e}")
        return super().on_json_loading_failed(e)

    @property
    def want_form_data_parsed(self) -> bool:
        """Whether a content type was sent."""
        return bool(self._raw_content_type())

    def _parse_content_type(self) -> None:
        if "_parsed_content_type" not in self.__dict__:
            self._parsed_content_type = parse_options_header(self._raw_content_type())

    def _raw_content_type(self) -> str:
        # Without `headers`: most handlers touch nothing but the JSON.
        for name, value in self._open.headers:
            if name == "content-type":
                return value
        return ""

    def _take(self) -> bytes:
        self._check_size(len(self._body))
        self._read = True
        return self._body

    def _check_size(self, size: int) -> None:
        # The class-level limit of Flask asks current_app; the endpoint's max_body_bytes has done that work.
        if self._max_content_length is not None and size > self._max_content_length:
            raise RequestEntityTooLarge

    def _body_size(self) -> int:
        """Return how large the body is, -1 if nobody knows yet."""
        return len(self._body) if self._arriving is None else self._open.body_size


@lru_cache(maxsize=64)
def _mimetype(content_type: str) -> str:
    return parse_options_header(content_type)[0].lower()


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    mimetype = _mimetype(content_type)
    return mimetype == "application/json" or (mimetype.startswith("application/") and mimetype.endswith("+json"))


def _loads(data: bytes | str) -> Any:
    """Parse JSON: msgspec for speed; what it refuses the stdlib judges, so that the outcome is Flask's.

    The two differ in NaN, byte order marks, UTF-16 and lone surrogates.

    Raises:
        ValueError: not JSON, or nested deeper than the interpreter can follow.
    """
    try:
        return _decode(data)
    except ValueError:
        pass
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _path_bytes(target: str) -> bytes:
    return target.encode("latin-1") if "%" not in target else unquote_to_bytes(target.encode("latin-1"))


def _path(target: str) -> str:
    path = target if "%" not in target and target.isascii() else _path_bytes(target).decode(errors="replace")
    return "/" + path.lstrip("/")


def _remote_addr(client: str) -> str | None:
    return client.rpartition(":")[0].strip("[]") or None


def _server(request: Request) -> tuple[str, int]:
    """Return name and port of this server as the client called it; HTTP/1.0 need not say."""
    host = request.headers.get("host") or "localhost"
    name, _, port = host.rpartition(":")
    if name and port.isdecimal():
        return name, int(port)
    return host, 443 if request.scheme == "https" else 80


def _environ(request: Request) -> dict[str, Any]:
    """Build the whole WSGI environ (PEP 3333).

    The ingress keeps the framing to itself; of a chunked body the length is told, as some apps know no other
    way, or that it is chunked while it arrives. `werkzeug.request` would make each request a reference cycle.
    """
    open = request._open
    name, port = request.server or ("localhost", 80)
    path, query = _path_bytes(open.target).decode("latin-1"), open.query.decode("latin-1")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REQUEST_URI": f"{open.target}?{query}" if query else open.target,
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{open.http_version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": open.scheme,
        "wsgi.input": request.stream,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if open.client:
        environ["REMOTE_ADDR"] = request.remote_addr
        environ["REMOTE_PORT"] = open.client.rpartition(":")[2]
    for field in dict.fromkeys(name for name, _ in open.headers):
        variable = field.upper().replace("-", "_")
        environ[variable if variable in _PLAIN_VARIABLES else f"HTTP_{variable}"] = request.headers[field]
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    if "CONTENT_LENGTH" not in environ and (size := request._body_size()):
        if size > 0:
            environ["CONTENT_LENGTH"] = str(size)
        else:
            environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    return environ


_FACTS: dict[str, Callable[[Request], Any]] = {
    "method": lambda request: request._open.method.upper(),
    "scheme": lambda request: request._open.scheme,
    "server": _server,
    "root_path": lambda request: "",
    "path": lambda request: _path(request._open.target),
    "query_string": lambda request: request._open.query,
    "headers": lambda request: RequestHeaders(request._open.headers),
    "remote_addr": lambda request: _remote_addr(request._open.client),
    "environ": _environ,
}
