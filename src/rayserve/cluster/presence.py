"""Whether this process has Ray, and the one way other modules of this room get hold of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from rayserve.cluster.errors import translate
from rayserve.cluster.thread import KeptThread
from rayserve.errors import ClusterError

__all__ = ["NAMESPACE", "ask", "is_connected", "live_ray"]

NAMESPACE = "rayserve"

T = TypeVar("T")

_ASKING = KeptThread("rayserve-ask-ray")


def is_connected() -> bool:
    """Return whether this process is connected to Ray; never imports or contacts it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def live_ray() -> ModuleType:
    """Return the module `ray`, connected.

    Raises:
        ClusterError: it is not. Without this check Ray would quietly start a cluster of its own.
    """
    if not is_connected():
        raise ClusterError("this process is not connected to Ray; call serve.init() first")
    import ray

    return ray


def ask(question: Callable[[], T], what: str, timeout_s: float) -> T:
    """Return the answer to a question that Ray itself would wait on for ever (its control store may be dead).

    Raises:
        ClusterError: no answer within `timeout_s`, or Ray's own error.
    """
    try:
        return _ASKING.run(question, timeout_s)
    except TimeoutError as error:
        raise ClusterError(f"Ray did not answer within {timeout_s:g} s: {what}; is its head node alive?") from error
    except Exception as error:
        translated = translate(error, what)
        if translated is error:
            raise
        raise translated from None
