"""The admin server of a real instance: found by its two files, fed by real requests, back after a crash."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from tests.conditions import WITHIN_S, eventually

import rayserve as serve
from rayserve.actor_names import controller_name
from rayserve.cluster import actors
from rayserve.cluster.connect import Connection
from rayserve.errors import PortInUseError
from rayserve.instance import Instance, current


def answers(request: Any) -> str:
    if "fail" in request.args:
        raise ValueError("as asked")
    return "ok"


@pytest.fixture(scope="module")
def served(ray_here: Connection) -> Iterator[Instance]:
    yield serve.init("admin", http_port=0)
    serve.shutdown()


def run_dir() -> Path:
    return Path(current().info()["run_dir"])


def read(path: str, url: str | None = None) -> httpx.Response:
    token = (run_dir() / "admin.token").read_text().strip()
    base = url or (run_dir() / "admin.url").read_text().strip()
    return httpx.get(f"{base}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=WITHIN_S)


def samples() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(read("/metrics").text)
        for sample in family.samples
    }


def sample(name: str, **labels: str) -> float | None:
    return samples().get((name, frozenset(labels.items())))


def test_it_listens_on_loopback_with_a_token_only_the_owner_reads(served: Instance) -> None:
    assert served.admin_url is not None
    assert served.admin_url.startswith("http://127.0.0.1:")
    assert (run_dir() / "admin.url").read_text().strip() == served.admin_url
    assert (run_dir() / "admin.token").stat().st_mode & 0o777 == 0o600
    assert httpx.get(f"{served.admin_url}/metrics", timeout=WITHIN_S).status_code == 401


def test_status_is_what_serve_status_says(served: Instance) -> None:
    answer = read("/status")
    assert answer.json() == serve.status()
    assert answer.json()["admin"] == f"open at {served.admin_url}, its token is in {run_dir()}/admin.token"
    assert "RayServe admin" in read("/").text


def test_requests_become_metrics_within_seconds(served: Instance) -> None:
    serve.create_backend("m", answers)
    serve.create_endpoint("m", "/m", backend="m")
    for query in ("", "", "?fail"):
        httpx.get(f"{served.url}/m{query}", timeout=WITHIN_S)
    for number in range(50):
        httpx.get(f"{served.url}/random-{number}", timeout=WITHIN_S)
    names = {"endpoint": "m", "backend": "m"}
    eventually(lambda: sample("rayserve_requests_total", **names, status="2xx") == 2, "two answers are counted")
    assert sample("rayserve_requests_total", **names, status="5xx") == 1
    assert sample("rayserve_failures_total", **names, reason="user_exception") == 1
    assert sample("rayserve_request_seconds_count", **names) == 2
    assert sample("rayserve_in_flight", backend="m") == 0
    assert sample("rayserve_replicas", backend="m", state="ready") == 1
    assert "random" not in read("/metrics").text
    serve.delete_endpoint("m")
    serve.delete_backend("m")
    assert 'backend="m"' not in read("/metrics").text


def test_case_32_a_restarted_controller_answers_at_the_same_place_with_the_same_token(served: Instance) -> None:
    before = read("/status").json()
    token = (run_dir() / "admin.token").read_text()
    actor = actors.find(controller_name("admin"))
    assert actor is not None
    ray.kill(actor.handle, no_restart=False)

    def is_back() -> bool:
        try:
            return read("/status", served.admin_url).status_code == 200
        except httpx.TransportError:
            return False

    eventually(is_back, "the admin server is back", within_s=30.0)
    assert (run_dir() / "admin.token").read_text() == token
    assert read("/status").json()["admin"] == before["admin"]


def test_case_2_a_taken_admin_port_is_an_error_that_names_it_and_leaves_nothing(ray_here: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port} is taken.*admin_port"):
            serve.init("admin-taken", http_port=0, http_options={"admin_port": port})
    assert actors.find(controller_name("admin-taken")) is None
