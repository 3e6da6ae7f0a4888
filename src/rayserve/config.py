"""What users can set: `BackendConfig`, `EndpointConfig`, `HTTPOptions`. Typed, frozen, unknown keys refused.

    dict | config | None ──► parse_* ──► config ──► to_plain ──► checkpoint
    config + named changes ──► merge_* ──► config, checked as a whole

What a config comes to for the code that was loaded is in `derived`; both are to be had from here.
"""

from __future__ import annotations

import ipaddress
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from rayserve.actor_options import check_actor_options
from rayserve.checked import Checked, merged, parsed
from rayserve.derived import backend_row, check_against_traits, endpoint_options, max_concurrent_queries
from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.names import check_name

__all__ = [
    "BackendConfig",
    "EndpointConfig",
    "HTTPOptions",
    "backend_row",
    "check_actor_options",
    "check_against_traits",
    "check_name",
    "endpoint_options",
    "max_concurrent_queries",
    "merge_backend_config",
    "merge_endpoint_config",
    "parse_backend_config",
    "parse_endpoint_config",
    "parse_http_options",
]

# Upper limits catch slips of units and keep every value within what msgpack, sockets and timers can carry.
_MAX_COUNT = 2**31 - 1
_MAX_BYTES = 2**53
_MAX_S = 366 * 24 * 3600

_Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
_CountOrZero = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
_Bytes = Annotated[int, Field(ge=0, le=_MAX_BYTES)]
_HeadBytes = Annotated[int, Field(ge=64, le=_MAX_COUNT)]
_Seconds = Annotated[float, Field(gt=0, le=_MAX_S)]
_SecondsOrZero = Annotated[float, Field(ge=0, le=_MAX_S)]

_NEVER_CALLED = frozenset({"reconfigure", "check_health", "warmup"})


class BackendConfig(Checked):
    """How a backend runs.

    Attributes:
        num_replicas: processes that run its code, at least 1.
        max_batch_size: calls per batch at most; needs `accept_batch`. None: not set, batches of one.
        batch_wait_timeout: seconds an idle replica waits for a batch to fill; 0 takes what is there.
        max_concurrent_batches: batches of an async handler that may run at once in one replica.
        max_concurrency: threads for sync code in one replica.
        max_concurrent_queries: calls one replica holds at most. None derives it: sync `max(8, 2 * max_concurrency)`,
            WSGI apps `max(8, 2 * threads)`, async 256, batched `max_batch_size * (max_concurrent_batches + 1)`.
        max_queued: calls that may wait in front of the backend, per router; 0 refuses what no replica has room for.
        user_config: handed to the `reconfigure` method of every replica; any picklable value but None, which is none.
        startup_timeout_s: seconds a new replica has to load and construct the code.
        drain_timeout_s: seconds a leaving replica has to finish what it accepted; 0 ends it at once.
        stream_request: request bodies reach the handler as they arrive; ASGI apps always get them so.
    """

    num_replicas: _Count = 1
    max_batch_size: _Count | None = None
    batch_wait_timeout: _SecondsOrZero = 0.0
    max_concurrent_batches: _Count = 1
    max_concurrency: _Count = 1
    max_concurrent_queries: _Count | None = None
    max_queued: _CountOrZero = 1000
    user_config: Any = None
    startup_timeout_s: _Seconds = 600.0
    drain_timeout_s: _SecondsOrZero = 30.0
    stream_request: bool = False

    @model_validator(mode="after")
    def _a_batch_fits(self) -> BackendConfig:
        held, batch = self.max_concurrent_queries, self.max_batch_size
        if held is not None and batch is not None and held < batch:
            raise InvalidValueError(
                f"max_concurrent_queries={held} is below max_batch_size={batch}, so no batch could ever fill; "
                "raise it, or leave it out to have it derived"
            )
        return self

    def to_plain(self) -> dict[str, Any]:
        """Return all options but `user_config`, whose pickle is kept apart, as plain values."""
        plain = super().to_plain()
        del plain["user_config"]
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], user_config: Any = None) -> BackendConfig:
        """Return the config that `to_plain` made `plain` from, with its `user_config` again."""
        return cls(**plain, user_config=user_config)


def _check_call_methods(value: object) -> tuple[str, ...] | Literal[False] | None:
    if value is None or value is False:
        return value
    if value is True:
        raise InvalidValueError("call_methods cannot be True; None allows every public method, a list names some")
    if not isinstance(value, list | tuple):
        got = f"{reprlib.repr(value)} ({type(value).__name__})"
        raise InvalidTypeError(f"call_methods must be None, a list of method names, or False, got {got}")
    for name in value:
        if not isinstance(name, str):
            raise InvalidTypeError(f"call_methods must hold method names, got {name!r} ({type(name).__name__})")
        if not name.isidentifier():
            raise InvalidValueError(f"call_methods must hold method names, got {name!r}")
        if name.startswith("_") or name in _NEVER_CALLED:
            raise InvalidValueError(f'call_methods cannot hold "{name}", which no request may call; leave it out')
    return tuple(dict.fromkeys(value))


class EndpointConfig(Checked):
    """How an endpoint treats its calls.

    Attributes:
        timeout_s: seconds to the first byte of the answer; a stream then lives while it makes progress.
        max_body_bytes: largest request body; a larger one is answered 413.
        retry: which calls may run twice when a replica is lost: "idempotent" (GET, HEAD, OPTIONS, or with an
            Idempotency-Key), "always" or "never".
        call_methods: names `X-SERVE-CALL-METHOD` may choose from, inherited ones too; None: all public methods of
            the class's own body; False: none.
        allow_pin: clients may choose backend or replica by the header X-Serve-Pin.
        expose_backend: answers carry X-Serve-Backend.
        debug: answers to failed calls show the traceback.
    """

    timeout_s: _Seconds = 60.0
    max_body_bytes: _Bytes = 64 * 2**20
    retry: Literal["idempotent", "always", "never"] = "idempotent"
    call_methods: Annotated[Sequence[str] | Literal[False] | None, PlainValidator(_check_call_methods)] = None
    allow_pin: bool = False
    expose_backend: bool = True
    debug: bool = False


def _check_proxies(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        got = f"{reprlib.repr(value)} ({type(value).__name__})"
        raise InvalidTypeError(f"trusted_proxies must be a list of IP addresses or networks, got {got}")
    for proxy in value:
        if not isinstance(proxy, str):
            raise InvalidTypeError(f"trusted_proxies must hold strings, got {proxy!r} ({type(proxy).__name__})")
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise InvalidValueError(
                f'trusted_proxies holds "{proxy}", which is no IP address or network ({error}); '
                'write "10.0.0.7" or "10.0.0.0/8"'
            ) from None
    return tuple(dict.fromkeys(value))


class HTTPOptions(Checked):
    """How the instance's ingresses listen and what they put up with.

    Attributes:
        num_ingress: ingress processes per node.
        max_connections: open client connections per ingress.
        max_buffered_bytes: bytes of request bodies and WebSocket messages held per ingress; beyond that 503, or 1013.
        max_request_line: longest request line in bytes.
        max_header_bytes: largest header block in bytes.
        max_headers: most header lines.
        head_timeout_s: seconds a client has to send a request's head.
        min_body_rate: bytes per second below which a client that sends a body is cut off; 0 for no such limit.
        keep_alive_s: seconds an idle connection is kept; 0 closes it after each answer.
        admin_port: port of the admin server on 127.0.0.1; 0 picks one.
        access_log: one log line per request.
        trusted_proxies: IP addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed.
    """

    num_ingress: Annotated[int, Field(ge=1, le=256)] = 1
    max_connections: _Count = 10_000
    max_buffered_bytes: _Bytes = 2**30
    max_request_line: _HeadBytes = 8 * 2**10
    max_header_bytes: _HeadBytes = 64 * 2**10
    max_headers: _Count = 100
    head_timeout_s: _Seconds = 15.0
    min_body_rate: _Bytes = 2**10
    keep_alive_s: _SecondsOrZero = 75.0
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 0
    access_log: bool = False
    trusted_proxies: Annotated[Sequence[str], PlainValidator(_check_proxies)] = ()


def parse_backend_config(config: dict[str, Any] | BackendConfig | None) -> BackendConfig:
    """Return the backend config a user gave; None is the defaults. The dict is never changed.

    Raises:
        InvalidTypeError: not a dict or BackendConfig, or an option of the wrong type.
        InvalidValueError: an unknown option, or a value that cannot be.
    """
    return parsed(BackendConfig, config)


def merge_backend_config(old: BackendConfig, changes: dict[str, Any] | BackendConfig) -> BackendConfig:
    """Return `old` with only the options named in `changes` replaced, the whole checked again.

    Raises:
        InvalidTypeError: as `parse_backend_config`, and for None.
        InvalidValueError: as `parse_backend_config`.
    """
    return merged(old, changes)


def parse_endpoint_config(config: dict[str, Any] | EndpointConfig | None) -> EndpointConfig:
    """Return the endpoint config a user gave; raises as `parse_backend_config`."""
    return parsed(EndpointConfig, config)


def merge_endpoint_config(old: EndpointConfig, changes: dict[str, Any] | EndpointConfig) -> EndpointConfig:
    """Return `old` with only the options named in `changes` replaced; raises as `merge_backend_config`."""
    return merged(old, changes)


def parse_http_options(options: dict[str, Any] | HTTPOptions | None) -> HTTPOptions:
    """Return the HTTP options a user gave; raises as `parse_backend_config`."""
    return parsed(HTTPOptions, options, "http_options")
