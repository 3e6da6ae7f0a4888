"""The desired state: edits share what they do not touch, and the value survives its encoding."""

from __future__ import annotations

import msgspec

from rayserve.config import parse_backend_config
from rayserve.controller.outcome import Outcome
from rayserve.controller.state import (
    KEPT_OUTCOMES,
    BackendRecord,
    Desired,
    EndpointRecord,
    Prior,
    ReplicaRecord,
    blobs_of,
    drain,
    put_backend,
    put_endpoint,
    put_replicas,
    remember,
    replicas_of,
    without,
)
from rayserve.model.spec import CodeSpec, MethodTraits, Traits
from rayserve.model.table import Replica

CONFIG = parse_backend_config({"drain_timeout_s": 7.0}).to_plain()


def backend(tag: str = "a") -> BackendRecord:
    code = CodeSpec(blob="code", init="init", sys_path=("/src",))
    return BackendRecord(tag, code, CONFIG, {"num_gpus": 0.5}, 3, (2, "config"))


def test_every_part_survives_encoding() -> None:
    at = Replica("a#1", "n1", "/run/a", "10.0.0.1", 7)
    traits = Traits("class", (MethodTraits("__call__", batches=True),), ("old",), True)
    record = msgspec.structs.replace(backend(), traits=traits, pending="c1", prior=Prior("c2", CONFIG, "older"))
    state = Desired(
        "default",
        http={"http_host": None, "options": {"num_ingress": 2}},
        secret=b"\0secret",
        epoch=4,
        serial=9,
        endpoints={"e": EndpointRecord("e", "/e", ("GET",), {"timeout_s": 1.0}, {"a": 1.0}, {"b": 0.1})},
        backends={"a": record},
        replicas={"a#1": ReplicaRecord("a#1", "a", "n1", 1, {"GPU": 0.5}, at, 7.0)},
        outcomes={"c0": Outcome("InvalidValueError", "no"), "c1": Outcome()},
        ports={"n1": 8000},
        closing=True,
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Desired) == state


def test_edits_leave_the_old_value_and_share_the_rest() -> None:
    first = put_endpoint(Desired("default"), EndpointRecord("e", "/e", None, {}))
    second = put_backend(put_endpoint(first, EndpointRecord("f", "/f", None, {})), backend())
    assert list(first.endpoints) == ["e"] and not first.backends
    assert second.endpoints["e"] is first.endpoints["e"]


def test_draining_concerns_the_replicas_that_stay_and_keeps_the_backends_time() -> None:
    records = [ReplicaRecord("a#1", "a", "n", 1, drain_s=1.0), ReplicaRecord("a#2", "a", "n", 2)]
    state = put_replicas(put_backend(Desired("default"), backend()), records)
    assert [one.id for one in replicas_of(state, "a")] == ["a#2"]
    drained = drain(state, ["a"])
    assert [one.drain_s for one in drained.replicas.values()] == [1.0, 7.0]
    assert drain(drained, ["a"]) is drained


def test_the_last_thousand_outcomes_are_kept() -> None:
    state = Desired("default")
    for number in range(KEPT_OUTCOMES + 5):
        state = remember(state, f"c{number}", Outcome())
    assert len(state.outcomes) == KEPT_OUTCOMES == 1_000
    assert "c4" not in state.outcomes and "c5" in state.outcomes


def test_blobs_of_names_code_arguments_and_both_configs_of_an_update() -> None:
    record = msgspec.structs.replace(backend(), prior=Prior("c", CONFIG, "older"))
    assert blobs_of(put_backend(Desired("default"), record)) == {"code", "init", "config", "older"}
    assert blobs_of(Desired("default")) == set()


def test_without_copies() -> None:
    old = {"a": 1, "b": 2}
    assert without(old, "a", "c") == {"b": 2} and old == {"a": 1, "b": 2}
