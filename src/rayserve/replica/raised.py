"""User exceptions on their way to a Python caller: as their own class, wherever that can be.

pickled(error) ─► bytes that are known to load ─► CallResult raises it
                  as it is, else class + args + attributes, else class + args, else a UserCodeError with its text
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from rayserve.errors import UserCodeError

__all__ = ["pickled"]


def pickled(error: BaseException, by_value: Callable[..., bytes]) -> bytes:
    """Return `error` pickled; what could end or confuse the caller's process becomes a `UserCodeError`.

    Args:
        error: what user code raised.
        by_value: a pickler like `cloudpickle.dumps`.
    """
    if isinstance(error, Exception):  # a SystemExit must not end the caller's process
        for form in (error, _Taken(error, keep=True), _Taken(error, keep=False)):
            try:
                data = by_value(form, protocol=5)
                if _alike(pickle.loads(data), error):
                    return data
            except BaseException:  # a reducer may even exit; the next form holds less
                continue
    return pickle.dumps(UserCodeError(f"the handler raised {type(error).__name__}: {_text(error)}"), protocol=5)


class _Taken:
    """Pickles as an exception that is rebuilt without its constructor, which may want other arguments than `args`."""

    def __init__(self, error: Exception, keep: bool) -> None:
        self._error = error
        self._keep = keep

    def __reduce__(self) -> tuple[Any, ...]:
        error = self._error
        return _rebuilt, (type(error), error.args if self._keep else (_text(error),), vars(error) if self._keep else {})


def _rebuilt(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


def _alike(loaded: object, error: Exception) -> bool:
    """Whether pickling kept what matters; a constructor that decorates its message would do so twice."""
    if type(loaded).__qualname__ != type(error).__qualname__ or not isinstance(loaded, Exception):
        return False
    try:
        return bool(loaded.args == error.args) or _text(loaded) == _text(error)
    except BaseException:  # arrays, for one, do not compare to one truth
        return True


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # its own __str__ raises
        return "(it has no text)"
