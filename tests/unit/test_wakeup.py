"""Coroutines that other threads wake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from unittest.mock import Mock

import pytest
import uvloop

from rayserve.wakeup import wakeable


def _wake(pairs: Iterable[tuple[object, Callable[[], None]]]) -> None:
    for _, wake in pairs:
        wake()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_many_threads_wake_many_coroutines(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        pairs = [wakeable() for _ in range(400)]
        threads = [
            threading.Thread(target=lambda part: [wake() for _, wake in part], args=(pairs[at::4],)) for at in range(4)
        ]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(20):
            await asyncio.gather(*(future for future, _ in pairs))
        for thread in threads:
            thread.join()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def test_the_loop_is_called_once_for_all_that_were_woken_before_its_turn() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pairs = [wakeable() for _ in range(3)]
        called = Mock(wraps=loop.call_soon_threadsafe)
        loop.call_soon_threadsafe = called  # type: ignore[method-assign]
        waker = threading.Thread(target=_wake, args=(pairs,))
        waker.start()
        waker.join()
        assert called.call_count == 1
        async with asyncio.timeout(20):
            await asyncio.gather(*(future for future, _ in pairs))

    asyncio.run(main())


def test_on_the_loops_own_thread_it_is_at_once() -> None:
    async def main() -> None:
        future, wake = wakeable()
        wake()
        assert future.done()
        wake()

    asyncio.run(main())


def test_waking_what_is_cancelled_or_whose_loop_is_closed_is_harmless() -> None:
    kept: list[Callable[[], None]] = []

    async def main() -> None:
        future, wake = wakeable()
        future.cancel()
        thread = threading.Thread(target=wake)
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        assert future.cancelled()
        kept.append(wakeable()[1])

    asyncio.run(main())
    kept[0]()
    kept[0]()
    asyncio.run(main())  # another loop of the same thread
