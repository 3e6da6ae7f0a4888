"""Options given by users, checked by pydantic, with errors that are ours.

    keywords or a dict ──► Checked subclass ──► frozen value ──► to_plain (checkpoint, JSON) ──► from_plain

pydantic's ValidationError never leaves: a wrong type is `InvalidTypeError`, a wrong value or an unknown key
`InvalidValueError`, each naming the option.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, KeysView, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rayserve.errors import InvalidTypeError, InvalidValueError, RayServeException
from rayserve.names import did_you_mean

__all__ = ["Checked", "merged", "parsed"]

C = TypeVar("C", bound="Checked")

_TYPES = {
    "bool_type": "True or False",
    "float_type": "a number",
    "int_type": "an int",
    "string_type": "a str",
}
_LIMITS = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:,.0f}",
    "finite_number": "must be finite",
}


class Checked(BaseModel):
    """A frozen set of options; `options["name"]` works as `options.name` does."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        """Check all options.

        Raises:
            InvalidTypeError: an option has a value of the wrong type.
            InvalidValueError: an unknown option, or a value that cannot be.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _ours(type(self), error) from None

    def to_plain(self) -> dict[str, Any]:
        """Return all options as numbers, strings, lists, bools and None: what JSON and msgpack can carry."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._values().items()}

    def to_brief(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as plain values; `from_plain` takes them too."""
        fields = type(self).model_fields
        return {name: value for name, value in self.to_plain().items() if value != fields[name].default}

    @classmethod
    def from_plain(cls: type[C], plain: Mapping[str, Any]) -> C:
        """Return the options that `to_plain` made `plain` from; options it lacks get their defaults."""
        return cls(**plain)

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in type(self).model_fields

    def keys(self) -> KeysView[str]:
        """Return the names of all options; with indexing this lets `dict(options)` and `**options` work."""
        return type(self).model_fields.keys()

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        # Only what differs from the default: what a user would have to write to get the same.
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None if field.default is None else value != field.default:
                yield name, _Shown(value)

    def __str__(self) -> str:
        return repr(self)

    if not TYPE_CHECKING:  # a type checker must go on refusing assignments

        def __setattr__(self, name: str, value: object) -> None:
            raise InvalidTypeError(f"cannot set {name}: a {type(self).__name__} is frozen; make a new one")

        def __delattr__(self, name: str) -> None:
            raise InvalidTypeError(f"cannot delete {name}: a {type(self).__name__} is frozen; make a new one")


class _Shown:
    """A value in a repr, cut short."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return reprlib.repr(self._value)


def parsed(kind: type[C], options: object, called: str = "config") -> C:
    """Return `options` as a checked `kind`: None is the defaults, a dict is read, never changed.

    Args:
        kind: the class wanted.
        options: what the user gave.
        called: the argument's name, said in messages.

    Raises:
        InvalidTypeError: `options` is neither, or an option has the wrong type.
        InvalidValueError: an unknown option, or a value that cannot be.
    """
    return kind(**({} if options is None else _named(kind, options, called)))


def merged(old: C, changes: object, called: str = "config") -> C:
    """Return `old` with the options named in `changes`, the whole checked again.

    Of a `Checked` value those count as named that it was made with.

    Raises:
        InvalidTypeError: `changes` is neither a dict nor of `old`'s class, or an option has the wrong type.
        InvalidValueError: an unknown option, or a value that cannot be, alone or beside the old ones.
    """
    return type(old)(**{**old._values(), **_named(type(old), changes, called)})


def _named(kind: type[Checked], options: object, called: str) -> dict[str, Any]:
    if isinstance(options, kind):
        return {name: getattr(options, name) for name in options.model_fields_set}
    if not isinstance(options, dict):
        got = f"{reprlib.repr(options)} ({type(options).__name__})"
        raise InvalidTypeError(f"{called} must be a dict or a {kind.__name__}, got {got}")
    for name in options:
        if not isinstance(name, str):
            raise InvalidTypeError(f"{called} must name options by str, got {name!r} ({type(name).__name__})")
    return options


def _ours(kind: type[Checked], error: ValidationError) -> RayServeException:
    """Return the first of pydantic's complaints in our words."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    if isinstance(raised := context.get("error"), RayServeException):
        return raised
    name = str(first["loc"][0]) if first["loc"] else kind.__name__
    value, problem = first["input"], first["type"]
    shown = reprlib.repr(value)
    if problem == "extra_forbidden":
        return InvalidValueError(
            f'unknown option "{name}" for {kind.__name__}; {did_you_mean(name, kind.model_fields)}'
        )
    if problem in _LIMITS:
        return InvalidValueError(f"{name} {_LIMITS[problem].format(**context)}, got {shown}")
    if problem == "float_type" and isinstance(value, int) and not isinstance(value, bool):
        return InvalidValueError(f"{name} must be a number a float can hold, got {shown}")
    if problem == "literal_error" and isinstance(value, str):
        return InvalidValueError(f"{name} must be {context['expected']}, got {shown}")
    wanted = _TYPES.get(problem) or context.get("expected") or first["msg"]
    return InvalidTypeError(f"{name} must be {wanted}, got {shown} ({type(value).__name__})")
