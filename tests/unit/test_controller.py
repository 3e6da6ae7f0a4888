"""The whole control plane over a fake world: replicas come, go, fail, are drained, replaced and found again."""

from __future__ import annotations

import asyncio
import logging
import re

import msgspec
import pytest
from tests.unit.fake_world import (
    HTTP,
    World,
    begun,
    create_backend,
    create_endpoint,
    do,
    reborn,
    run,
    set_traffic,
    started,
    update_backend,
)

from rayserve.controller.commands import DeleteBackend
from rayserve.controller.outcome import Outcome
from rayserve.errors import PortInUseError
from rayserve.model.facts import Facts, Row


def test_case_6_create_backend_returns_when_all_replicas_are_ready_and_routed() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo", num_replicas=3))
        assert len(world.replicas("echo")) == 3
        (row,) = world.table().backends
        assert [one.id for one in row.replicas] == [one.spec.replica for one in world.replicas()]
        assert all(one.runs == 1 for one in world.replicas())
        assert re.fullmatch(r"echo#[0-9a-f]{6}", row.replicas[0].id)

    run(story())


def test_case_7_a_constructor_that_raises_leaves_nothing() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        outcome = await controller.command(create_backend("bad", "raise", init=b"arguments", num_replicas=2))
        assert outcome.error == "BackendStartError"
        assert outcome.text == 'backend "bad" could not start:\nTraceback: boom'
        assert not world.replicas() and not world.blobs()
        assert controller.backends() == {} and not world.table().backends
        await do(controller, create_backend("bad", "ok"))

    run(story())


def test_case_7_a_process_that_exits_while_loading_leaves_nothing() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        outcome = await controller.command(create_backend("bad", "exit"))
        assert outcome.error == "BackendStartError"
        assert "is gone" in outcome.text
        assert not world.replicas()

    run(story())


def test_case_7_too_slow_a_start_is_undone() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        outcome = await controller.command(create_backend("slow", "hold", startup_timeout_s=5.0))
        assert outcome.error == "StartupTimeoutError"
        assert "0 of 1 replicas were ready after startup_timeout_s=5" in outcome.text
        assert not world.replicas() and controller.backends() == {}

    run(story())


def test_case_7_cancelling_a_create_leaves_nothing() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        command = create_backend("slow", "hold", init=b"arguments")
        waiting = asyncio.create_task(controller.command(command))
        while not world.replicas():
            await asyncio.sleep(0.01)
        await controller.cancel(command.id)
        assert not world.replicas() and not world.blobs() and controller.backends() == {}
        assert (await waiting).error == "CallCancelledError"
        # A command whose cancel overtook it does nothing either.
        late = create_backend("late")
        await controller.cancel(late.id)
        assert (await controller.command(late)).error == "CallCancelledError"
        assert not world.replicas()

    run(story())


def test_case_7_cannot_scale_says_what_is_missing_and_how_many_fit() -> None:
    async def story() -> None:
        world = World(nodes=2, CPU=4.0, GPU=1.0)
        controller = await started(world)
        outcome = await controller.command(create_backend("big", options={"num_gpus": 1}, num_replicas=3))
        assert outcome == Outcome(
            "CannotScaleError",
            'Cannot scale backend "big" to 3 replicas: each needs GPU 1 on one node; 2 of 3 fit, '
            "then the most left on any of 2 nodes is GPU 0; free some, add a node, or ask for less",
        )
        assert not world.replicas()
        await do(controller, create_backend("big", options={"num_gpus": 1}, num_replicas=2))
        assert {one.node for one in world.replicas()} == {"node0", "node1"}
        outcome = await controller.command(update_backend("big", num_replicas=3))
        assert outcome.error == "CannotScaleError"
        assert controller.backend_config("big")[0]["num_replicas"] == 2

    run(story())


def test_case_8_max_batch_size_without_accept_batch_is_refused_after_loading() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        outcome = await controller.command(create_backend("plain", max_batch_size=10))
        assert outcome.error == "InvalidValueError" and "accept_batch" in outcome.text
        assert not world.replicas()
        await do(controller, create_backend("batched", "batch", max_batch_size=10))
        assert world.table().backends[0].batch.max_size == 10

    run(story())


def test_case_10_num_replicas_goes_up_and_down_youngest_first() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo"))
        await do(controller, update_backend("echo", num_replicas=3))
        ids = [one.spec.replica for one in world.replicas()]
        assert len(ids) == 3
        await do(controller, update_backend("echo", num_replicas=1))
        table = world.table()
        assert [one.id for one in table.backends[0].replicas] == ids[:1]
        while len(world.replicas()) > 1:
            await asyncio.sleep(0.01)
        assert [one.spec.replica for one in world.replicas()] == ids[:1]

    run(story())


def test_case_10_batch_settings_keep_the_replicas() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("batched", "batch", max_batch_size=2))
        before, revision = world.replicas(), world.table().backends[0].revision
        await do(controller, update_backend("batched", max_batch_size=7))
        assert world.replicas() == before
        assert world.table().backends[0].batch.max_size == 7
        assert world.table().backends[0].revision > revision

    run(story())


def test_case_10_another_number_of_threads_replaces_the_replicas() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("m", num_replicas=2))
        before = {one.spec.replica for one in world.replicas()}
        await do(controller, update_backend("m", max_concurrency=3))
        serving = {one.id for one in world.table().backends[0].replicas}
        assert len(serving) == 2 and not serving & before
        fresh = [one for one in world.replicas() if one.spec.replica in serving]
        assert [one.spec.backend.max_concurrency for one in fresh] == [3, 3]
        with_backend = [table.backends[0].replicas for table in world.door().tables if table.backends]
        assert min(map(len, with_backend)) == 2, "those before served until these did"

    run(story())


def test_case_11_status_says_that_the_replicas_before_still_serve() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        world.gate.set()
        await do(controller, create_backend("m", "hold"))
        world.gate.clear()
        update = asyncio.ensure_future(do(controller, update_backend("m", max_concurrency=2)))
        while len(world.replicas()) < 2:
            await asyncio.sleep(0.01)
        assert controller.status()["backends"]["m"] == (
            "0 of 1 replica ready, 1 starts, 1 with the settings before serves until then, being updated"
        )
        world.gate.set()
        await update
        assert controller.status()["backends"]["m"].startswith("1 of 1 replica ready")

    run(story())


def test_case_10_replicas_that_cannot_be_replaced_stay() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("m", "single", num_replicas=2))
        before = {one.spec.replica for one in world.replicas()}
        outcome = await controller.command(update_backend("m", max_concurrency=3))
        assert outcome.error == "BackendStartError" and "Traceback: boom" in outcome.text
        while len(world.replicas()) > 2:
            await asyncio.sleep(0.01)
        assert {one.spec.replica for one in world.replicas()} == before
        assert controller.backend_config("m")[0]["max_concurrency"] == 1
        assert all(len(table.backends[0].replicas) == 2 for table in world.door().tables if table.backends)

    run(story())


def test_case_10_user_config_reaches_all_or_is_restored_everywhere() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("m", "picky", user_config=b"one", num_replicas=2))
        await do(controller, update_backend("m", user_config=b"two"))
        assert {world.blob(one.applied[1]) for one in world.replicas()} == {b"two"}
        outcome = await controller.command(update_backend("m", user_config=b"bad", num_replicas=3))
        assert outcome.error == "ReconfigureError" and "Traceback: bad config" in outcome.text
        assert {world.blob(one.applied[1]) for one in world.replicas()} == {b"two"}
        assert controller.backend_config("m")[0]["num_replicas"] == 2
        assert {world.store[f"default/blob/{name}"] for name in world.blobs()} == {b"two"}
        # A later replica gets it too.
        await do(controller, update_backend("m", num_replicas=3))
        assert [world.blob(one.applied[1]) for one in world.replicas("m")][-1] == b"two"

    run(story())


def test_case_10_a_bad_first_user_config_replaces_the_replicas_that_took_it() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("m", "picky"))
        (before,) = world.replicas()
        outcome = await controller.command(update_backend("m", user_config=b"bad"))
        assert outcome.error == "ReconfigureError"
        while [one.id for one in world.table().backends[0].replicas] in ([], [before.spec.replica]):
            await asyncio.sleep(0.01)
        (after,) = world.replicas()
        assert after.applied[1] == ""

    run(story())


def test_case_12_delete_backend_frees_the_tag_at_once_while_the_old_replica_drains() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("m", "stubborn", drain_timeout_s=20.0))
        (old,) = world.replicas()
        await do(controller, DeleteBackend("delete", "m"))
        assert controller.backends() == {}
        assert world.table().draining == (old.spec.replica,)
        await do(controller, create_backend("m"))
        assert old in world.replicas()
        assert [one.id for one in world.table().backends[0].replicas] != [old.spec.replica]
        begin = asyncio.get_running_loop().time()
        while old in world.replicas():
            await asyncio.sleep(0.1)
        assert 19.0 < asyncio.get_running_loop().time() - begin < 21.0
        assert world.table().draining == ()

    run(story())


def test_case_2_a_taken_port_is_an_error_and_leaves_nothing() -> None:
    async def story() -> None:
        world = World()
        world.taken_ports.add(8000)
        controller = await begun(world)
        try:
            await controller.begin({**HTTP, "http_port": 8000}, "node0")
        except PortInUseError as error:
            assert "127.0.0.1:8000" in str(error)
        else:
            raise AssertionError("the port was taken")
        assert controller.is_idle and not world.processes and not world.store

    run(story())


def test_case_33_a_dead_replica_is_replaced_at_once_under_a_new_name() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo", num_replicas=2))
        dead, other = world.replicas()
        dead.die()
        begin = asyncio.get_running_loop().time()
        while len(world.table().backends[0].replicas) < 2 or dead.spec.replica in str(world.table().backends):
            await asyncio.sleep(0.001)
        assert asyncio.get_running_loop().time() - begin < 0.2
        assert other in world.replicas()

    run(story())


def test_a_crash_loop_is_held_back_up_to_thirty_seconds() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo"))
        loop = asyncio.get_running_loop()
        births = []
        for _ in range(8):
            world.replicas()[0].die()
            died = loop.time()
            while not world.replicas() or not world.table().backends[0].replicas:
                await asyncio.sleep(0.05)
            births.append(loop.time() - died)
            await asyncio.sleep(1.0)
        assert births[0] < 0.5
        assert [round(wait) for wait in births[1:]] == [1, 2, 4, 8, 16, 30, 30]
        assert "1 of 1 replica ready" in controller.status()["backends"]["echo"]

    run(story())


def test_a_dead_doorkeeper_is_replaced_and_gets_the_table() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo"))
        url = controller.info("node0")["url"]
        world.door().die()
        await do(controller, create_endpoint("e", "/e", backend="echo"))  # waits for the new one
        assert [one.name for one in world.table().endpoints] == ["e"]
        assert controller.info("node0")["url"] == url
        assert len(world.replicas()) == 1

    run(story())


def test_case_2_an_instance_begins_again_while_the_one_before_shuts_down() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("old", "stubborn", drain_timeout_s=5.0))
        ending = asyncio.create_task(controller.shutdown())
        await asyncio.sleep(1.0)
        assert await controller.command(create_backend("late")) == Outcome(
            "NotRunningError", 'instance "default" is shutting down'
        )
        await controller.begin(HTTP, "node0")
        assert ending.done() and not controller.is_idle and controller.backends() == {}
        await do(controller, create_backend("new"))

    run(story())


def test_a_node_whose_port_is_taken_gets_no_replicas_and_holds_nobody_up() -> None:
    async def story() -> None:
        world = World(nodes=2)
        world.taken_ports.add(30001)
        controller = await started(world)
        await do(controller, create_backend("echo", num_replicas=2))
        assert {one.node for one in world.replicas()} == {"node0"}
        assert controller.status()["nodes"]["node1"] == "failed: 127.0.0.1:30001 is taken"
        world.taken_ports.clear()
        while controller.status()["nodes"]["node1"] != "open at 127.0.0.1:30001":
            await asyncio.sleep(0.1)

    run(story())


def test_case_34_nodes_come_and_go() -> None:
    async def story() -> None:
        world = World(nodes=2)
        controller = await started(world)
        await do(controller, create_backend("echo", num_replicas=2))
        assert {one.node for one in world.replicas()} == {"node0", "node1"}
        gone = world.machines.pop()
        for process in list(world.processes.values()):
            if process.node == gone.id:
                process.die()
        while len(world.table().backends[0].replicas) < 2:
            await asyncio.sleep(0.1)
        assert {one.node for one in world.replicas()} == {"node0"}
        world.machines.append(gone)
        while "node1" not in {getattr(one, "node", "") for one in world.processes.values()}:
            await asyncio.sleep(0.1)

    run(story())


def test_case_32_a_new_life_adopts_the_living_and_replaces_the_dead() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo", num_replicas=2))
        await do(controller, create_endpoint("e", "/e", backend="echo"))
        stays, dies = world.replicas()
        world.crash()
        dies.die()
        seen = len(world.door().tables)
        controller = await reborn(world)
        await do(controller, create_endpoint("f", "/f"))
        tables = world.door().tables[seen:]
        assert all(stays.spec.replica in str(table.backends) for table in tables)  # never out of the traffic
        assert tables[0].epoch == 2
        while len(world.table().backends[0].replicas) < 2:
            await asyncio.sleep(0.01)
        assert stays.runs == 2 and stays in world.replicas()
        stays.die()  # still noticed
        while stays.spec.replica in str(world.table().backends) or len(world.table().backends[0].replicas) < 2:
            await asyncio.sleep(0.01)

    run(story())


def test_case_32_a_replica_without_a_record_is_ended_by_the_next_life() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo"))
        (known,) = world.replicas()
        spec = known.spec
        await world.spawn("replica", "rayserve:default:replica:ghost#1", "node0", {}, msgspec.msgpack.encode(spec))
        await reborn(world)
        assert world.replicas() == [known]

    run(story())


def test_case_13_shutdown_drains_callers_first_and_leaves_nothing() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("callee", init=b"arguments"))
        await do(controller, create_backend("caller"))
        caller = world.replicas("caller")[0].spec.replica
        world.door().tell(Facts(f"{caller}:1", "replica", [Row("e", "callee", assigned=1)]))
        await asyncio.sleep(0.1)
        door = world.door()
        await controller.shutdown()
        kills = [line for line in world.log if line.startswith("kill") and "replica" in line]
        assert ["caller" in line for line in kills] == [True, False]
        closing = [table for table in door.tables if table.closing]
        assert closing and not closing[0].draining  # told before anything drains
        assert controller.is_idle and not world.processes and not world.store

    run(story())


def test_case_13_shutdown_goes_on_after_a_crash() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("m", "stubborn", drain_timeout_s=5.0))
        ending = asyncio.create_task(controller.shutdown())
        while not world.table().draining:
            await asyncio.sleep(0.01)
        controller = await reborn(world)
        ending.cancel()
        await controller.shutdown()
        assert controller.is_idle and not world.processes and not world.store

    run(story())


def test_commands_on_different_names_run_side_by_side_and_on_one_name_in_turn() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        slow = asyncio.create_task(controller.command(create_backend("slow", "hold")))
        while not world.replicas():
            await asyncio.sleep(0.01)
        delete = asyncio.create_task(controller.command(DeleteBackend("delete-slow", "slow")))
        await do(controller, create_backend("quick"))
        assert not slow.done() and not delete.done()
        world.gate.set()
        assert await slow == Outcome() and await delete == Outcome()
        assert list(controller.backends()) == ["quick"]

    run(story())


def test_case_21_set_traffic_returns_after_every_node_acknowledged() -> None:
    async def story() -> None:
        world = World(nodes=2)
        controller = await started(world)
        await do(controller, create_backend("a"))
        await do(controller, create_endpoint("e", "/e"))
        world.publishing.clear()
        changing = asyncio.create_task(controller.command(set_traffic("e", a=1.0)))
        await asyncio.sleep(0.5)
        assert not changing.done()
        world.publishing.set()
        assert await changing == Outcome()
        for node in (0, 1):
            traffic = world.table(node).endpoints[0].traffic
            assert traffic is not None and traffic.weights == {"a": 1.0}

    run(story())


def test_the_log_has_each_command_and_the_replicas_that_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("echo"))
        await controller.command(create_backend("bad", "raise"))
        await do(controller, DeleteBackend("c", "echo"))
        while world.replicas():
            await asyncio.sleep(0.01)

    with caplog.at_level(logging.INFO, "rayserve"):
        run(story())
    told = [record.getMessage() for record in caplog.records]
    assert "CreateBackend, backend echo: done" in told
    assert any(line.startswith("CreateBackend, backend bad: BackendStartError: ") for line in told)
    assert "DeleteBackend, backend echo: done" in told
    for news in (" starts on node ", " is ready, process ", " has left "):
        assert any(line.startswith("replica echo#") and news in line for line in told), (news, told)


def test_case_11_status_says_in_words_what_runs_starts_and_waits() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("a", num_replicas=2))
        await do(controller, create_endpoint("idle", "/idle"))
        await do(controller, create_endpoint("busy", "/busy", backend="a"))
        creating = asyncio.create_task(controller.command(create_backend("slow", "hold")))
        while len(world.replicas()) < 3:
            await asyncio.sleep(0.01)
        assert not creating.done()
        assert controller.status() == {
            "instance": "default",
            "endpoints": {
                "busy": 'GET /busy: 1 to "a"',
                "idle": 'GET /idle: no traffic yet, requests wait; call set_traffic("idle", …)',
            },
            "backends": {"a": "2 of 2 replicas ready", "slow": "0 of 1 replica ready, 1 starts, being created"},
            "nodes": {"node0": "open at 127.0.0.1:30000"},
        }
        assert controller.progress("slow") == (0, 1)
        assert controller.metrics_snapshot()["replicas"] == {"a": [2, 2], "slow": [0, 1]}

    run(story())
