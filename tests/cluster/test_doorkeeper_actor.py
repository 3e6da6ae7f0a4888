"""The doorkeeper as an actor: the same as on a plain loop, and its children never outlive it."""

from __future__ import annotations

import asyncio
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conditions import eventually, is_gone
from tests.wire.doors import FAKE_INGRESS, get, settings_for, table

from rayserve.cluster import actors
from rayserve.cluster.actors import Actor
from rayserve.cluster.connect import Connection
from rayserve.controller.doorkeeper import Doorkeeper
from rayserve.errors import PortInUseError


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def open_door(ray_here: Connection, base: Path, name: str, **changes: Any) -> tuple[Actor, dict[str, Any]]:
    actor = actors.spawn(Doorkeeper, FAKE_INGRESS, name=f"test:{name}", node=ray_here.node_id, title="rayserve::door")
    settings = settings_for(base, node=ray_here.node_id, **changes)
    try:
        return actor, actors.call(actor, "start", settings, timeout_s=30.0)
    except BaseException:
        actors.kill(actor)
        raise


def test_an_actor_opens_publishes_and_closes(ray_here: Connection, base: Path) -> None:
    actor, info = open_door(ray_here, base, "whole-life")
    told = asyncio.run(get(info))
    assert (told["nice"], told["blocked"]) == (0, [])
    assert actors.call(actor, "publish", zlib.compress(table(2)), timeout_s=10.0) == {"stamp": [1, 2], "late": []}
    assert asyncio.run(get(info))["version"] == 2
    assert actors.call(actor, "watch", "", timeout_s=10.0)["ingresses"][0]["pid"] == told["pid"]
    actors.call(actor, "stop", 5.0, timeout_s=20.0)
    actors.kill(actor)
    assert is_gone(told["pid"])


def test_a_killed_doorkeeper_takes_its_ingress_along_and_its_successor_takes_the_port(
    ray_here: Connection, base: Path
) -> None:
    actor, info = open_door(ray_here, base, "killed")
    pid = asyncio.run(get(info))["pid"]
    actors.kill(actor)
    eventually(lambda: is_gone(pid), "the ingress is gone")
    successor, again = open_door(ray_here, base, "successor", http_port=info["http_port"])
    assert again["http_port"] == info["http_port"]
    assert asyncio.run(get(again))["pid"] != pid
    actors.call(successor, "stop", 5.0, timeout_s=20.0)
    actors.kill(successor)


def test_case_2_a_taken_port_is_told_through_ray(ray_here: Connection, base: Path) -> None:
    actor, info = open_door(ray_here, base, "first")
    with pytest.raises(PortInUseError, match=f"127.0.0.1:{info['http_port']} is taken"):
        open_door(ray_here, base, "second", instance="other", http_port=info["http_port"])
    actors.call(actor, "stop", 5.0, timeout_s=20.0)
    actors.kill(actor)
