"""The arguments of a Python call on their way out: what stands for a value becomes it, then all becomes bytes.

args, kwargs ─► awaited (results of other calls, references) ─► packed ─► sizes and buffers
"""

from __future__ import annotations

import sys
from typing import Any, Final

from rayserve.call_result import CallResult
from rayserve.cluster.objects import holds_object_ref, is_object_ref, resolve
from rayserve.cluster.pickling import by_value
from rayserve.errors import InvalidTypeError, RayServeException
from rayserve.wire import values

__all__ = ["are_ready", "awaited", "packed"]

_REFERENCES: Final = (b"ObjectRef", b"_object_ref_")  # how a pickle names what makes one, by plain pickle and by ray's


def are_ready(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether none of the arguments stands for a value that has to be waited for."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, CallResult) or is_object_ref(value):
            return False
    return True


async def awaited(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with the values of those that stand for one.

    Raises:
        Exception: what a call among them raised, or the task behind a reference.
    """
    ready = [await _value(value) for value in args]
    return tuple(ready), {name: await _value(value) for name, value in kwargs.items()}


async def _value(argument: Any) -> Any:
    if isinstance(argument, CallResult):
        return await argument
    return await resolve(argument) if is_object_ref(argument) else argument


def packed(endpoint: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[int], list[bytes | memoryview]]:
    """Return the arguments pickled, as `wire.values` has it.

    Raises:
        InvalidTypeError: one cannot be pickled, or holds a `CallResult` or an `ObjectRef`.
    """
    try:
        sizes, parts = values.pack((args, kwargs), by_value)
        may_refer = _may_refer(parts[0])
    except RayServeException:
        raise
    except Exception as error:
        _refuse_references(args, kwargs)  # Ray refuses some of them itself, in words that help nobody here
        raise InvalidTypeError(
            f"an argument of the call to endpoint {endpoint!r} cannot be pickled: {error}"
        ) from error
    if may_refer:
        _refuse_references(args, kwargs)
    return sizes, parts


def _refuse_references(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse references within arguments: pickled outside of Ray's calls, one would keep its value for ever."""
    if "ray" in sys.modules and holds_object_ref((args, kwargs)):
        raise InvalidTypeError(
            "an ObjectRef can be an argument, not part of one; pass it as a top-level argument, or ray.get it first"
        )


def _may_refer(pickled: bytes | memoryview) -> bool:
    data = bytes(pickled)
    return _REFERENCES[0] in data or _REFERENCES[1] in data
