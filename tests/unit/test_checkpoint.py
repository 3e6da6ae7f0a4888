"""What survives: a controller that dies after any write to the store loses nothing and does nothing twice."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.unit.fake_world import (
    World,
    create_backend,
    create_endpoint,
    do,
    reborn,
    run,
    set_traffic,
    started,
    update_backend,
)

from rayserve.cluster.errors import CallTimeout
from rayserve.controller.bell import Bell
from rayserve.controller.checkpoint import MAX_BLOB_BYTES, Checkpoint, Ledger, check_blob, hash_of
from rayserve.controller.commands import Command, DeleteBackend, DeleteEndpoint
from rayserve.controller.controller import Controller
from rayserve.controller.outcome import Outcome
from rayserve.controller.state import Desired, EndpointRecord, blobs_of, put_endpoint
from rayserve.errors import ClusterError, InvalidValueError
from rayserve.model.table import RoutingTable

# One of each command, with a failure of each kind among them: the error's class, "" for none.
SCRIPT: list[tuple[Command, str]] = [
    (create_backend("v1", "picky", user_config=b"one", init=b"weights", num_replicas=2), ""),
    (create_endpoint("classify", "/classify", backend="v1"), ""),
    (create_backend("broken", "raise", init=b"lost"), "BackendStartError"),
    (create_backend("v2", init=b"weights", num_replicas=1), ""),
    (set_traffic("classify", v1=0.5, v2=0.5), ""),
    (update_backend("v1", user_config=b"bad"), "ReconfigureError"),
    (update_backend("v1", user_config=b"two", num_replicas=1), ""),
    (DeleteBackend("delete-used", "v2"), "InvalidValueError"),
    (set_traffic("classify", v1=1.0), ""),
    (DeleteBackend("delete-unused", "v2"), ""),
    (create_endpoint("gone", "/gone"), ""),
    (DeleteEndpoint("delete-endpoint", "gone"), ""),
]


async def persistent(world: World, controller: Controller, command: Command) -> tuple[Controller, Outcome]:
    """Send a command as a caller does: again with the same id when the controller died meanwhile."""
    while True:
        call = asyncio.ensure_future(controller.command(command))
        crash = asyncio.ensure_future(world.crashed.wait())
        await asyncio.wait([call, crash], return_when=asyncio.FIRST_COMPLETED)
        crash.cancel()
        if call.done() and not world.crashed.is_set():
            return controller, call.result()
        controller = await reborn(world)


async def play(world: World, crash_every: int | None = None) -> None:
    """Run the script, with crashes after the `crash_every`-th write of each life, and wait until all is quiet."""
    controller = await started(world)
    if crash_every:
        world.crash_after = world.puts + crash_every
    for command, error in SCRIPT:
        controller, outcome = await persistent(world, controller, command)
        assert outcome.error == error, (crash_every, command, outcome)
    while any(record.drain_s is not None for record in saved(world).replicas.values()) or world.crashed.is_set():
        if world.crashed.is_set():
            controller = await reborn(world)
        await asyncio.sleep(0.1)


def saved(world: World) -> Desired:
    return msgspec.msgpack.decode(world.store["default/state"], type=Desired)


def seen(world: World) -> dict[str, Any]:
    """Return what clients and users could tell apart, without ids and revisions."""
    table: RoutingTable = world.table()
    state = saved(world)
    return {
        "endpoints": [(one.name, one.route, one.traffic) for one in table.endpoints],
        "backends": [(one.tag, len(one.replicas)) for one in table.backends],
        "configs": {tag: one.config for tag, one in state.backends.items()},
        "running": sorted(one.spec.backend.tag for one in world.replicas()),
        "applied": [world.blob(one.applied[1]) for one in world.replicas("v1")],
        "blobs": sorted(world.store[f"default/blob/{name}"] for name in world.blobs()),
        "unfinished": [tag for tag, one in state.backends.items() if one.pending or one.prior],
    }


def test_case_32_a_crash_after_any_write_changes_nothing_that_can_be_seen() -> None:
    async def story(crash_after: int | None) -> tuple[dict[str, Any], int, int]:
        world = World()
        await play(world, crash_after)
        return seen(world), world.puts, world.crashes

    expected, writes, crashes = run(story(None))
    assert expected["running"] == ["v1"] and expected["applied"] == [b"two"]
    assert expected["blobs"] == [b"two", b"weights"] and not expected["unfinished"]
    assert writes > 30 and not crashes
    for crash_after in range(1, writes):
        found, _, crashes = run(story(crash_after))
        assert found == expected, crash_after
        assert crashes == 1 or crash_after == writes - 1


def test_case_32_crash_upon_crash_changes_nothing_that_can_be_seen() -> None:
    async def story(crash_every: int) -> tuple[dict[str, Any], int]:
        world = World()
        world.crash_always = crash_every
        await play(world, crash_every)
        return seen(world), world.crashes

    expected, _ = run(story(10_000))
    for crash_every in (3, 4, 5, 7, 11):
        found, crashes = run(story(crash_every))
        assert found == expected and crashes >= 3, crash_every


def test_a_command_that_arrives_twice_is_carried_out_once() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        command = create_backend("echo")
        both = await asyncio.gather(controller.command(command), controller.command(command))
        assert set(both) == {Outcome()}
        controller = await reborn(world)
        assert await controller.command(command) == Outcome()
        assert len(world.replicas()) == 1
        # Another caller's command of the same content is another command.
        assert (await controller.command(create_backend("echo"))).error == "InvalidValueError"

    run(story())


def test_a_store_that_does_not_answer_fails_the_command_and_changes_nothing() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        working, world.put = world.put, _silent  # type: ignore[method-assign]
        outcome = await controller.command(create_endpoint("e", "/e"))
        assert outcome == Outcome("ClusterError", "the store did not answer")
        assert controller.endpoints() == {}
        world.put = working  # type: ignore[method-assign]
        await do(controller, create_endpoint("e", "/e"))

    run(story())


async def _silent(key: str, value: bytes, *, overwrite: bool = True) -> None:
    raise CallTimeout("the store did not answer")


def test_a_cancelled_commit_leaves_no_state_saved_that_is_not_in_force() -> None:
    async def story() -> None:
        world = World()
        ledger = Ledger(Checkpoint(world.shell(), "default"), Desired("default"), Bell())
        endpoint = EndpointRecord("e", "/e", None, {})
        commit = asyncio.ensure_future(ledger.commit(lambda state: put_endpoint(state, endpoint)))
        await asyncio.sleep(0)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        assert saved(world) == ledger.state and "e" in ledger.state.endpoints

    run(story())


def test_a_change_that_raises_or_changes_nothing_writes_nothing() -> None:
    async def story() -> None:
        world = World()
        ledger = Ledger(Checkpoint(world.shell(), "default"), Desired("default"), Bell())
        await ledger.commit(lambda state: state)
        with pytest.raises(ZeroDivisionError):
            await ledger.commit(lambda state: msgspec.structs.replace(state, serial=1 // 0))
        assert not world.store

    run(story())


def test_blobs_are_written_once_and_deleted_with_the_last_that_names_them() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("a", init=b"weights"))
        before = world.puts
        await do(controller, create_backend("b", init=b"weights"))
        assert [world.store[f"default/blob/{name}"] for name in world.blobs()] == [b"weights"]
        assert world.puts - before == 4  # pending, its replica, that one ready, kept: the blob is there
        await do(controller, DeleteBackend("delete-a", "a"))
        assert world.blobs() == {hash_of(b"weights")} == blobs_of(saved(world))
        await do(controller, DeleteBackend("delete-b", "b"))
        assert world.blobs() == set()

    run(story())


def test_orphaned_blobs_are_collected_at_the_next_start() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        await do(controller, create_backend("a", init=b"weights"))
        world.store["default/blob/0000"] = b"written, then the controller died"
        await reborn(world)
        assert world.blobs() == {hash_of(b"weights")}

    run(story())


def test_a_blob_over_the_limit_is_refused_with_the_way_out() -> None:
    assert check_blob(bytes(10), "the init arguments") == bytes(10)
    with pytest.raises(InvalidValueError, match=r"more than 64 MiB; .* load it in the constructor"):
        check_blob(bytes(MAX_BLOB_BYTES + 1), 'the init arguments of backend "a"')


def test_unforeseen_errors_travel_as_cluster_errors() -> None:
    async def story() -> None:
        world = World()
        controller = await started(world)
        world.put = _broken  # type: ignore[method-assign]
        outcome = await controller.command(create_endpoint("e", "/e"))
        assert outcome.error == "ClusterError" and "ZeroDivisionError" in outcome.text
        with pytest.raises(ClusterError):
            outcome.check()

    run(story())


async def _broken(key: str, value: bytes, *, overwrite: bool = True) -> None:
    raise ZeroDivisionError
