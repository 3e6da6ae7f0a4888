"""The doorkeeper between the controller and the routers of its node."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.conditions import eventually_on_loop
from tests.wire.doors import base_dir, doorkeeper, get, run, table

from rayserve.feed.subscriber import Subscriber
from rayserve.model.facts import Facts, Report
from rayserve.model.table import RoutingTable


@asynccontextmanager
async def router(
    info: dict[str, Any], process: str, kind: str = "handle"
) -> AsyncIterator[tuple[Subscriber, list[int]]]:
    """A router process's side of the feed, on this loop."""
    versions: list[int] = []

    def on_table(table: RoutingTable) -> None:
        versions.append(table.version)

    one = Subscriber(
        f"{info['run_dir']}/feed.sock",
        process=process,
        kind=kind,
        replica=process if kind == "replica" else "",
        on_welcome=lambda welcome: None,
        on_table=on_table,
        facts=lambda: Facts(process, kind),
    )
    one.start()
    try:
        await eventually_on_loop(lambda: one.connected, f"{process} gets its first table")
        yield one, versions
    finally:
        one.close()


def test_publish_returns_when_every_router_has_the_table() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info), router(info, "driver") as (_, versions):
            assert await keeper.publish(zlib.compress(table(3))) == {"stamp": [1, 3], "late": []}
            assert versions[-1] == 3
            assert (await get(info))["version"] == 3

    run(main)


def test_publish_of_an_old_table_tells_the_present_one() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            await keeper.publish(zlib.compress(table(1, epoch=2)))
            assert await keeper.publish(zlib.compress(table(9, epoch=1))) == {"stamp": [2, 1], "late": []}
            assert (await get(info))["version"] == 1

    run(main)


def test_a_late_ingress_is_replaced_by_one_with_the_new_table() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base, options={"behave": "deaf"}) as (keeper, info):
            deaf = await get(info)
            began = time.monotonic()
            published = await keeper.publish(zlib.compress(table(4)))
            assert 1.0 <= time.monotonic() - began < 5.0
            assert published == {"stamp": [1, 4], "late": [deaf["process"]]}
            fresh = await get(info)
            assert fresh["pid"] != deaf["pid"]
            assert fresh["version"] == 4

    run(main)


def test_a_frozen_ingress_is_replaced_too() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            frozen = await get(info)
            os.kill(frozen["pid"], signal.SIGSTOP)
            assert (await keeper.publish(zlib.compress(table(4))))["late"] == [frozen["process"]]
            assert (await get(info))["version"] == 4

    run(main)


def test_a_late_driver_is_cut_off_and_everybody_else_is_not() -> None:
    async def main() -> None:
        def refuse(table: RoutingTable) -> None:
            raise RuntimeError("not in force")

        async with (
            base_dir() as base,
            doorkeeper(base) as (keeper, info),
            router(info, "slow") as (slow, _),
            router(info, "quick") as (quick, versions),
        ):
            slow.on_table = refuse
            await keeper.publish(zlib.compress(table(2)))
            assert versions[-1] == 2
            await eventually_on_loop(lambda: not slow.connected, "the slow one is cut off")
            assert quick.connected

    run(main)


def test_watch_returns_a_report_at_once() -> None:
    async def main() -> None:
        async with (
            base_dir() as base,
            doorkeeper(base, http_host=None) as (keeper, info),
            router(info, "r1", kind="replica") as (one, _),
        ):
            cursor = (await keeper.watch())["cursor"]
            watching = asyncio.ensure_future(keeper.watch(cursor))
            one.report(Report("r1", 1, "boom"))
            news = await asyncio.wait_for(watching, 5.0)
            assert news["reports"] == [Report("r1", 1, "boom")]
            again = asyncio.ensure_future(keeper.watch(news["cursor"]))
            one.report(Report("r1", 2))
            assert (await asyncio.wait_for(again, 5.0))["reports"] == [Report("r1", 2)]

    run(main)


def test_watch_returns_facts_and_departures_at_most_once_a_second() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base, http_host=None) as (keeper, info):
            async with router(info, "driver-1"):
                first = await keeper.watch()
                assert [facts.process for facts in first["facts"]] == ["driver-1"]
            began = time.monotonic()
            second = await keeper.watch(first["cursor"])
            assert time.monotonic() - began >= 0.9
            assert second["gone"] == ["driver-1"]
            assert second["facts"] == []

    run(main)


def test_watch_comes_back_empty_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayserve.controller.doorkeeper._WATCH_S", 0.05)

    async def main() -> None:
        async with base_dir() as base, doorkeeper(base, http_host=None) as (keeper, _):
            news = await asyncio.wait_for(keeper.watch(), 5.0)
            assert (news["facts"], news["reports"], news["gone"]) == ([], [], [])

    run(main)


def test_facts_of_an_ingress_reach_the_watcher() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            told = await get(info)
            cursor = ""
            for _ in range(5):
                news = await keeper.watch(cursor)
                cursor = news["cursor"]
                if any(facts.process == told["process"] and facts.connections == 1 for facts in news["facts"]):
                    return
            raise AssertionError("the ingress's answer was never counted")

    run(main)
