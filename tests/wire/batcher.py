"""Batch handlers of every kind, that can be held and keep what they saw."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from tests.wire.mini import Mini

from rayserve.batching import accept_batch
from rayserve.context import context

KINDS = ["sync", "threads", "async"]
ONE_AT_A_TIME = ["sync", "async"]
CONFIG: dict[str, dict[str, Any]] = {"sync": {}, "threads": {"max_concurrency": 2}, "async": {}}


class Batcher:
    """Runs `function` on each batch, in the way of its kind; keeps what it saw; can be held."""

    def __init__(self, kind: str, function: Callable[[list[Any]], Any], key: Any = None) -> None:
        self.batches: list[list[Any]] = []
        self.contexts: list[tuple[Any, ...]] = []
        self.began, self.gate = threading.Semaphore(0), threading.Event()
        self.gate.set()

        def run(items: list[Any]) -> Any:
            self.batches.append(list(items))
            self.contexts.append((context.batch_size, context.request_id, context.endpoint, context.deadline))
            self.began.release()

        def sync(items: list[Any]) -> Any:
            run(items)
            assert self.gate.wait(20)
            return function(items)

        async def awaited(items: list[Any]) -> Any:
            run(items)
            async with asyncio.timeout(20):
                while not self.gate.is_set():
                    await asyncio.sleep(0.001)
            return function(items)

        code = awaited if kind == "async" else sync
        self.code = accept_batch(key=key)(code) if key is not None else accept_batch(code)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    def wait(self) -> None:
        assert self.began.acquire(timeout=10)


def serve(mini: Mini, kind: str, batcher: Batcher, **config: Any) -> Any:
    mini.backend("b", batcher.code, {**CONFIG[kind], "max_concurrent_queries": 64, **config})
    mini.endpoint("e", "/e", {"b": 1.0}).publish()
    (replica,) = mini.replicas.values()
    return replica
