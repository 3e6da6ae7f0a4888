"""The world as the control plane sees it: a store, nodes, processes. A protocol, so that tests can be the world.

`RayShell` is the real one: it hands each question to `rayserve.cluster`, off the event loop where that blocks.
"""

from __future__ import annotations

import asyncio
import importlib
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from rayserve.cluster import actors, store
from rayserve.cluster import nodes as cluster_nodes
from rayserve.cluster.actors import Actor
from rayserve.cluster.nodes import Node

__all__ = ["RayShell", "Shell"]

T = TypeVar("T")

# By name: the control plane starts these processes but never imports what they run on.
_KINDS: Final = {
    "replica": "rayserve.replica.actor:ReplicaActor",
    "doorkeeper": "rayserve.controller.doorkeeper:Doorkeeper",
}
_BLOB_TIMEOUT_S: Final = 30.0


class Shell(Protocol):
    """Every effect the control plane can have. Errors are those of `rayserve.cluster.errors`."""

    async def put(self, key: str, value: bytes, *, overwrite: bool = True) -> None:
        """Write a value to the store; with `overwrite=False` an old one stays."""

    async def get(self, key: str) -> bytes | None:
        """Return a value of the store."""

    async def delete(self, key: str) -> None:
        """Remove a key from the store."""

    async def keys(self, prefix: str) -> list[str]:
        """Return the store's keys that begin with `prefix`."""

    async def nodes(self) -> list[Node]:
        """Return the living nodes."""

    async def available(self, node: str) -> dict[str, float]:
        """Return what is free on a node now."""

    async def spawn(self, kind: str, name: str, node: str, options: Mapping[str, Any], *args: Any) -> Actor:
        """Ask for a new process of that kind ("replica" or "doorkeeper")."""

    async def find(self, name: str) -> Actor | None:
        """Return the process of that name."""

    async def names(self, prefix: str) -> list[str]:
        """Return the names of all processes that begin with `prefix`."""

    async def call(self, actor: Actor, method: str, *args: Any) -> Any:
        """Call a method of a process and await its result."""

    async def kill(self, actor: Actor) -> None:
        """End a process at once."""

    def fresh(self) -> str:
        """Return six hex digits that no other replica of this tag has had."""


class RayShell:
    """The world as Ray has it."""

    def __init__(self) -> None:
        """Start a thread for questions that block; one, so that writes to the store keep their order."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rayserve-store")

    async def _ask(self, question: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(question, *args, **kwargs))

    async def put(self, key: str, value: bytes, *, overwrite: bool = True) -> None:
        """See `Shell`."""
        await self._ask(store.put, key, value, _BLOB_TIMEOUT_S, overwrite=overwrite)

    async def get(self, key: str) -> bytes | None:
        """See `Shell`."""
        return await self._ask(store.get, key, _BLOB_TIMEOUT_S)

    async def delete(self, key: str) -> None:
        """See `Shell`."""
        await self._ask(store.delete, key)

    async def keys(self, prefix: str) -> list[str]:
        """See `Shell`."""
        return await self._ask(store.keys, prefix)

    async def nodes(self) -> list[Node]:
        """See `Shell`."""
        return [node for node in await self._ask(cluster_nodes.nodes) if node.alive]

    async def available(self, node: str) -> dict[str, float]:
        """See `Shell`."""
        return await self._ask(cluster_nodes.available, node)

    async def spawn(self, kind: str, name: str, node: str, options: Mapping[str, Any], *args: Any) -> Actor:
        """See `Shell`."""
        module, _, attribute = _KINDS[kind].partition(":")
        cls = getattr(importlib.import_module(module), attribute)
        return await self._ask(
            actors.spawn, cls, *args, name=name, node=node, options=options, title=f"rayserve::{kind}"
        )

    async def find(self, name: str) -> Actor | None:
        """See `Shell`."""
        return await self._ask(actors.find, name)

    async def names(self, prefix: str) -> list[str]:
        """See `Shell`."""
        return await self._ask(actors.names, prefix)

    async def call(self, actor: Actor, method: str, *args: Any) -> Any:
        """See `Shell`."""
        return await actors.await_call(actor, method, *args)

    async def kill(self, actor: Actor) -> None:
        """See `Shell`."""
        await self._ask(actors.kill, actor)

    def fresh(self) -> str:
        """See `Shell`."""
        return secrets.token_hex(3)
