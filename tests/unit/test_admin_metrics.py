"""What Prometheus reads: every count of a snapshot, no name that does not exist, no label from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rayserve.admin.metrics import exposition
from rayserve.admin.snapshot import Snapshot
from rayserve.errors import REASONS
from rayserve.model.facts import BUCKETS_S, BatchFacts, Row

Labels = dict[str, str]

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def read(snapshot: Snapshot) -> dict[str, list[tuple[Labels, float]]]:
    """Sample name → (labels, value), as Prometheus itself would read them."""
    found: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(exposition(snapshot, "0.1.0").decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: dict[str, list[tuple[Labels, float]]], name: str, /, **labels: str) -> float:
    (found,) = [value for these, value in samples[name] if these == labels]
    return found


def snapshot(**changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "instance": "default",
        "endpoints": frozenset({"classify"}),
        "replicas": {"v1": (1, 3), "v2": (2, 2)},
        "connections": 7,
    }
    return Snapshot(**{**fields, **changes})


CALLS = Row(
    endpoint="classify",
    backend="v1",
    assigned=12,
    answered=8,
    failed={"user_exception": 2, "queue_full": 1, "cancelled": 1},
    statuses={"2xx": 5, "4xx": 1},
    latency=[0, 3, 0, 4, *[0] * 12, 1],
    latency_sum_s=62.5,
    retried=3,
)


def test_requests_are_all_calls_that_ended_by_class_of_status() -> None:
    samples = read(snapshot(rows=[CALLS]))
    counts = {labels["status"]: value for labels, value in samples["rayserve_requests_total"]}
    # Two of the eight answers had no status: Python calls that returned. Failures are 500, 503 and 499.
    assert counts == {"2xx": 7, "4xx": 2, "5xx": 3}


def test_failures_are_told_by_reason_and_retries_by_endpoint_and_backend() -> None:
    samples = read(snapshot(rows=[CALLS]))
    counts = {labels["reason"]: value for labels, value in samples["rayserve_failures_total"]}
    assert counts == {"user_exception": 2, "queue_full": 1, "cancelled": 1}
    assert value(samples, "rayserve_retries_total", endpoint="classify", backend="v1") == 3


def test_latency_is_a_cumulative_histogram() -> None:
    samples = read(snapshot(rows=[CALLS]))
    names = {"endpoint": "classify", "backend": "v1"}
    buckets = {labels["le"]: value for labels, value in samples["rayserve_request_seconds_bucket"]}
    assert list(buckets) == [*map(str, BUCKETS_S), "+Inf"]
    assert (buckets["0.0005"], buckets["0.001"], buckets["0.0025"], buckets["60.0"], buckets["+Inf"]) == (0, 3, 3, 7, 8)
    assert value(samples, "rayserve_request_seconds_count", **names) == 8
    assert value(samples, "rayserve_request_seconds_sum", **names) == 62.5


def test_in_flight_and_waiting_are_there_for_every_name_also_when_nothing_is() -> None:
    rows = [
        Row(endpoint="", backend="v1", in_flight=4, waiting=9),
        Row(endpoint="classify", backend="", waiting=2, failed={"no_traffic": 1}),
    ]
    samples = read(snapshot(rows=rows))
    assert samples["rayserve_in_flight"] == [({"backend": "v1"}, 4), ({"backend": "v2"}, 0)]
    assert value(samples, "rayserve_waiting", endpoint="", backend="v1") == 9
    assert value(samples, "rayserve_waiting", endpoint="", backend="v2") == 0
    assert value(samples, "rayserve_waiting", endpoint="classify", backend="") == 2
    assert len(samples["rayserve_waiting"]) == 3
    assert value(samples, "rayserve_failures_total", endpoint="classify", backend="", reason="no_traffic") == 1


def test_batches_are_a_histogram_of_sizes_and_counts_of_releases() -> None:
    batch = BatchFacts("v1", "", sizes={1: 2, 3: 1, 5000: 1}, released={"idle": 3, "full": 1})
    samples = read(snapshot(batches=[batch]))
    buckets = {labels["le"]: value for labels, value in samples["rayserve_batch_size_bucket"]}
    assert (buckets["1.0"], buckets["2.0"], buckets["4.0"], buckets["1024.0"], buckets["+Inf"]) == (2, 2, 3, 3, 4)
    assert value(samples, "rayserve_batch_size_sum", backend="v1") == 5005
    assert value(samples, "rayserve_batches_released_total", backend="v1", reason="idle") == 3


def test_replicas_connections_and_what_runs() -> None:
    samples = read(snapshot())
    assert value(samples, "rayserve_replicas", backend="v1", state="ready") == 1
    assert value(samples, "rayserve_replicas", backend="v1", state="missing") == 2
    assert value(samples, "rayserve_replicas", backend="v2", state="missing") == 0
    assert value(samples, "rayserve_connections") == 7
    assert value(samples, "rayserve_info", name="default", version="0.1.0") == 1


def test_names_that_exist_no_longer_have_no_series() -> None:
    rows = [Row("gone", "v1", answered=5), Row("classify", "gone", answered=5), Row("", "gone", in_flight=1)]
    text = exposition(snapshot(rows=rows, batches=[BatchFacts("gone", "", {1: 1}, {"idle": 1})]), "0.1.0")
    assert b"gone" not in text


def test_a_hundred_thousand_words_from_outside_make_no_new_series() -> None:
    words = {f"word-{number}": 1 for number in range(100_000)}
    plain = read(snapshot(rows=[CALLS], batches=[BatchFacts("v1", "", {1: 1}, {"idle": 1})]))
    rows = [msgspec.structs.replace(CALLS, failed=words, statuses=words)]
    rows += [Row(word, "v1", answered=1) for word in words]
    rows += [Row("classify", word, answered=1) for word in words]
    flooded = read(snapshot(rows=rows, batches=[BatchFacts("v1", "", {1: 1}, words)]))
    for name, samples in flooded.items():
        assert len(samples) <= len(plain[name]) + 1, name
    assert value(flooded, "rayserve_failures_total", endpoint="classify", backend="v1", reason="other") == 100_000
    assert value(flooded, "rayserve_batches_released_total", backend="v1", reason="other") == 100_000


def test_the_page_on_operations_lists_exactly_these_metrics_and_labels() -> None:
    batch = BatchFacts("v1", "", {1: 1}, {"idle": 1})
    text = exposition(snapshot(rows=[CALLS], batches=[batch]), "0.1.0").decode()
    found = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[family.name + "_total" * (family.type == "counter")] = labels
    rows = re.findall(r"^\| `(rayserve_\w+)` \| (.*?) \|", OPERATIONS.read_text(), re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == found


@given(st.dictionaries(st.text(), st.integers(0, 2**40), max_size=5), st.text())
def test_any_text_stays_readable_and_any_reason_is_one_of_ours(failed: dict[str, int], name: str) -> None:
    row = Row(endpoint=name, backend="v1", failed=failed)
    samples = read(snapshot(instance=name, endpoints=frozenset({name}), rows=[row]))
    reasons = {labels["reason"] for labels, _ in samples.get("rayserve_failures_total", [])}
    assert reasons <= REASONS.keys() | {"cancelled", "other"}


def test_a_snapshot_is_read_from_plain_data() -> None:
    plain = {
        "instance": "default",
        "epoch": 3,
        "rows": [msgspec.to_builtins(CALLS)],
        "batches": [msgspec.to_builtins(BatchFacts("v1", "", {4: 2}, {"full": 2}), str_keys=True)],
        "connections": 1,
        "replicas": {"v1": [1, 2]},
        "processes": [],
        "doors": {},
    }
    found = Snapshot.of(plain, frozenset({"classify"}))
    assert found.rows == [CALLS]
    assert found.batches[0].sizes == {4: 2}
    assert found.replicas == {"v1": (1, 2)}


def test_refusals_without_an_endpoint_and_answers_that_were_left_are_counted() -> None:
    rows = [
        Row(endpoint="", backend="", failed={"not_found": 3, "bad_request": 2, "invented": 1}),
        Row(endpoint="classify", backend="", failed={"too_large": 1}),
        Row(endpoint="classify", backend="v1", left=4),
    ]
    samples = read(snapshot(rows=rows))
    refused = {
        labels["reason"]: value for labels, value in samples["rayserve_failures_total"] if not labels["endpoint"]
    }
    assert refused == {"not_found": 3, "bad_request": 2, "other": 1}
    assert value(samples, "rayserve_requests_total", endpoint="", backend="", status="4xx") == 5
    assert value(samples, "rayserve_failures_total", endpoint="classify", backend="", reason="too_large") == 1
    assert samples["rayserve_answers_left_total"] == [({"endpoint": "classify", "backend": "v1"}, 4)]
