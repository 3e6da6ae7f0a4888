"""Commands against what exists: each verb's rules and the words in which they are refused. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.fake_world import create_backend, create_endpoint, set_traffic, update_backend

from rayserve.controller.changes import apply, discard, revert
from rayserve.controller.commands import (
    Command,
    DeleteBackend,
    DeleteEndpoint,
    ShadowTraffic,
    UpdateEndpointConfig,
    decode_command,
    encode_command,
    subject_of,
)
from rayserve.controller.state import BackendRecord, Desired, ReplicaRecord, put_backend, put_replicas
from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.model.spec import MethodTraits, Traits

PLAIN = Traits("function", (MethodTraits("__call__"),))


def ready(state: Desired, *tags: str) -> Desired:
    """Return `state` with these backends created and loaded."""
    for tag in tags:
        state = apply(state, create_backend(tag))
        state = put_backend(state, msgspec.structs.replace(state.backends[tag], pending="", traits=PLAIN))
    return state


def after(*commands: Command, backends: tuple[str, ...] = ()) -> Desired:
    state = ready(Desired("default"), *backends)
    for command in commands:
        state = apply(state, command)
    return state


def refusal(state: Desired, command: Command) -> str:
    before = msgspec.msgpack.encode(state)
    with pytest.raises(InvalidValueError) as caught:
        apply(state, command)
    assert msgspec.msgpack.encode(state) == before
    return str(caught.value)


def test_case_3_create_endpoint_with_backend_serves_at_once() -> None:
    state = after(create_endpoint("e", "/e", backend="a"), backends=("a",))
    assert state.endpoints["e"].weights == {"a": 1.0}


@pytest.mark.parametrize(("one", "other"), [("/a", "/a"), ("/i/{id}", "/i/{name}"), ("/m/*", "/m/*"), ("/%61", "/a")])
def test_case_3_and_4_routes_that_match_the_same_paths_are_refused(one: str, other: str) -> None:
    text = refusal(after(create_endpoint("first", one)), create_endpoint("second", other))
    assert f'route "{other}" is taken: endpoint "first" has' in text
    assert 'delete_endpoint("first")' in text


@pytest.mark.parametrize("other", ["/b", "/a/", "/a/*", "/{x}", None])
def test_case_3_other_routes_live_side_by_side(other: str | None) -> None:
    assert len(after(create_endpoint("first", "/a"), create_endpoint("second", other)).endpoints) == 2


def test_case_4_an_identical_repeat_is_a_no_op() -> None:
    state = after(create_endpoint("e", "/e", ("GET",), "a", {"timeout_s": 5}), backends=("a", "b"))
    assert apply(state, create_endpoint("e", "/e", ("GET",), "a", {"timeout_s": 5})) is state
    moved = apply(state, set_traffic("e", b=1.0))
    assert apply(moved, create_endpoint("e", "/e", ("GET",), None, {"timeout_s": 5})) is moved


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"route": "/f"}, "another route"),
        ({"methods": ("POST",)}, "another methods"),
        ({"config": {"timeout_s": 6}}, 'another config; call delete_endpoint("e") first, or update_endpoint_config('),
        ({"backend": "b"}, 'another traffic; call delete_endpoint("e") first, or set_traffic("e", …)'),
    ],
)
def test_case_4_the_same_name_with_other_settings_is_refused(other: dict[str, Any], told: str) -> None:
    settings: dict[str, Any] = {"route": "/e", "methods": ("GET",), "backend": "a", "config": {"timeout_s": 5}}
    state = after(create_endpoint("e", **settings), backends=("a", "b"))
    assert told in refusal(state, create_endpoint("e", **{**settings, **other}))


def test_case_4_an_unknown_backend_leaves_no_trace_of_the_endpoint() -> None:
    text = refusal(ready(Desired("default"), "resnet"), create_endpoint("e", "/e", backend="resnest"))
    assert text == 'backend "resnest" does not exist; did you mean "resnet"?'


def test_case_4_update_endpoint_config_changes_named_options_only() -> None:
    state = after(create_endpoint("e", "/e", config={"timeout_s": 5, "debug": True}))
    state = apply(state, UpdateEndpointConfig("c", "e", {"timeout_s": 9.0}))
    assert (state.endpoints["e"].config["timeout_s"], state.endpoints["e"].config["debug"]) == (9.0, True)
    with pytest.raises(InvalidTypeError):
        apply(state, UpdateEndpointConfig("c", "e", {"timeout_s": "x"}))
    assert 'endpoint "f" does not exist' in refusal(state, UpdateEndpointConfig("c", "f", {}))


def test_case_5_delete_endpoint_frees_name_and_route_and_keeps_backends() -> None:
    state = after(create_endpoint("e", "/e", backend="a"), DeleteEndpoint("c", "e"), backends=("a",))
    assert not state.endpoints and "a" in state.backends
    assert apply(state, DeleteEndpoint("c", "never was")) is state
    assert "f" in apply(state, create_endpoint("f", "/e")).endpoints


def test_case_7_a_duplicate_tag_names_the_way_to_update() -> None:
    text = refusal(ready(Desired("default"), "a"), create_backend("a"))
    assert text.startswith('backend "a" exists already and was left as it is')
    assert 'update_backend_config("a", {…})' in text


def test_case_10_update_changes_named_keys_under_a_new_revision() -> None:
    state = ready(Desired("default"), "a")
    changed = apply(state, update_backend("a", num_replicas=4))
    assert changed.backends["a"].config == {**state.backends["a"].config, "num_replicas": 4}
    assert changed.backends["a"].revision > state.backends["a"].revision
    assert apply(state, update_backend("a", num_replicas=1)) is state
    assert revert(changed, "a").backends["a"].config == state.backends["a"].config
    assert revert(changed, "a").backends["a"].revision > changed.backends["a"].revision


@pytest.mark.parametrize("changes", [{"num_replicas": 0}, {"max_batch_size": 4}, {"nonsense": 1}])
def test_case_10_an_invalid_update_changes_nothing(changes: dict[str, Any]) -> None:
    refusal(ready(Desired("default"), "a"), update_backend("a", **changes))


def test_case_10_a_user_config_without_reconfigure_is_refused() -> None:
    assert "reconfigure" in refusal(ready(Desired("default"), "a"), update_backend("a", user_config=b"x"))


def test_case_10_an_unknown_backend_is_named_with_the_nearest() -> None:
    state = ready(Desired("default"), "resnet")
    assert refusal(state, update_backend("resnt")) == 'backend "resnt" does not exist; did you mean "resnet"?'
    assert refusal(Desired("default"), update_backend("m")) == (
        'backend "m" does not exist; call create_backend("m", …) first'
    )


def test_case_12_a_backend_in_use_cannot_be_deleted() -> None:
    state = after(create_endpoint("classify", "/c", backend="resnet"), backends=("resnet", "vgg"))
    assert refusal(state, DeleteBackend("c", "resnet")) == (
        'backend "resnet" is in the traffic of endpoint "classify"; call set_traffic("classify", …) first'
    )
    state = apply(state, ShadowTraffic("c", "classify", "vgg", 0.5))
    assert refusal(state, DeleteBackend("c", "vgg")) == (
        'backend "vgg" is a shadow of endpoint "classify"; call shadow_traffic("classify", "vgg", 0) first'
    )
    assert apply(state, DeleteBackend("c", "unknown")) is state


def test_case_12_a_deleted_backend_leaves_only_replicas_that_drain() -> None:
    state = put_replicas(ready(Desired("default"), "a"), [ReplicaRecord("a#1", "a", "n", 1)])
    state = apply(state, DeleteBackend("c", "a"))
    assert not state.backends and state.replicas["a#1"].drain_s == 30.0
    assert discard(state, "a") is state


def test_case_21_set_traffic_replaces_the_weights_and_keeps_shadows() -> None:
    state = after(create_endpoint("e", "/e", backend="a"), backends=("a", "b"))
    state = apply(state, ShadowTraffic("c", "e", "b", 0.25))
    state = apply(state, set_traffic("e", b=1.0))
    assert (state.endpoints["e"].weights, state.endpoints["e"].shadows) == ({"b": 1.0}, {"b": 0.25})


def test_case_21_swapped_arguments_are_recognised() -> None:
    state = after(create_endpoint("simple_endpoint", "/s"), backends=("simple_backend",))
    assert refusal(state, set_traffic("simple_backend", simple_endpoint=1.0)) == (
        'the arguments of set_traffic are swapped: "simple_backend" is a backend and "simple_endpoint" an endpoint; '
        'the endpoint comes first: set_traffic("simple_endpoint", {"simple_backend": 1.0})'
    )
    # The overview's own slip: by then the endpoint was deleted.
    state = apply(state, DeleteEndpoint("c", "simple_endpoint"))
    assert refusal(state, set_traffic("simple_backend", simple_endpoint=1.0)) == (
        'the arguments of set_traffic are swapped: "simple_backend" is a backend and "simple_endpoint" is no backend; '
        'the endpoint comes first: set_traffic("simple_endpoint", {"simple_backend": 1.0})'
    )


def test_case_21_unknown_names_and_backends_that_start_are_refused() -> None:
    state = after(create_endpoint("classify", "/c"), create_backend("slow"), backends=("resnet",))
    assert refusal(state, set_traffic("clasify", resnet=1.0)) == (
        'endpoint "clasify" does not exist; did you mean "classify"?'
    )
    assert refusal(state, set_traffic("classify", resnt=1.0)) == (
        'backend "resnt" does not exist; did you mean "resnet"?'
    )
    assert refusal(state, set_traffic("classify", classify=1.0)) == (
        'backend "classify" does not exist; "classify" is an endpoint'
    )
    assert "still starting" in refusal(state, set_traffic("classify", slow=1.0))


def test_case_24_shadow_traffic_is_added_replaced_and_stopped() -> None:
    state = after(create_endpoint("e", "/e", backend="a"), backends=("a", "b"))
    state = apply(state, ShadowTraffic("c", "e", "b", 0.5))
    state = apply(state, ShadowTraffic("c", "e", "b", 0.1))
    assert state.endpoints["e"].shadows == {"b": 0.1}
    assert apply(state, ShadowTraffic("c", "e", "b", 0.0)).endpoints["e"].shadows == {}
    assert apply(state, ShadowTraffic("c", "e", "a", 0.0)) is state
    assert 'backend "x"' in refusal(state, ShadowTraffic("c", "e", "x", 0.0))
    assert 'shadow_traffic("e", "b", 0.5)' in refusal(state, ShadowTraffic("c", "b", "e", 0.5))


def test_commands_travel_and_know_their_subject() -> None:
    for command, subject in (
        (create_endpoint("e", "/e"), "endpoint e"),
        (set_traffic("e", a=1.0), "endpoint e"),
        (create_backend("a", init=b"arguments"), "backend a"),
        (DeleteBackend("c", "a"), "backend a"),
    ):
        assert decode_command(encode_command(command)) == command
        assert subject_of(command) == subject


def test_one_change_among_many_endpoints_touches_one() -> None:
    state = Desired("default")
    for number in range(100):
        state = apply(state, create_endpoint(f"e{number}", f"/{number}"))
    state = ready(state, "a")
    changed = apply(state, set_traffic("e5", a=1.0))
    assert [name for name in state.endpoints if changed.endpoints[name] is not state.endpoints[name]] == ["e5"]
    assert isinstance(changed.backends["a"], BackendRecord)
