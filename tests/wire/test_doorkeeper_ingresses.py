"""The doorkeeper's ingresses: up with the door, back after death, gone with it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from tests.conditions import eventually, eventually_on_loop, is_gone
from tests.wire.doors import FAKE_INGRESS, base_dir, doorkeeper, get, open_descriptors, run, settings_for, table

from rayserve.controller.doorkeeper import Doorkeeper
from rayserve.errors import ClusterError, PortInUseError


def test_start_returns_when_the_door_is_open() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            told = await get(info)
            assert told["index"] == 0
            assert told["secret"] == "s3cret"
            assert info["node"] == "0123456789abcdef"
            assert Path(info["run_dir"]) == base / "default-01234567"
            (ingress,) = (await keeper.watch())["ingresses"]
            assert ingress == {"index": 0, "pid": told["pid"], "state": "ready", "restarts": 0}
            log = (Path(info["run_dir"]) / "logs" / "doorkeeper.log").read_text()
            assert f"ingress 0 is ready, process {told['pid']}" in log

    run(main)


def test_start_repeated_changes_nothing() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            before = await get(info)
            again = await asyncio.gather(*(keeper.start(settings_for(base, http_port=1)) for _ in range(3)))
            assert again == [info] * 3
            assert (await get(info))["pid"] == before["pid"]

    run(main)


def test_without_http_there_is_a_feed_and_no_ingress() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base, http_host=None) as (keeper, info):
            assert (info["url_host"], info["http_port"]) == ("", 0)
            assert (Path(info["run_dir"]) / "feed.sock").is_socket()
            assert (await keeper.publish(zlib.compress(table(1))))["stamp"] == [1, 1]

    run(main)


def test_all_ingresses_share_one_port_and_all_answer() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base, options={"num_ingress": 3}) as (_, info):
            seen = set()
            for _ in range(500):
                seen.add((await get(info))["index"])
                if seen == {0, 1, 2}:
                    return
            raise AssertionError(f"only {seen} answered")

    run(main)


def test_the_nodes_own_address_can_be_asked_for() -> None:
    async def main() -> None:
        changes = {"http_host": "node", "node_address": "127.0.0.1"}
        async with base_dir() as base, doorkeeper(base, **changes) as (_, info):
            assert info["url_host"] == "127.0.0.1"
            assert (await get(info))["index"] == 0

    run(main)


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_ipv6_hosts_work() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base, http_host="::1") as (_, info):
            assert info["url_host"] == "[::1]"
            assert (await get(info))["index"] == 0

    run(main)


def test_case_33_a_killed_ingress_is_back_with_the_present_table() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            first = await get(info)
            await keeper.publish(zlib.compress(table(5)))
            os.kill(first["pid"], signal.SIGKILL)
            # Nobody accepts now, but the doorkeeper's socket queues: this client waits and is never refused.
            second = await get(info)
            assert second["pid"] != first["pid"]
            assert second["process"] != first["process"]
            assert second["version"] == 5
            (ingress,) = (await keeper.watch())["ingresses"]
            assert ingress["restarts"] == 1

    run(main)


def test_an_ingress_that_dies_again_and_again_is_started_ever_more_slowly() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            deaths = []
            for _ in range(4):
                with pytest.raises(ConnectionError):
                    await get(info, "/die")
                deaths.append(time.monotonic())
            assert (await get(info))["index"] == 0
            pauses = [later - earlier for earlier, later in itertools.pairwise(deaths)]
            assert pauses[0] >= 0.05
            assert pauses[2] >= 0.2
            (ingress,) = (await keeper.watch())["ingresses"]
            assert ingress["restarts"] == 4

    run(main)


def test_an_ingress_that_cannot_start_is_an_error_with_its_log_and_leaves_nothing() -> None:
    async def main() -> None:
        async with base_dir() as base:
            keeper = Doorkeeper(FAKE_INGRESS)
            descriptors = []
            for _ in range(2):  # the first time uvloop opens one for itself
                with pytest.raises(ClusterError, match=r"(?s)ingress 0 died 3 times, last with 1.*no such luck"):
                    await keeper.start(settings_for(base, options={"behave": "die at start"}))
                assert os.listdir(base / "default-01234567") == ["logs"]
                descriptors.append(open_descriptors())
            assert descriptors[0] == descriptors[1]
            with pytest.raises(ClusterError, match="was not started"):
                await keeper.publish(zlib.compress(table(1)))

    run(main)


def test_an_ingress_that_never_comes_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayserve.controller.ingresses._READY_WITHIN_S", 0.3)

    async def main() -> None:
        async with base_dir() as base:
            with pytest.raises(ClusterError, match=r"ingress 0 (was not ready after 0.3 s|died 3 times)"):
                await Doorkeeper(FAKE_INGRESS).start(settings_for(base, options={"behave": "never ready"}))

    run(main)


def test_case_2_a_taken_port_is_an_error_at_once_and_leaves_nothing() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as theirs:
            port = theirs.getsockname()[1]
            async with base_dir() as base:
                before = open_descriptors()
                began = time.monotonic()
                with pytest.raises(PortInUseError, match=rf"^127\.0\.0\.1:{port} is taken .*http_port=0"):
                    await Doorkeeper(FAKE_INGRESS).start(settings_for(base, http_port=port))
                assert time.monotonic() - began < 1.9  # it would wait 2 s for a predecessor
                assert os.listdir(base / "default-01234567") == ["logs"]
                assert open_descriptors() == before

    run(main)


def test_case_2_two_instances_cannot_share_a_port() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (_, info):
            other = settings_for(base, instance="other", http_port=info["http_port"])
            with pytest.raises(PortInUseError):
                await Doorkeeper(FAKE_INGRESS).start(other)
            assert (await get(info))["index"] == 0

    run(main)


def test_case_13_after_stop_the_processes_are_gone_and_the_port_is_free() -> None:
    async def main() -> None:
        async with base_dir() as base:
            async with doorkeeper(base, options={"num_ingress": 2}) as (keeper, info):
                pids = [ingress["pid"] for ingress in (await keeper.watch())["ingresses"]]
                await keeper.stop(5.0)
                assert all(is_gone(pid) for pid in pids)
                with pytest.raises(ConnectionRefusedError):
                    await get(info)
                run_dir = Path(info["run_dir"])
                assert os.listdir(run_dir) == ["logs"]
                assert "drained" in (run_dir / "logs" / "ingress-0.log").read_text()
                await keeper.stop(5.0)
            async with doorkeeper(base, http_port=info["http_port"]) as (_, again):
                assert again["http_port"] == info["http_port"]
                assert (await get(again))["index"] == 0

    run(main)


def test_an_ingress_that_does_not_drain_is_killed_when_its_time_is_over() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base, options={"behave": "no drain"}) as (keeper, info):
            pid = (await get(info))["pid"]
            began = time.monotonic()
            await keeper.stop(0.2)
            assert 0.2 <= time.monotonic() - began < 5.0
            assert is_gone(pid)

    run(main)


def test_stop_between_two_lives_of_an_ingress_works() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (keeper, info):
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    await get(info, "/die")
            await asyncio.wait_for(keeper.stop(5.0), 10.0)
            with pytest.raises(ConnectionRefusedError):
                await get(info)

    run(main)


def test_what_an_ingress_prints_is_in_its_log() -> None:
    async def main() -> None:
        async with base_dir() as base, doorkeeper(base) as (_, info):
            await get(info, "/log")
            log = Path(info["run_dir"]) / "logs" / "ingress-0.log"
            await eventually_on_loop(lambda: "to stdout" in log.read_text(), "stdout is there")
            await eventually_on_loop(lambda: "to stderr" in log.read_text(), "stderr is there")

    run(main)


_DOORKEEPER_PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.wire.doors import doorkeeper, get
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.setpriority(os.PRIO_PROCESS, 0, 15)
async def main():
    async with doorkeeper(Path(sys.argv[1]), http_port=int(sys.argv[2])) as (keeper, info):
        told = await get(info)
        print(told["pid"], info["http_port"], told["nice"], told["blocked"], sep=";", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def start_doorkeeper_process(base: Path, port: int = 0) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _DOORKEEPER_PROCESS, str(base), str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip().split(";")


def test_ingresses_die_with_a_killed_doorkeeper_and_the_next_one_takes_the_port_over() -> None:
    async def main() -> None:
        async with base_dir() as base:
            first, told = start_doorkeeper_process(base)
            with first:
                first.kill()
            second, told_again = start_doorkeeper_process(base, port=int(told[1]))
            with second:
                assert told_again[1] == told[1]
                eventually(lambda: is_gone(int(told[0])), "the first doorkeeper's ingress is gone")
                second.kill()
            eventually(lambda: is_gone(int(told_again[0])), "the second doorkeeper's ingress is gone")

    run(main)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may lower a nice value")
def test_an_ingress_takes_normal_priority_and_signals_back() -> None:
    async def main() -> None:
        async with base_dir() as base:
            process, told = start_doorkeeper_process(base)
            with process:
                process.kill()
            assert told[2:] == ["0", "[]"]

    run(main)
