"""`accept_batch`, and what a batch handler may return.

    @serve.accept_batch ──► mark on the function ──► replica reads it with batch_of
    handler(list of requests) ──► result ──► split_results ──► one result per request

The decorator only marks: the function stays the same object and can be called as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from inspect import isclass, isroutine
from itertools import islice
from typing import Any, TypeVar, overload

import msgspec

from rayserve.encoding import type_name
from rayserve.errors import BadResultError, InvalidTypeError

__all__ = ["BatchMark", "accept_batch", "batch_of", "split_results"]

_MARK = "__serve_batch__"
_WHERE = "put @serve.accept_batch on a function, or on __call__ or another method of the class"

F = TypeVar("F", bound=Callable[..., Any])


class BatchMark(msgspec.Struct, frozen=True):
    """What `accept_batch` leaves on a function.

    Attributes:
        key: of a request; requests with different keys never share a batch. None: all may.
    """

    key: Callable[[Any], object] | None = None


@overload
def accept_batch(func: F, /) -> F: ...
@overload
def accept_batch(*, key: Callable[[Any], object] | None = None) -> Callable[[F], F]: ...
def accept_batch(func: Any = None, /, *, key: Callable[[Any], object] | None = None) -> Any:
    """Mark a function or method as one that takes a list of requests and returns a list of results.

    Used bare (`@serve.accept_batch`) or with a key (`@serve.accept_batch(key=lambda request: …)`).
    How many requests a batch may hold is said by `max_batch_size` in the backend's config. A generator function yields
    lists instead, one item per request each time, and every caller gets the stream of its items.

    Args:
        func: the function; it is marked and returned as it is.
        key: maps one request to a hashable value; only requests of equal value share a batch.

    Raises:
        TypeError: `func` is a class, an instance or not callable; or `key` is not callable.
    """
    if key is not None and not callable(key):
        raise InvalidTypeError(f"accept_batch(key=…) takes a function of one request, got {type_name(key)}")
    mark = BatchMark(key)
    if func is None:
        return lambda func: _mark(func, mark)
    return _mark(func, mark)


def batch_of(func: object) -> BatchMark | None:
    """Return the mark of a function or (bound) method; None if it takes single requests."""
    mark = getattr(func, _MARK, None)
    return mark if isinstance(mark, BatchMark) else None


def split_results(result: Any, size: int) -> list[Any]:
    """Take a batch handler's result apart, one item per request and in their order.

    Args:
        result: any iterable but text, bytes, mappings, sets and models; a generator that was returned is run here.
        size: number of requests in the batch.

    Raises:
        BadResultError: not such an iterable, or not `size` items.
    """
    if type(result) is list:
        items = result
    elif isinstance(result, (str, bytes, bytearray, memoryview, Mapping, Set)) or hasattr(result, "model_dump"):
        raise BadResultError(_not_a_list(result, size))
    else:
        items = _take(result, size)
    if len(items) != size:
        count = f"more than {size}" if len(items) > size and items is not result else str(len(items))
        raise BadResultError(
            f"the handler's result doesn't preserve batch size: {count} results for {size} requests; "
            "return exactly one result per request, in order"
        )
    return items


def _take(result: Any, size: int) -> list[Any]:
    """Return at most one item more than `size`: a generator may have no end."""
    try:
        iterator = iter(result)
    except TypeError:
        raise BadResultError(_not_a_list(result, size)) from None
    return list(islice(iterator, size + 1))


def _not_a_list(result: object, size: int) -> str:
    return (
        f"a batch handler must return an ordered iterable of results, one per request, for its {size} requests; "
        f"it returned {type_name(result)}; return a list"
    )


def _mark(func: Any, mark: BatchMark) -> Any:
    if isclass(func):
        raise InvalidTypeError(f"accept_batch cannot mark the class {func.__qualname__}; {_WHERE}")
    # A class sees the function inside a static or class method, so that is what must carry the mark.
    target = func.__func__ if isinstance(func, (staticmethod, classmethod)) else func
    if not callable(target):
        raise InvalidTypeError(f"accept_batch cannot mark a value of type {type_name(func)}; {_WHERE}")
    if not isroutine(target) and not isinstance(target, partial):
        raise InvalidTypeError(f"accept_batch cannot mark an instance of {type_name(func)}; {_WHERE}")
    try:
        setattr(target, _MARK, mark)
    except AttributeError:  # a builtin or a bound method
        raise InvalidTypeError(f"accept_batch cannot mark {func!r}; {_WHERE}") from None
    return func
