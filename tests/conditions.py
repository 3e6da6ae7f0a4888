"""Waiting for something to become true, with an end: for what other processes do and no gate can tell."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

WITHIN_S = 10.0
_LOOK_EVERY_S = 0.005


def eventually(condition: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"not within {within_s:g} s: {what}"
        time.sleep(_LOOK_EVERY_S)


async def eventually_on_loop(condition: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(_LOOK_EVERY_S)


def is_gone(pid: int) -> bool:
    """Whether the process ended; a zombie has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False
