"""Sums over processes that come, go and begin again: they never go down."""

from __future__ import annotations

from rayserve.controller.counts import Counts
from rayserve.model.facts import BatchFacts, Facts, Row


def ingress(answered: int, process: str = "ingress-0:n1:0", in_flight: int = 0) -> Facts:
    row = Row("e", "a", assigned=answered, answered=answered, in_flight=in_flight, latency=[answered, 0])
    row.statuses = {"2xx": answered}
    return Facts(process, "ingress", [row], connections=3)


def answered(counts: Counts) -> int:
    return sum(row.answered for row in counts.rows())


def test_processes_are_summed_and_repeats_harm_nothing() -> None:
    counts = Counts()
    for _ in range(3):
        counts.add(ingress(5), "n1")
        counts.add(ingress(7, "handle:1"), "n1")
    (row,) = counts.rows()
    assert (row.endpoint, row.backend, row.answered, row.statuses, row.latency) == ("e", "a", 12, {"2xx": 12}, [12, 0])
    assert counts.snapshot()["connections"] == 6


def test_what_a_gone_process_counted_stays_but_nothing_is_in_flight_there() -> None:
    counts = Counts()
    counts.add(ingress(5, in_flight=2), "n1")
    counts.left("ingress-0:n1:0")
    assert (counts.rows()[0].answered, counts.rows()[0].in_flight) == (5, 0)
    assert counts.snapshot()["connections"] == 0
    counts.add(ingress(6, in_flight=1), "n1")  # it was only cut off
    assert (counts.rows()[0].answered, counts.rows()[0].in_flight) == (6, 1)


def test_a_process_that_begins_again_under_its_name_adds_up() -> None:
    counts = Counts()
    counts.add(ingress(5), "n1")
    counts.add(ingress(2), "n1")
    assert answered(counts) == 7
    counts.add(ingress(3), "n1")
    assert answered(counts) == 8


def test_a_dead_node_takes_its_processes_along() -> None:
    counts = Counts()
    counts.add(ingress(5, in_flight=2), "n1")
    counts.add(ingress(1, "ingress-0:n2:0", in_flight=1), "n2")
    counts.node_left("n1")
    assert (counts.rows()[0].answered, counts.rows()[0].in_flight) == (6, 1)


def test_thousands_of_gone_processes_are_kept_as_one_sum() -> None:
    counts = Counts()
    for number in range(1_000):
        facts = ingress(1, f"handle:{number}")
        facts.batches = [BatchFacts("a", f"a#{number}", {2: 1}, {"full": 1})]
        counts.add(facts, "n1")
        counts.left(f"handle:{number}")
    assert answered(counts) == 1_000
    assert len(counts._gone) <= 256
    assert counts.batches() == [BatchFacts("a", "", {2: 1_000}, {"full": 1_000})]


def test_who_calls_whom_is_known_from_the_replicas_handles() -> None:
    counts = Counts()
    counts.add(Facts("front#1:7", "replica", [Row("e", "model", assigned=1), Row("parked", "")]), "n1")
    counts.add(ingress(1), "n1")
    assert counts.calls() == {("front", "model")}
