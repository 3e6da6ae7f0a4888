"""Replicas in processes of their own, for a `Mini`: what can be killed, and what has a main thread to itself.

They are forked from a server process that has all modules loaded, so that each costs milliseconds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from tests.wire.mini import INSTANCE, NODE, Mini

from rayserve.config import backend_row, parse_backend_config
from rayserve.io_thread import IOThread
from rayserve.model.spec import CodeSpec, ReplicaSpec
from rayserve.model.table import Backend, Replica
from rayserve.replica.handler import Handler
from rayserve.replica.replica import Replica as RunningReplica

_FORKS = multiprocessing.get_context("forkserver")


class ReplicaProcess:
    """One replica in a process."""

    def __init__(self, folder: str, row: Backend, target: str, number: int) -> None:
        self.id = f"{row.tag}#p{number}"
        self._near, far = _FORKS.Pipe()
        spec = ReplicaSpec(INSTANCE, self.id, NODE, folder, row, CodeSpec())
        self._process = _FORKS.Process(target=serve, args=(spec, target, far), daemon=True)
        self._process.start()
        far.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def ready(self) -> Replica:
        """Wait until it listens."""
        assert self._near.poll(20), "the replica process does not start"
        return Replica(self.id, NODE, self._near.recv())

    def reason(self) -> Any:
        """Wait for `run` to return, and return what it said."""
        assert self._near.poll(20), "the replica does not leave"
        return self._near.recv()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.join(10)

    def end(self) -> None:
        self._process.kill()
        self._process.join(10)
        self._near.close()


def start(
    mini: Mini, tag: str, target: str, count: int, config: Mapping[str, Any] | None = None
) -> list[ReplicaProcess]:
    """Start replicas of `module:name` and list them under `tag`, not yet published."""
    _FORKS.set_forkserver_preload([__name__])
    parsed, traits = parse_backend_config(dict(config or {})), Handler(loaded(target)).traits
    row = backend_row(tag, 1, parsed, traits, (0, ""), ())
    started = [ReplicaProcess(mini.folder, row, target, number) for number in range(count)]
    mini._backends[tag] = backend_row(tag, 1, parsed, traits, (0, ""), tuple(each.ready() for each in started))
    return started


def loaded(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def serve(spec: ReplicaSpec, target: str, far: Connection) -> None:
    """Run one replica: what `ReplicaActor` does, without Ray."""
    running: list[RunningReplica] = []

    def table(table: Any) -> None:
        for replica in running:
            replica.table(table)

    io = IOThread(
        instance=spec.instance, node=spec.node, run_dir=spec.run_dir, kind="replica", replica=spec.replica,
        on_table=table,
    )  # fmt: skip
    io.start()
    replica = RunningReplica(spec, Handler(loaded(target)), io, pickle.dumps, lambda _blob: None)
    running.append(replica)
    far.send(replica.unix)
    far.send(replica.run())
    far.poll(None)  # as Ray would, the controller decides when the process ends
