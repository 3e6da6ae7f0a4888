"""Classes that the cluster tests run as actors; a module, so that workers import them like any user's code."""

from __future__ import annotations

import asyncio
import os
import threading
import time

from rayserve.cluster import actors
from rayserve.cluster.actors import Actor


class OwnError(ValueError):
    """An exception class of a user."""


class Plain:
    """A sync actor."""

    def __init__(self, value: int = 0, fail: bool = False) -> None:
        if fail:
            raise OwnError("in the constructor")
        self.value = value

    def get(self) -> int:
        return self.value

    def about(self) -> dict[str, object]:
        with open("/proc/self/oom_score_adj") as score, open("/proc/self/cmdline") as title:
            return {
                "pid": os.getpid(),
                "nice": os.getpriority(os.PRIO_PROCESS, 0),
                "oom": int(score.read()),
                "title": title.read().rstrip("\0"),
                "main": threading.current_thread() is threading.main_thread(),
                "environment": dict(os.environ),
            }

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise OwnError("in a method")

    def hang(self) -> None:
        time.sleep(600)

    def pass_on(self, other: Actor, method: str) -> object:
        return actors.call(other, method, timeout_s=10.0)


class Evented:
    """An async actor."""

    async def pass_on(self, other: Actor, method: str) -> object:
        return await actors.await_call(other, method)

    async def main(self) -> bool:
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()
