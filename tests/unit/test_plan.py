"""The planner: how many, where, who leaves, when a crash loop is held back, and in which order all ends."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from rayserve.cluster.nodes import Node
from rayserve.config import parse_backend_config
from rayserve.controller.plan import (
    DRAINING,
    OVER,
    READY,
    STARTING,
    Drain,
    Kill,
    Seen,
    Start,
    Trouble,
    after_failure,
    demand_of,
    due,
    plan,
    shortage,
    usable,
    waves,
)
from rayserve.controller.state import BackendRecord, Desired, ReplicaRecord
from rayserve.model.spec import CodeSpec

ONE = [Node("n1", "10.0.0.1", {"CPU": 2.0}, True)]
TWO = [*ONE, Node("n2", "10.0.0.2", {"CPU": 2.0, "GPU": 1.0}, True)]


def backend(tag: str, replicas: int, **options: Any) -> BackendRecord:
    config = parse_backend_config({"num_replicas": replicas}).to_plain()
    return BackendRecord(tag, CodeSpec(path="m:f"), config, options, 1)


def desired(*backends: BackendRecord, replicas: list[ReplicaRecord] | None = None, closing: bool = False) -> Desired:
    return Desired(
        "default",
        backends={one.tag: one for one in backends},
        replicas={one.id: one for one in replicas or []},
        closing=closing,
    )


def replica(number: int, tag: str = "a", node: str = "n1", **more: Any) -> ReplicaRecord:
    return ReplicaRecord(f"{tag}#{number}", tag, node, number, **more)


def seen(**phases: str) -> dict[str, Seen]:
    return {id_.replace("_", "#"): Seen(phase, 0.0) for id_, phase in phases.items()}


def test_starts_what_is_missing_on_the_node_with_fewest_of_the_backend() -> None:
    state = desired(backend("a", 3), replicas=[replica(1)])
    assert plan(state, seen(a_1=READY), TWO, 0.0) == [Start("a", "n2"), Start("a", "n1")]


def test_between_equals_the_node_with_fewer_replicas_in_all_is_taken() -> None:
    state = desired(backend("a", 1), backend("b", 1), replicas=[replica(1, "b")])
    assert plan(state, seen(b_1=READY), TWO, 0.0) == [Start("a", "n2")]


def test_nothing_to_do_when_all_is_as_desired() -> None:
    state = desired(backend("a", 2), replicas=[replica(1), replica(2)])
    assert plan(state, seen(a_1=READY, a_2=STARTING), ONE, 0.0) == []


def test_an_ended_replica_is_removed_and_replaced_in_one_plan() -> None:
    state = desired(backend("a", 2), replicas=[replica(1), replica(2)])
    assert plan(state, seen(a_1=OVER, a_2=READY), ONE, 0.0) == [Kill("a#1"), Start("a", "n1")]


def test_replicas_of_a_dead_node_are_replaced_on_a_living_one() -> None:
    state = desired(backend("a", 1), replicas=[replica(1, node="gone")])
    assert plan(state, seen(a_1=READY), ONE, 0.0) == [Kill("a#1"), Start("a", "n1")]


def test_scaling_down_takes_those_that_start_first_then_the_youngest() -> None:
    records = [replica(1), replica(2), replica(3), replica(4)]
    phases = seen(a_1=READY, a_2=STARTING, a_3=READY, a_4=READY)
    actions = plan(desired(backend("a", 2), replicas=records), phases, ONE, 0.0)
    assert actions == [Kill("a#2"), Drain("a#4")]
    actions = plan(desired(backend("a", 1), replicas=records), phases, ONE, 0.0)
    assert actions == [Kill("a#2"), Drain("a#4"), Drain("a#3")]


def renewed(tag: str, replicas: int, **options: Any) -> BackendRecord:
    """A backend whose settings need other replicas than those of generation 0."""
    return replace(backend(tag, replicas, **options), generation=1)


def test_outdated_replicas_serve_until_as_many_others_do() -> None:
    records = [replica(1), replica(2), replica(3, generation=1), replica(4, generation=1)]
    assert plan(desired(renewed("a", 2), replicas=records[:2]), seen(a_1=READY, a_2=READY), ONE, 0.0) == [
        Start("a", "n1"), Start("a", "n1")
    ]  # fmt: skip
    state = desired(renewed("a", 2), replicas=records)
    assert plan(state, seen(a_1=READY, a_2=READY, a_3=STARTING, a_4=STARTING), ONE, 0.0) == []
    assert plan(state, seen(a_1=READY, a_2=READY, a_3=READY, a_4=STARTING), ONE, 0.0) == [Drain("a#2")]
    assert plan(state, seen(a_1=READY, a_2=READY, a_3=READY, a_4=READY), ONE, 0.0) == [Drain("a#2"), Drain("a#1")]


def test_outdated_replicas_that_never_served_are_ended_before_others_leave() -> None:
    state = desired(renewed("a", 1), replicas=[replica(1), replica(2), replica(3, generation=1)])
    assert plan(state, seen(a_1=READY, a_2=STARTING, a_3=STARTING), ONE, 0.0) == [Kill("a#2")]


def test_where_there_is_no_room_beside_them_outdated_replicas_make_some_one_at_a_time() -> None:
    cpu = {"CPU": 1.0}
    old = [replica(1, demand=cpu), replica(2, demand=cpu)]
    full = desired(renewed("a", 2, num_cpus=1), replicas=old)
    assert shortage(full, ONE, full.backends["a"]) == ""
    assert plan(full, seen(a_1=READY, a_2=READY), ONE, 0.0) == [Drain("a#2")]

    leaving = [old[0], replace(old[1], drain_s=30.0)]
    state = desired(renewed("a", 2, num_cpus=1), replicas=leaving)
    assert plan(state, seen(a_1=READY, a_2=DRAINING), ONE, 0.0) == []
    state = desired(renewed("a", 2, num_cpus=1), replicas=old[:1])
    assert plan(state, seen(a_1=READY), ONE, 0.0) == [Start("a", "n1")]
    state = desired(renewed("a", 2, num_cpus=1), replicas=[old[0], replica(3, generation=1, demand=cpu)])
    assert plan(state, seen(a_1=READY, a_3=STARTING), ONE, 0.0) == []
    assert plan(state, seen(a_1=READY, a_3=READY), ONE, 0.0) == [Drain("a#1")]


def test_outdated_replicas_stay_while_others_are_held_back() -> None:
    state = desired(renewed("a", 1), replicas=[replica(1)])
    assert plan(state, seen(a_1=READY), ONE, 0.0, {"a": Trouble(3, 0.0, 9.0)}) == []


def test_a_replica_that_leaves_counts_for_nobody_and_is_ended_at_its_deadline() -> None:
    state = desired(backend("a", 1), replicas=[replica(1, drain_s=30.0), replica(2)])
    phases = {"a#1": Seen(DRAINING, 100.0), "a#2": Seen(READY, 0.0)}
    assert plan(state, phases, ONE, 129.9) == []
    assert due(state, phases, 129.9, {}) == 130.0
    assert plan(state, phases, ONE, 130.0) == [Kill("a#1")]


def test_a_replica_that_starts_and_is_not_wanted_any_more_is_ended_at_once() -> None:
    state = desired(replicas=[replica(1, drain_s=30.0)])
    assert plan(state, seen(a_1=STARTING), ONE, 0.0) == [Kill("a#1")]


def test_demands_are_placed_where_they_fit_and_wait_where_they_do_not() -> None:
    state = desired(backend("a", 2, num_gpus=1))
    assert plan(state, {}, TWO, 0.0) == [Start("a", "n2")]
    taken = desired(backend("a", 1, num_gpus=1), replicas=[replica(1, "b", "n2", demand={"GPU": 1.0})])
    assert plan(taken, {}, TWO, 0.0) == []


def test_a_draining_replica_still_holds_its_resources() -> None:
    leaving = replica(1, "a", "n2", demand={"GPU": 1.0}, drain_s=30.0)
    state = desired(backend("a", 1, num_gpus=1), replicas=[leaving])
    assert plan(state, {"a#1": Seen(DRAINING, 0.0)}, TWO, 1.0) == []
    assert plan(state, {"a#1": Seen(OVER, 0.0)}, TWO, 1.0) == [Kill("a#1"), Start("a", "n2")]


def test_no_start_on_a_node_without_a_doorkeeper() -> None:
    state = desired(backend("a", 2))
    assert plan(state, {}, TWO, 0.0, homes={"n2"}) == [Start("a", "n2"), Start("a", "n2")]
    assert plan(state, {}, TWO, 0.0, homes=set()) == []


def test_a_closing_instance_starts_nothing() -> None:
    state = desired(backend("a", 2), replicas=[replica(1, drain_s=1.0)], closing=True)
    assert plan(state, {"a#1": Seen(DRAINING, 0.0)}, ONE, 2.0) == [Kill("a#1")]


def test_a_crash_loop_is_held_back() -> None:
    state = desired(backend("a", 1))
    holds = {"a": Trouble(3, 10.0, 12.0)}
    assert plan(state, {}, ONE, 11.9, holds) == []
    assert due(state, {}, 11.9, holds) == 12.0
    assert plan(state, {}, ONE, 12.0, holds) == [Start("a", "n1")]
    assert due(desired(), {}, 0.0, holds) is None  # its backend is gone


def test_the_first_replacement_is_immediate_and_the_pauses_double_up_to_thirty_seconds() -> None:
    trouble, now, waits = None, 100.0, []
    for _ in range(9):
        trouble = after_failure(trouble, now, 0.0)
        waits.append(trouble.until - now)
        now = trouble.until + 1.0
    assert waits == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_deaths_at_one_moment_count_once_and_a_long_life_is_forgiven() -> None:
    first = after_failure(None, 100.0, 0.0)
    assert after_failure(first, 100.2, 0.0) == first
    assert after_failure(Trouble(7, 90.0, 120.0), 200.0, 31.0) == Trouble(1, 200.0, 200.0)


def test_demand_in_rays_words() -> None:
    options = {"num_cpus": 0.5, "num_gpus": 0, "memory": 1e9, "resources": {"tpu": 2}, "runtime_env": {}}
    assert demand_of(options) == {"CPU": 0.5, "memory": 1e9, "tpu": 2.0}
    assert demand_of({}) == {}


def test_what_others_hold_is_not_ours_to_use() -> None:
    node = Node("n1", "", {"CPU": 8.0}, True)
    ours = [replica(1, demand={"CPU": 2.0}), replica(2, node="n2", demand={"CPU": 4.0})]
    assert usable(node, {"CPU": 3.0}, ours).resources == {"CPU": 5.0}  # others hold 3
    # Ray has not yet noticed that ours took theirs.
    assert usable(node, {"CPU": 8.0}, ours).resources == {"CPU": 8.0}


@pytest.mark.parametrize(
    ("replicas", "options", "told"),
    [
        (1, {"num_cpus": 1}, ""),
        (2, {"num_gpus": 1}, "to 2 replicas: each needs GPU 1 on one node; 1 of 2 fit, then the most left on any of 2"),
        (1, {"num_cpus": 3}, "0 of 1 fit, then the most left on any of 2 nodes is CPU 2"),
        (1, {"resources": {"tpu": 1}}, "to 1 replica: each needs tpu 1 on one node; 0 of 1 fit"),
    ],
)
def test_case_7_a_shortage_is_told_in_words(replicas: int, options: dict[str, Any], told: str) -> None:
    record = backend("big", replicas, **options)
    text = shortage(desired(record), TWO, record)
    assert told in text
    assert text.startswith('Cannot scale backend "big"') == bool(told)


def test_callers_stop_before_those_they_call() -> None:
    calls = {("front", "model"), ("model", "store"), ("front", "front")}
    assert waves({"store", "model", "front", "alone"}, calls) == [["alone", "front"], ["model"], ["store"]]


def test_backends_that_call_in_a_circle_stop_together() -> None:
    assert waves({"a", "b", "c"}, {("a", "b"), ("b", "a"), ("c", "a")}) == [["c"], ["a", "b"]]
    assert waves(set(), {("a", "b")}) == []
