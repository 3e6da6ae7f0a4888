"""What can go wrong between two processes, in few words instead of Ray's forty.

    ClusterError (rayserve.errors)
    ├── ActorGone     it is dead and stays dead, or could never be placed
    ├── ActorAway     it is restarting, or its node cannot be reached just now
    └── CallTimeout   no answer within the caller's own time

Exceptions raised *inside* an actor's method are none of these: they arrive as their own class.
"""

from __future__ import annotations

import re

from rayserve.errors import ClusterError, InvalidValueError, RayServeException

__all__ = ["ActorAway", "ActorGone", "CallTimeout", "translate"]


class ActorGone(ClusterError):
    """The actor died and will not come back, or could never be placed."""


class ActorAway(ClusterError):
    """The actor cannot be reached now but may come back: it restarts, or its node is cut off."""


class CallTimeout(ClusterError, TimeoutError):
    """The actor did not answer in time; it may still be working on the call."""


def translate(error: BaseException, who: str) -> BaseException:
    """Return what to raise instead of one of Ray's exceptions; any other error comes back as it is.

    Args:
        error: what Ray raised.
        who: whom or what we asked, for the message, e.g. `actor "rayserve:default:controller"`.
    """
    from ray import exceptions as ray_errors

    if isinstance(error, ray_errors.RayTaskError):
        return _from_inside(error, who)
    if isinstance(error, ray_errors.GetTimeoutError):
        return CallTimeout(f"{who} did not answer in time")
    if isinstance(error, ray_errors.ActorUnavailableError):
        return ActorAway(f"{who} cannot be reached now: {_plain(error)}")
    if isinstance(error, ray_errors.RayError) and isinstance(error, ValueError) and "taken" in str(error):
        return InvalidValueError(f"{who}: {_plain(error)}")
    if isinstance(error, (ray_errors.RayActorError, ray_errors.ActorUnschedulableError)):
        return ActorGone(f"{who} is gone: {_plain(error)}")
    if isinstance(error, ray_errors.RayError):
        return ClusterError(f"{who}: {type(error).__name__}: {_plain(error)}")
    return error


def _from_inside(error: BaseException, who: str) -> BaseException:
    """Return the exception that the actor's method raised, with the far traceback as a note if it is not ours."""
    cause = getattr(error, "cause", None)
    # The instance that `ray.get` raises has lost its attributes; its text still is the far traceback.
    trace = _plain(getattr(error, "traceback_str", "") or error)
    if not isinstance(cause, BaseException):
        return ClusterError(f"{who} failed:\n{trace}")
    translated = translate(cause, who)
    if translated is cause and not isinstance(cause, RayServeException) and trace:
        cause.add_note(f"raised in {who}:\n{trace}")
    return translated


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def _plain(text: object) -> str:
    """Return a message of Ray's without terminal colours and outer blank space."""
    return _COLOUR.sub("", str(text)).strip()
