"""Handles: Python calls to an endpoint, with the same router, traffic and limits as HTTP.

    handle.remote(*args) ─► CallResult ─► I/O thread: router ─► replica
         .result() in sync code, `await` in async code ◄── value | exception

    handle.request("GET", "/path", …) ─► the same way, with an HTTP request ─► HTTPResponse

Arguments are pickled where `remote` is called and results unpickled where they are asked for; the
I/O thread only moves bytes.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from rayserve.call_result import CallResult, HandleOptions
from rayserve.context import current
from rayserve.errors import InvalidTypeError, InvalidValueError, NotRunningError
from rayserve.http_call import HTTPCall
from rayserve.http_request import Pairs, built
from rayserve.io_thread import IOThread
from rayserve.python_call import PythonCall

__all__ = ["ServeHandle", "connect", "disconnect", "thread_of"]

_threads: dict[str, IOThread] = {}  # instance → this process's I/O thread for it


def connect(instance: str, io: IOThread) -> None:
    """Make `io` the way to `instance` in this process."""
    _threads[instance] = io


def disconnect(instance: str) -> None:
    """Forget the way to `instance` and end its thread."""
    io = _threads.pop(instance, None)
    if io is not None:
        io.close()


def thread_of(instance: str) -> IOThread:
    """Return the I/O thread that leads to `instance`.

    Raises:
        NotRunningError: this process is not connected to it.
    """
    io = _threads.get(instance)
    if io is None:
        raise NotRunningError(f'this process is not connected to instance "{instance}"; call serve.init first')
    return io


class ServeHandle:
    """Calls one endpoint from Python.

    Immutable: `options` returns another handle. Works in drivers, threads, async code and inside
    backends, and can be pickled to any process of the same instance.
    """

    __slots__ = ("_instance", "_options")

    def __init__(self, instance: str, options: HandleOptions) -> None:
        """Make a handle; use `serve.get_handle`."""
        self._instance = instance
        self._options = options

    def __repr__(self) -> str:
        """Return the endpoint and what differs from a plain handle."""
        options = self._options
        parts = [repr(options.endpoint)]
        if options.method_name:
            parts.append(f"method_name={options.method_name!r}")
        if options.shard_key is not None:
            parts.append(f"shard_key={options.shard_key!r}")
        if options.timeout_s is not None:
            parts.append(f"timeout_s={options.timeout_s!r}")
        return f"ServeHandle({', '.join(parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by name: the other process uses its own router."""
        return ServeHandle, (self._instance, self._options)

    def options(
        self, method_name: str | None = None, *, shard_key: str | None = None, timeout_s: float | None = None
    ) -> ServeHandle:
        """Return a handle that calls differently; what is not given stays.

        Args:
            method_name: method of the backend class to call.
            shard_key: same key, same backend, while the traffic stays.
            timeout_s: seconds for the whole call; the endpoint's own if never set.

        Raises:
            InvalidTypeError: an argument has the wrong type.
            InvalidValueError: `timeout_s` is not positive.
        """
        if method_name is not None and not isinstance(method_name, str):
            raise InvalidTypeError(f"method_name must be a str, got {type(method_name).__name__}")
        if shard_key is not None and not isinstance(shard_key, str):
            raise InvalidTypeError(f"shard_key must be a str, got {type(shard_key).__name__}")
        if timeout_s is not None:
            if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)):
                raise InvalidTypeError(f"timeout_s must be a number of seconds, got {type(timeout_s).__name__}")
            if not 0 < timeout_s < float("inf"):
                raise InvalidValueError(f"timeout_s must be a positive number of seconds, got {timeout_s!r}")
        present = self._options
        changed = replace(
            present,
            method_name=present.method_name if method_name is None else method_name,
            shard_key=present.shard_key if shard_key is None else shard_key,
            timeout_s=present.timeout_s if timeout_s is None else timeout_s,
        )
        return ServeHandle(self._instance, changed)

    def remote(self, *args: Any, **kwargs: Any) -> CallResult:
        """Call the backend with exactly these arguments, without waiting.

        Top-level arguments that are `CallResult`s or Ray `ObjectRef`s arrive as their values.

        Args:
            args: positional arguments of the backend's function or method.
            kwargs: its keyword arguments.

        Returns:
            A `CallResult`; every refusal and error surfaces there.

        Raises:
            InvalidTypeError: an argument cannot be pickled.
        """
        call = PythonCall(thread_of(self._instance), self._options, current())
        call.start(args, kwargs)
        return call

    def request(
        self,
        method: str = "GET",
        path: str | None = None,
        *,
        params: Pairs | None = None,
        headers: Pairs | None = None,
        json: Any = None,
        data: Any = None,
    ) -> HTTPCall:
        """Send an HTTP-shaped request, without waiting: for handlers and apps that were written for HTTP.

        The endpoint is found by its name; its `methods` and `route` keep out nothing here, but the route's parameters
        and mount are read from `path` where they fit.

        Args:
            method: in any case.
            path: as a client would send it, with or without a query; None takes the endpoint's own route.
            params: query parameters, added to those of `path`; a list gives its name several times.
            headers: text by name, or (name, text) pairs.
            json: body, sent as JSON.
            data: body: bytes, text, or a mapping that is sent as a form.

        Returns:
            A `CallResult` whose value is an `HTTPResponse`, whatever its status. Refusals surface there as errors, and
            so does what the handler raises, as its own class (`HTTPError` is an answer).

        Raises:
            InvalidTypeError: an argument has the wrong type.
            InvalidValueError: an argument cannot be sent.
        """
        asked = built(method, path, params, headers, json, data)
        call = HTTPCall(thread_of(self._instance), self._options, current())
        call.start(asked)
        return call
