"""How a command ended, as it is kept and as it travels back to the caller.

controller: error ──► outcome_of ──► Outcome ── msgpack ──► caller: outcome.check() raises the error's own class
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from rayserve import errors
from rayserve.errors import RayServeException

__all__ = ["Outcome", "decode_outcome", "outcome_of"]

_log = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a command came to.

    Attributes:
        error: "" or the name of a class of `rayserve.errors`.
        text: the error's message.
    """

    error: str = ""
    text: str = ""

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self.error:
            kind: type[RayServeException] = getattr(errors, self.error, errors.ClusterError)
            raise kind(self.text)


def decode_outcome(data: bytes) -> Outcome:
    """Return the outcome in `data`."""
    return msgspec.msgpack.decode(data, type=Outcome)


def outcome_of(error: BaseException) -> Outcome:
    """Return an error as an outcome: the nearest class that callers know, and its text."""
    if isinstance(error, asyncio.CancelledError):
        return Outcome("CallCancelledError", "the command was cancelled")
    for kind in type(error).__mro__:
        if issubclass(kind, RayServeException) and getattr(errors, kind.__name__, None) is kind:
            return Outcome(kind.__name__, str(error))
    _log.error("a command failed in an unforeseen way", exc_info=error)
    return Outcome("ClusterError", f"the controller failed, its log has more: {type(error).__name__}: {error}")
