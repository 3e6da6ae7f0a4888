"""A Python value → JSON text, strictly: what JSON cannot say is an error that names it.

    to_json(value) ── msgspec ──► text ── contains "null"? ──► walk the value for NaN and Infinity

msgspec writes a NaN as `null` in silence. So a text without any `null` is known to be good, which costs
one substring search; only the others are looked through value by value. NumPy is never imported here:
a value can be of its types only if the user did that.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set, ValuesView
from datetime import date, time
from enum import Enum
from typing import Any, Final

import msgspec

from rayserve.errors import BadResultError

_KEYS: Final = {None: "null", True: "true", False: "false"}  # as the stdlib's json writes them

__all__ = ["to_json", "type_name"]

_NOT_FINITE: Final = "the result holds NaN or Infinity, which JSON cannot express; replace it, for example by None"
_WAYS_OUT: Final = (
    "return str, bytes, None, numbers, dict, list, a dataclass, a pydantic or msgspec model, "
    "a numpy array, or a response of Flask or Starlette"
)


def to_json(value: object) -> bytes:
    """Encode a value as JSON.

    Dataclasses, pydantic, msgspec and attrs models become objects; NumPy arrays, sets, tuples and other
    sequences arrays; dates, UUIDs and Decimals text; bytes base64; enums their value.

    Raises:
        BadResultError: a type that JSON has no word for, NaN or Infinity, text with lone surrogates,
            a value that contains itself.
    """
    try:
        text = _encode(value)
        if b"null" in text:
            _refuse_non_finite(value)
    except BadResultError:
        raise
    except RecursionError:
        raise BadResultError("the result is nested too deeply for JSON, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise BadResultError(f"the result cannot be encoded as JSON: {error}") from error
    return text


def type_name(value: object) -> str:
    """Return the full name of a value's type, without `builtins.`."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _plain(value: Any) -> Any:
    """Turn a value whose type msgspec does not know into one that it does; one level is enough.

    msgspec also asks about the keys of dicts, and about some types only then.
    """
    if value is None or value is True or value is False:
        return _KEYS[value]
    if (dump := getattr(type(value), "model_dump", None)) is not None:  # pydantic, which keeps NaN as it is
        return dump(value, mode="json")
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _from_numpy(numpy, value)
    if isinstance(value, str):
        return str.__str__(value)  # a subclass may have its own idea of str()
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, (date, time)):  # subclasses, such as pandas.Timestamp
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, frozenset)) or _fields(type(value)) is not None:
        raise BadResultError(f"a dict key of type {type_name(value)} cannot be encoded as JSON; make it a str")
    if isinstance(value, (Sequence, Set, ValuesView, deque)):
        return list(value)
    raise BadResultError(f"a result of type {type_name(value)} cannot be encoded as JSON{_hint(value)}")


def _hint(value: object) -> str:
    if isinstance(value, BaseException):
        return "; raise it instead of returning it"
    if hasattr(value, "__await__"):
        return "; await it and return what it gives"
    for method in ("tolist", "to_dict"):
        if hasattr(value, method):
            return f"; return its .{method}()"
    return f"; {_WAYS_OUT}"


def _from_numpy(numpy: Any, value: Any) -> Any:
    """Return the Python value of an array or scalar; floats are checked here, where it is quick."""
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "f":
        if not numpy.isfinite(value).all():
            raise BadResultError(_NOT_FINITE)
        if size > 8:  # tolist() of a long double gives long doubles
            value = value.astype("float64")
    elif kind in "mM":
        value = value.astype(f"{kind}8[us]")  # tolist() of nanoseconds gives bare integers
    return value.tolist()


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def _refuse_non_finite(value: object) -> None:
    """Look through a value that msgspec has encoded, so has no cycles, for a NaN or an Infinity."""
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is float:
            if item - item != 0.0:  # true of NaN and both infinities alone
                raise BadResultError(_NOT_FINITE)
        elif kind is dict:
            waiting.extend(item.values())
        elif kind is list or kind is tuple:
            waiting.extend(item)
        elif kind is not str and kind is not int and item is not None and kind is not bool:
            waiting.extend(_children(item))


def _children(value: Any) -> Iterable[Any]:
    """Return what a value's JSON is made of, one level down; nothing for those written as text."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, Enum):
        return (value.value,)
    fields = _fields(type(value))
    if fields is not None:
        return [getattr(value, name) for name in fields if hasattr(value, name)]
    dtype_kind = getattr(getattr(value, "dtype", None), "kind", "O")
    if isinstance(value, (bytes, bytearray, memoryview)) or dtype_kind not in "OV":
        return ()  # text, or numbers that the hook has seen
    try:
        made = _plain(value)
    except BadResultError:
        return ()  # a type of msgspec's own that is written as text: a date, a UUID, …
    return (made,) if isinstance(made, (float, list, tuple, dict)) else ()


def _fields(kind: type) -> Iterable[str] | None:
    """Return the field names of a dataclass, msgspec or attrs class; None for any other."""
    if (names := getattr(kind, "__struct_fields__", None)) is not None:
        return tuple(names)
    if (dataclass := getattr(kind, "__dataclass_fields__", None)) is not None:
        return tuple(dataclass)
    if (attrs := getattr(kind, "__attrs_attrs__", None)) is not None:
        return tuple(attribute.name for attribute in attrs)
    return None
