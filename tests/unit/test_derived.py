"""What a config comes to for the code that was loaded."""

from __future__ import annotations

import pytest

from rayserve.config import (
    BackendConfig,
    EndpointConfig,
    backend_row,
    check_against_traits,
    endpoint_options,
    max_concurrent_queries,
)
from rayserve.errors import InvalidValueError
from rayserve.model.spec import MethodTraits, Traits
from rayserve.model.table import BatchRule, EndpointOptions, Replica

SYNC = Traits("function", (MethodTraits("__call__"),))
ASYNC = Traits("function", (MethodTraits("__call__", is_async=True),))
BATCHED = Traits("class", (MethodTraits("__call__", batches=True),))
ASYNC_BATCHED = Traits("class", (MethodTraits("__call__", is_async=True, batches=True),))
MIXED = Traits("class", (MethodTraits("__call__"), MethodTraits("stream", is_async=True)))
ASGI = Traits("asgi")
WSGI = Traits("wsgi", threads=8)


def test_case_8_batches_need_the_decorator() -> None:
    with pytest.raises(InvalidValueError, match=r'backend "b" .* max_batch_size=10 .* @serve\.accept_batch'):
        check_against_traits(BackendConfig(max_batch_size=10), SYNC, "b")
    with pytest.raises(InvalidValueError, match=r"max_concurrent_batches=2 .* @serve\.accept_batch"):
        check_against_traits(BackendConfig(max_concurrent_batches=2), ASYNC, "b")
    check_against_traits(BackendConfig(max_batch_size=10), BATCHED, "b")
    check_against_traits(BackendConfig(max_batch_size=1), SYNC, "b")


def test_bodies_are_not_streamed_to_what_asks_for_whole_requests() -> None:
    typed = Traits("class", (MethodTraits("__call__"), MethodTraits("predict", schema=b"{}")))
    with pytest.raises(InvalidValueError, match=r'backend "b" takes batches.*without @serve\.accept_batch'):
        check_against_traits(BackendConfig(stream_request=True), BATCHED, "b")
    with pytest.raises(InvalidValueError, match=r'predict of backend "b" has typed parameters.*read request\.stream'):
        check_against_traits(BackendConfig(stream_request=True), typed, "b")
    for traits in (SYNC, ASYNC, MIXED, ASGI, WSGI):
        check_against_traits(BackendConfig(stream_request=True), traits, "b")


@pytest.mark.parametrize(
    ("traits", "asked", "streams"),
    [(ASGI, False, True), (WSGI, False, False), (WSGI, True, True), (SYNC, False, False), (SYNC, True, True)],
)
def test_asgi_apps_get_their_bodies_streamed_unasked(traits: Traits, asked: bool, streams: bool) -> None:
    row = backend_row("b", 1, BackendConfig(stream_request=asked), traits, (0, ""), ())
    assert row.stream_request is streams


def test_concurrent_batches_are_for_async_handlers() -> None:
    with pytest.raises(InvalidValueError, match=r'batch handler of backend "b" is sync.*max_concurrency'):
        check_against_traits(BackendConfig(max_concurrent_batches=2), BATCHED, "b")
    check_against_traits(BackendConfig(max_concurrent_batches=2), ASYNC_BATCHED, "b")


@pytest.mark.parametrize("traits", [ASYNC, ASYNC_BATCHED, ASGI])
def test_threads_are_for_sync_code(traits: Traits) -> None:
    with pytest.raises(InvalidValueError, match='backend "b" is async throughout, so max_concurrency=2 cannot be'):
        check_against_traits(BackendConfig(max_concurrency=2), traits, "b")


@pytest.mark.parametrize("traits", [SYNC, BATCHED, MIXED, Traits("class", ASYNC.methods, inherited=("sync_perhaps",))])
def test_threads_may_serve_whatever_is_sync(traits: Traits) -> None:
    check_against_traits(BackendConfig(max_concurrency=2), traits, "b")


def test_a_wsgi_app_is_told_where_its_threads_are_said() -> None:
    with pytest.raises(
        InvalidValueError, match=r'"b" is a WSGI app, so max_concurrency=2 .* serve\.wsgi\(app, threads=8\)'
    ):
        check_against_traits(BackendConfig(max_concurrency=2), WSGI, "b")


@pytest.mark.parametrize("value", [0, False, {}, "v1"])
def test_case_10_a_user_config_needs_a_reconfigure(value: object) -> None:
    with pytest.raises(InvalidValueError, match='backend "b" has no reconfigure method'):
        check_against_traits(BackendConfig(user_config=value), SYNC, "b")
    check_against_traits(BackendConfig(user_config=value), Traits("class", SYNC.methods, reconfigures=True), "b")


@pytest.mark.parametrize(
    ("config", "traits", "expected"),
    [
        (BackendConfig(), SYNC, 8),
        (BackendConfig(max_concurrency=3), SYNC, 8),
        (BackendConfig(max_concurrency=10), SYNC, 20),
        (BackendConfig(), WSGI, 16),
        (BackendConfig(), Traits("wsgi", threads=2), 8),
        (BackendConfig(), ASYNC, 256),
        (BackendConfig(), ASGI, 256),
        (BackendConfig(), MIXED, 256),
        (BackendConfig(max_batch_size=5), BATCHED, 10),
        (BackendConfig(max_batch_size=5, max_concurrent_batches=3), ASYNC_BATCHED, 20),
        (BackendConfig(max_batch_size=5, max_concurrency=3), BATCHED, 20),
        (BackendConfig(), BATCHED, 8),
        (BackendConfig(max_concurrent_queries=3), ASYNC, 3),
    ],
)
def test_the_limit_of_a_replica_is_derived(config: BackendConfig, traits: Traits, expected: int) -> None:
    assert max_concurrent_queries(config, traits) == expected


def test_a_backends_row_carries_its_settings() -> None:
    config = BackendConfig(
        max_batch_size=5, batch_wait_timeout=0.5, max_concurrent_batches=2, max_queued=7, drain_timeout_s=3
    )
    replicas = [Replica("b#1", "node", "/run/r-1.sock")]
    row = backend_row("b", 4, config, ASYNC_BATCHED, (2, "hash"), replicas)
    assert (row.tag, row.revision, row.replicas) == ("b", 4, tuple(replicas))
    assert (row.max_concurrent_queries, row.max_queued, row.max_concurrency) == (15, 7, 1)
    assert row.batch == BatchRule(max_size=5, wait_s=0.5, concurrent=2)
    assert (row.user_config, row.drain_timeout_s, row.stream_request, row.app) == ((2, "hash"), 3.0, False, "")
    assert backend_row("b", 4, BackendConfig(), WSGI, (0, ""), ()).app == "wsgi"


def test_an_endpoints_options_are_those_of_its_config() -> None:
    assert endpoint_options(EndpointConfig()) == EndpointOptions()
    config = EndpointConfig(timeout_s=3, call_methods=["b", "a"], debug=True)
    assert endpoint_options(config) == EndpointOptions(timeout_s=3.0, call_methods=("b", "a"), debug=True)
    assert endpoint_options(EndpointConfig(call_methods=False)).call_methods is False
