"""What a config comes to for the code that was loaded.

    config + traits (from the first ready replica) ──► check_against_traits ──► backend_row ──► routing table

Called by the controller; pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rayserve.errors import InvalidValueError
from rayserve.method_schema import join_schemas
from rayserve.model.spec import Traits
from rayserve.model.table import Backend, BatchRule, EndpointOptions, Replica

if TYPE_CHECKING:
    from rayserve.config import BackendConfig, EndpointConfig

__all__ = ["backend_row", "check_against_traits", "endpoint_options", "max_concurrent_queries"]

_SYNC_QUERIES = 8
_ASYNC_QUERIES = 256
_APPS = frozenset({"asgi", "wsgi"})


def check_against_traits(config: BackendConfig, traits: Traits, tag: str) -> None:
    """Refuse options that the loaded code cannot follow.

    Raises:
        InvalidValueError: batch options without `accept_batch`, `max_concurrent_batches` for sync batches,
            `max_concurrency` where all code is async or a WSGI app, a `user_config` that no `reconfigure` would take,
            `stream_request` for code that asks for whole bodies.
    """
    # At most one call per batch is what code without the decorator does anyway.
    if config.max_batch_size is not None and config.max_batch_size > 1 and not traits.batches:
        raise InvalidValueError(
            f'backend "{tag}" takes single calls, so max_batch_size={config.max_batch_size} cannot be; '
            "decorate the function or method with @serve.accept_batch, or leave max_batch_size out"
        )
    if config.max_concurrent_batches > 1:
        _check_concurrent_batches(config, traits, tag)
    if config.max_concurrency > 1 and _only_async(traits):
        raise InvalidValueError(
            f'backend "{tag}" is async throughout, so max_concurrency={config.max_concurrency} cannot be: it counts '
            "threads for sync code, and async calls overlap by themselves; limit them with max_concurrent_queries"
        )
    if config.max_concurrency > 1 and traits.kind == "wsgi":
        raise InvalidValueError(
            f'backend "{tag}" is a WSGI app, so max_concurrency={config.max_concurrency} cannot be: the number of its '
            "threads is said where it is wrapped, as in serve.wsgi(app, threads=8)"
        )
    if config.user_config is not None and not traits.reconfigures:
        raise InvalidValueError(
            f'backend "{tag}" has no reconfigure method to take its user_config; '
            "serve a class with `def reconfigure(self, config)`, or leave user_config out"
        )
    if config.stream_request:
        _check_stream_request(traits, tag)


def max_concurrent_queries(config: BackendConfig, traits: Traits) -> int:
    """Return how many calls one replica holds at most: the value set, or one derived from the code.

    Of a class whose methods are of several kinds, the kind that needs most decides.
    """
    if config.max_concurrent_queries is not None:
        return config.max_concurrent_queries
    sync = max(_SYNC_QUERIES, 2 * (traits.threads or config.max_concurrency))
    needs = [_ASYNC_QUERIES if traits.kind == "asgi" else sync] if not traits.methods else []
    for method in traits.methods:
        if not method.batches:
            needs.append(_ASYNC_QUERIES if method.is_async or traits.kind == "asgi" else sync)
        elif config.max_batch_size is None:
            needs.append(sync)
        else:
            # One more batch than can run, so that the next is there when one ends. Sync batches run one per thread.
            running = config.max_concurrent_batches if method.is_async else config.max_concurrency
            needs.append(config.max_batch_size * (running + 1))
    return max(needs)


def backend_row(
    tag: str,
    revision: int,
    config: BackendConfig,
    traits: Traits,
    user_config_stamp: tuple[int, str],
    replicas: Iterable[Replica],
) -> Backend:
    """Return the backend's row of the routing table.

    Args:
        tag: its name.
        revision: grows when code or settings change.
        config: checked against `traits`.
        traits: what its code turned out to be.
        user_config_stamp: (revision, blob hash) of the `user_config`; (0, "") for none.
        replicas: the ready ones, in a stable order.
    """
    return Backend(
        tag=tag,
        revision=revision,
        replicas=tuple(replicas),
        max_concurrent_queries=max_concurrent_queries(config, traits),
        max_queued=config.max_queued,
        max_concurrency=config.max_concurrency,
        batch=BatchRule(config.max_batch_size or 1, config.batch_wait_timeout, config.max_concurrent_batches),
        user_config=user_config_stamp,
        drain_timeout_s=config.drain_timeout_s,
        stream_request=config.stream_request or traits.kind == "asgi",
        app=traits.kind if traits.kind in _APPS else "",
        schema=join_schemas((method.name, method.schema) for method in traits.methods),
    )


def endpoint_options(config: EndpointConfig) -> EndpointOptions:
    """Return the data plane's view of an endpoint's config."""
    methods = config.call_methods
    return EndpointOptions(
        timeout_s=config.timeout_s,
        max_body_bytes=config.max_body_bytes,
        retry=config.retry,
        call_methods=methods if methods is None or methods is False else tuple(methods),
        allow_pin=config.allow_pin,
        expose_backend=config.expose_backend,
        debug=config.debug,
    )


def _check_concurrent_batches(config: BackendConfig, traits: Traits, tag: str) -> None:
    if not traits.batches:
        raise InvalidValueError(
            f'backend "{tag}" takes single calls, so max_concurrent_batches={config.max_concurrent_batches} cannot be; '
            "decorate the function or method with @serve.accept_batch, or leave max_concurrent_batches out"
        )
    if not any(method.batches and method.is_async for method in traits.methods):
        raise InvalidValueError(
            f'the batch handler of backend "{tag}" is sync, so max_concurrent_batches={config.max_concurrent_batches} '
            "cannot be; make it `async def`, or set max_concurrency, the number of threads"
        )


def _check_stream_request(traits: Traits, tag: str) -> None:
    if traits.batches:
        raise InvalidValueError(
            f'backend "{tag}" takes batches, which are made of whole requests, so stream_request=True cannot be; '
            "leave it out, or take single calls, without @serve.accept_batch"
        )
    typed = next((method.name for method in traits.methods if method.schema), "")
    if typed:
        raise InvalidValueError(
            f'{typed} of backend "{tag}" has typed parameters, which are read from the whole request, so '
            "stream_request=True cannot be; leave it out, or take the request alone, without annotation, and read "
            "request.stream"
        )


def _only_async(traits: Traits) -> bool:
    if traits.kind in _APPS:
        return traits.kind == "asgi"
    # Inherited methods may be sync: their traits are not known.
    return bool(traits.methods) and not traits.inherited and all(method.is_async for method in traits.methods)
