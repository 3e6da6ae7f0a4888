"""Python objects as bytes, and helpful words when that cannot be.

User code and its arguments leave the driver as bytes: what is importable travels by name, what is not
(lambdas, classes of a script or notebook) by value. Loading happens in a process that may lack modules.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import sys
from types import FunctionType
from typing import Any

from rayserve.annotations import declared, replace
from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.imports import TO_SHIP

__all__ = ["by_value", "check_picklable", "pickle", "unpickle"]

_SHOWN_BYTES = 300
_IN_CONSTRUCTOR = (
    "create such objects (locks, files, connections, clients) in the constructor on the replica, "
    "or pass what makes them"
)


def pickle(value: Any, what: str, instead: str = _IN_CONSTRUCTOR) -> bytes:
    """Return `value` as bytes that any process of the cluster can load.

    Args:
        value: code, arguments, a config.
        what: how a message calls it, e.g. `backend "resnet"`.
        instead: the way out that a message proposes.

    Raises:
        InvalidTypeError: it cannot be pickled; the message names the offending part and the way out.
    """
    try:
        data = by_value(value)
    except Exception as error:  # a __reduce__ of user code may raise anything
        raise InvalidTypeError(
            f"{what} cannot be pickled: {_culprit(value)}: {_first_line(error)}; {instead}"
        ) from error
    return data


def unpickle(data: bytes, what: str) -> Any:
    """Return the object in `data`, which must come from `pickle`.

    Args:
        data: the bytes.
        what: how a message calls it.

    Raises:
        InvalidValueError: a module it needs cannot be imported here; the message names it and the way out.
        Exception: what the object's own unpickling raised.
    """
    from ray import cloudpickle

    try:
        return cloudpickle.loads(data)
    except ModuleNotFoundError as error:
        raise InvalidValueError(
            f'{what} needs the module "{error.name}", which cannot be imported on the replica; {TO_SHIP}'
        ) from error


def check_picklable(values: tuple[Any, ...], what: str) -> None:
    """Raise `InvalidTypeError` if one of `values` cannot be pickled; `what` names them."""
    for value in values:
        pickle(value, what)


def _culprit(value: Any) -> str:
    """Return words for the innermost part found that cannot be pickled, e.g. `the attribute "db", item 0 is a lock`."""
    way, part = [], value
    for _ in range(10):  # depth; a deeper nest is named by its tenth level
        for label, child in _parts(part):
            try:
                by_value(child)
            except Exception:  # this is the question asked, not a failure
                way.append(label)
                part = child
                break
        else:
            break
    return f"{', '.join(way) or 'it'} is a {type(part).__name__}"


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return the named parts of a function, class, container or object that are pickled with it."""
    if isinstance(value, dict):
        return [(f"the value at {key!r}", item) for key, item in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(f"item {index}", item) for index, item in enumerate(value)]
    code = getattr(value, "__code__", None)
    if code is not None:
        used = [(f'the global "{n}"', value.__globals__[n]) for n in code.co_names if n in value.__globals__]
        captured = inspect.getclosurevars(value).nonlocals
        return used + [(f'the captured variable "{n}"', part) for n, part in captured.items()]
    names = getattr(value, "__dict__", {})
    kind = "class attribute" if isinstance(value, type) else "attribute"
    return [
        (f'the {kind} "{name}"', part) for name, part in names.items() if not name.startswith("__") or callable(part)
    ]


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:_SHOWN_BYTES]


def by_value(value: Any, **options: Any) -> bytes:
    """Return `value` pickled with what `__main__` defines carried along; `options` are those of `pickle.dumps`."""
    from ray import cloudpickle

    if sys.version_info < (3, 14):
        data: bytes = cloudpickle.dumps(value, **options)  # type: ignore[no-untyped-call]
        return data
    with io.BytesIO() as file, contextlib.ExitStack() as undo:
        _pickler()(file, undo, **options).dump(value)
        return file.getvalue()


@functools.cache
def _pickler() -> Any:
    """Return cloudpickle's pickler, made to pass over annotations that cannot be evaluated; see `annotations`."""
    from ray import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def __init__(self, file: io.BytesIO, undo: contextlib.ExitStack, **options: Any) -> None:
            super().__init__(file, **options)  # type: ignore[no-untyped-call]
            self._undo = undo

        def reducer_override(self, found: Any) -> Any:
            if isinstance(found, FunctionType):
                try:
                    _ = found.__annotations__
                except Exception:  # expressions of the user's may raise anything
                    self._undo.callback(replace(found, declared(found)))
            return super().reducer_override(found)  # type: ignore[no-untyped-call]

    return Pickler
